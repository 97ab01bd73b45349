"""Two runs side by side on one CPU, against one alone: what threads that wait awake cost the neighbour.

    python benchmarks/side_by_side.py [STEPS]

Each is the first stage of the quickstart, on a machine that is otherwise quiet. Told is what a step takes beside
another run, as a multiple of what it takes alone: with what `qvl-run` sets for OpenMP, and with OpenMP's own default.
On as many cores as there are threads, 2 would be fair.
"""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

DEFAULT = {"GOMP_SPINCOUNT": "300000"}
"""libgomp's own."""


def main(steps: int) -> None:
    for name, env in (("as qvl-run sets it", {}), ("OpenMP's default", DEFAULT)):
        alone, beside = seconds(1, steps, env), seconds(2, steps, env)
        print(
            f"{name}: {alone:.3f} s a step alone, {beside:.3f} s beside another run: {beside / alone:.1f} times",
            flush=True,
        )


def seconds(runs: int, steps: int, env: dict[str, str]) -> float:
    """Seconds of a step, in the mean of so many runs at once."""
    command = [
        *(sys.executable, "-m", "qvl_run", "cpu_quickstart", "--stage", "sft"),
        *("--set", "evaluation=!reset", "--set", f"stages.sft.training.max_steps={steps}"),
        *("--set", f"stages.sft.training.save_steps={steps}"),
    ]
    with tempfile.TemporaryDirectory() as folder:
        places = [Path(folder) / str(number) for number in range(runs)]
        for place in places:
            place.mkdir()
        started = [
            subprocess.Popen(
                command, cwd=place, env={**os.environ, **env}, stdout=subprocess.DEVNULL
            )
            for place in places
        ]
        for one in started:
            if one.wait() != 0:
                sys.exit(f"qvl-run ended with {one.returncode}")
        return statistics.mean(_step(place) for place in places)


def _step(place: Path) -> float:
    (output,) = place.glob("qvl-runs/*/checkpoints/sft/final*/manifest.json")
    facts = json.loads(output.read_text(encoding="utf-8"))["facts"]
    return float(facts["loop_seconds"] / facts["loop_steps"])


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 60)
