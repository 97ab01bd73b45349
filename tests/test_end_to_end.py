"""The three real stages under the real command: killed in a save, gone on with, handed over, reported."""

import json
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.conftest import Command

JOB = """
version: 1
name: tiny
model: {name: qvl-tiny, lora: {r: 4, alpha: 8}}
training:
  per_device_train_batch_size: 4
  gradient_accumulation_steps: 1
  gradient_checkpointing: false
  save_steps: 1
  logging_steps: 1
evaluation: {data: {format: spatial_scenes, with: {split: test, size: 4}}, batch_size: 4}
stages:
  sft: {uses: sft, data: {format: spatial_scenes, with: {size: 12}}}
  dpo: {uses: dpo, data: {format: spatial_scenes, with: {size: 12}}}
  grpo:
    uses: grpo
    data: {format: spatial_scenes, with: {size: 6}}
    with: {num_generations: 2, max_completion_length: 6, rewards: [exact_answer]}
"""
ENV = {"OMP_NUM_THREADS": "1"}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("end-to-end")


@pytest.fixture
def tmp_path(folder: Path) -> Path:
    """The stages build on one another, so the tests of this module share their folder."""
    return folder


def attempts(folder: Path, stage: str) -> list[int]:
    """The steps at which the attempts of `stage` began."""
    events = folder / "qvl-runs" / "tiny" / "scratch" / "events"
    lines = [
        json.loads(line)
        for path in sorted(events.glob("*"))
        for line in path.read_text().splitlines()
    ]
    return [e["step"] for e in lines if e["event"] == "attempt_started" and e["stage"] == stage]


@pytest.mark.parametrize("stage", ["sft", "dpo", "grpo"])
def test_a_stage_killed_in_a_save_goes_on_from_the_one_before(
    job_file: Callable[..., Path], qvl_run: Command, folder: Path, stage: str
) -> None:
    job = job_file(JOB)
    killed = qvl_run(
        job, "--stage", stage, env={**ENV, "QVL_CRASH_AT": "checkpoint.before_manifest@2"}
    )
    assert killed.returncode == -signal.SIGKILL, killed.stdout + killed.stderr
    again = qvl_run(job, "--stage", stage, env=ENV)
    assert again.returncode == 0, again.stdout + again.stderr
    assert attempts(folder, stage) == [0, 1]
    final = folder / "qvl-runs" / "tiny" / "checkpoints" / stage / "final"
    assert (final / "adapter_model.safetensors").exists()


def test_the_same_command_then_has_nothing_to_do_and_tells_all(
    job_file: Callable[..., Path], qvl_run: Command, folder: Path
) -> None:
    done = qvl_run(job_file(JOB), env=ENV, timeout=20)
    assert done.returncode == 0, done.stdout + done.stderr
    for line in (
        "sft: done (3 steps)",
        "dpo: done (3 steps)",
        "grpo: done (3 steps)",
        "base model",
    ):
        assert line in done.stdout
    assert "from_pretrained(" in done.stdout
    final = folder / "qvl-runs" / "tiny" / "checkpoints" / "grpo" / "final"
    assert f"The result is in {final}" in done.stdout


def test_numbers_of_other_held_out_rows_are_marked(
    job_file: Callable[..., Path], qvl_run: Command
) -> None:
    same = qvl_run(job_file(JOB), env=ENV, timeout=20)
    assert "sft *" not in same.stdout
    done = qvl_run(job_file(JOB), "--set", "evaluation.data.with.size=5", env=ENV, timeout=20)
    assert done.returncode == 0
    assert "sft *" in done.stdout
    assert "base model *" in done.stdout
    assert "not comparable" in done.stdout


def test_the_lines_beside_the_result_run_without_this_package(folder: Path) -> None:
    from PIL import Image

    final = folder / "qvl-runs" / "tiny" / "checkpoints" / "grpo" / "final"
    Image.new("RGB", (96, 96), "white").save(folder / "picture.png")
    code = (final / "usage.py").read_text().replace('"picture.png"', f'"{folder / "picture.png"}"')
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=final,
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip()


def test_the_report_tells_what_each_stage_took(
    job_file: Callable[..., Path], qvl_run: Command, folder: Path
) -> None:
    done = qvl_run("report", job_file(JOB), "--json", env=ENV)
    assert done.returncode == 0, done.stdout + done.stderr
    stages = json.loads(done.stdout)["stages"]
    assert [stage["name"] for stage in stages] == ["sft", "dpo", "grpo"]
    for stage in stages:
        final = folder / "qvl-runs" / "tiny" / "checkpoints" / stage["name"] / "final"
        facts = json.loads((final / "manifest.json").read_text())["facts"]
        assert facts["loop_steps"] == 2, "the last attempt began at step 1 of 3"
        assert facts["work"]["flops"] > 0
        assert stage["time"]["rows_per_second"] == 4 * 2 / facts["loop_seconds"]
        assert facts["gpu"] is None
        assert set(stage["memory"].values()) == {None}, "there is no GPU"
