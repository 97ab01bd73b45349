"""Start-up times of the command: medians over repeated calls, after one to warm the caches.

python benchmarks/startup.py
"""

from __future__ import annotations

import statistics
import subprocess
import sys
import time
from pathlib import Path

REPEATS = 15
COMMAND = Path(sys.executable).with_name("qvl-run")
CALLS = {
    "qvl-run --help": ["--help"],
    "qvl-run validate cpu_quickstart": ["validate", "cpu_quickstart"],
    "qvl-run validate t4_full_pipeline": ["validate", "t4_full_pipeline"],
    "qvl-run plan t4_full_pipeline --assume t4": ["plan", "t4_full_pipeline", "--assume", "t4"],
}


def seconds(arguments: list[str]) -> float:
    began = time.perf_counter()
    subprocess.run([COMMAND, *arguments], check=True, capture_output=True)
    return time.perf_counter() - began


def main() -> None:
    for name, arguments in CALLS.items():
        seconds(arguments)
        times = [seconds(arguments) for _ in range(REPEATS)]
        print(f"{name}: median {statistics.median(times):.3f} s, slowest {max(times):.3f} s")


if __name__ == "__main__":
    main()
