"""Start-up times of the command: medians over repeated calls, after one to warm the caches.

python benchmarks/startup.py
"""

from __future__ import annotations

import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

REPEATS = 15
COMMAND = [sys.executable, "-m", "qvl_run"]
CALLS = {
    "qvl-run --help": ["--help"],
    "qvl-run validate cpu_quickstart": ["validate", "cpu_quickstart"],
    "qvl-run validate t4_full_pipeline": ["validate", "t4_full_pipeline"],
    "qvl-run plan t4_full_pipeline --assume t4": ["plan", "t4_full_pipeline", "--assume", "t4"],
    "qvl-run doctor": ["doctor"],
}


LINES = 2000


def long_job(path: Path) -> Path:
    """A job of `LINES` lines: stages of ten lines each."""
    text = "version: 1\nname: long\nmodel: {name: qvl-tiny}\nstages:\n"
    for number in range((LINES - 4) // 10):
        text += f"""  stage{number}:
    uses: sft
    data:
      format: spatial_scenes
      with:
        size: {100 + number}
    training:
      learning_rate: 1e-4
      save_steps: 5
      seed: {number}
"""
    path.write_text(text, encoding="utf-8")
    return path


def seconds(arguments: list[str]) -> float:
    began = time.perf_counter()
    subprocess.run([*COMMAND, *arguments], check=True, capture_output=True)
    return time.perf_counter() - began


def main() -> None:
    with tempfile.TemporaryDirectory() as folder:
        path = long_job(Path(folder) / "long.yaml")
        measure(CALLS | {f"qvl-run validate, {LINES} lines": ["validate", str(path)]})


def measure(calls: dict[str, list[str]]) -> None:
    for name, arguments in calls.items():
        seconds(arguments)
        times = [seconds(arguments) for _ in range(REPEATS)]
        print(f"{name}: median {statistics.median(times):.3f} s, slowest {max(times):.3f} s")


if __name__ == "__main__":
    main()
