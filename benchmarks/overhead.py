"""What the runner costs: the quickstart's training under `qvl-run`, against three bare TRL scripts.

Both sides train the same three stages on the same rows with the same settings, each stage in a process of its own,
imports and start-up counted, evaluation on neither side. The sides take turns, so that a machine that slows down
slows both; the figure is the median of the ratios within a round.

    python benchmarks/overhead.py [ROUNDS]
"""

from __future__ import annotations

import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from ruamel.yaml import YAML

from qvl_run import plugins, resources
from qvl_run.settings import DataSettings
from qvl_run.spec.load import load_job

BARE = Path(__file__).parent / "bare"
STAGES = ("sft", "dpo", "grpo")
KINDS = {"sft": "sft", "dpo": "preference", "grpo": "prompt"}


def main(rounds: int) -> None:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        data = write_data(folder / "data")
        job = write_job(folder / "job.yaml", data)
        ratios = []
        for number in range(1, rounds + 1):
            sides = {"bare": lambda: bare(folder, data), "runner": lambda: runner(folder, job)}
            order = sorted(sides, reverse=number % 2 == 0)
            seconds = {name: sides[name]() for name in order}
            ratios.append(seconds["runner"] / seconds["bare"])
            print(
                f"round {number}: bare {seconds['bare']:.1f} s, runner {seconds['runner']:.1f} s, "
                f"ratio {ratios[-1]:.3f}, adapters after DPO differ by at most {difference(folder):.1e}",
                flush=True,
            )
        print(f"median ratio of {rounds} rounds: {statistics.median(ratios):.3f}")


def write_data(folder: Path) -> dict[str, Path]:
    """The rows of the quickstart's three stages as JSONL files, by stage."""
    job = load_job(resources.shipped_jobs()["cpu_quickstart"])
    found = {}
    for stage in job.stages:
        assert isinstance(stage.data, DataSettings)
        rows = plugins.data_format(stage.data.format).examples(
            stage.data, kind=KINDS[stage.uses], cache=folder
        )
        source = rows[0].source.rpartition(":")[0]
        found[stage.name] = Path(source)
    return found


def write_job(path: Path, data: dict[str, Path]) -> Path:
    """The quickstart without its evaluation, on those files."""
    yaml = YAML()
    job: Any = yaml.load(resources.shipped_jobs()["cpu_quickstart"])
    job.pop("evaluation", None)
    for name, stage in job["stages"].items():
        stage.pop("eval_data", None)
        stage["data"] = {"format": "jsonl", "path": str(data[name])}
    yaml.dump(job, path)
    return path


def bare(folder: Path, data: dict[str, Path]) -> float:
    """Seconds of the three bare scripts, one after the other."""
    model = plugins.load("qvl.models", "qvl-tiny").folder()
    shutil.rmtree(folder / "bare", ignore_errors=True)
    began, adapter = time.perf_counter(), None
    for stage in STAGES:
        out = folder / "bare" / stage
        command = [
            sys.executable,
            BARE / f"{stage}.py",
            "--model",
            model,
            "--data",
            data[stage],
            "--out",
            out,
        ]
        quietly(command + (["--adapter", adapter] if adapter else []), folder)
        adapter = out
    return time.perf_counter() - began


def runner(folder: Path, job: Path) -> float:
    """Seconds of `qvl-run` on the same."""
    shutil.rmtree(folder / "qvl-runs", ignore_errors=True)
    began = time.perf_counter()
    quietly([sys.executable, "-m", "qvl_run", job], folder)
    return time.perf_counter() - began


def quietly(command: list[Any], folder: Path) -> None:
    done = subprocess.run(
        [*map(str, command)], cwd=folder, capture_output=True, text=True, check=False
    )
    if done.returncode:
        sys.exit(f"{command[1]} failed:\n{done.stdout[-3000:]}\n{done.stderr[-3000:]}")


def difference(folder: Path) -> float:
    """The largest difference between the two sides' weights after DPO: small where they did the same work. GRPO draws
    other samples of the same distribution."""
    from safetensors.torch import load_file

    name = "adapter_model.safetensors"
    ours = load_file(next((folder / "qvl-runs").rglob(f"checkpoints/dpo/final/{name}")))
    theirs = load_file(folder / "bare" / "dpo" / name)
    assert ours.keys() == theirs.keys()
    return max(float((ours[key] - theirs[key]).abs().max()) for key in ours)


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 3)
