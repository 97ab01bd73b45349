"""`qvl-run report`, and the time in `qvl-run plan`, as a user calls them."""

import dataclasses
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from qvl_run import exit_codes, hardware
from qvl_run.checkpoints import manifest as manifests
from qvl_run.checkpoints.folder import FolderStore
from qvl_run.checkpoints.manifest import Manifest
from qvl_run.checkpoints.store import Held
from qvl_run.hardware import GIB
from qvl_run.verbs import report as verb
from tests.conftest import Command

JOB = """
version: 1
name: counting
model: {name: none}
training: {save_steps: 3}
stages:
  first: {uses: count, with: {to: 10}}
  second: {uses: count, with: {to: 8}}
"""
T4 = "Tesla T4"


def manifest_of(folder: Path) -> Manifest:
    return manifests.read(Held(FolderStore(folder.parent), folder.name))


def with_facts(folder: Path, **facts: Any) -> None:
    """Have the manifest in `folder` say `facts`, too."""
    known = manifest_of(folder)
    manifests.write(folder, dataclasses.replace(known, facts={**known.facts, **facts}))


def as_data(qvl_run: Command, *args: object) -> dict[str, Any]:
    done = qvl_run("report", *args, "--json")
    assert (done.returncode, done.stderr) == (0, "")
    found: dict[str, Any] = json.loads(done.stdout)
    return found


@pytest.fixture
def stages(tmp_path: Path) -> Path:
    return tmp_path / "qvl-runs" / "counting" / "checkpoints"


def test_with_nothing_finished_it_says_so_and_writes_nothing(
    job_file: Callable[..., Path], qvl_run: Command, tmp_path: Path
) -> None:
    job = job_file(JOB)
    done = qvl_run("report", job)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.startswith("no stage of counting is finished yet")
    assert as_data(qvl_run, job)["stages"] == []
    assert [path.name for path in tmp_path.iterdir()] == ["job.yaml"]


def test_it_shows_the_table_of_the_run_and_the_pace_of_each_stage(
    job_file: Callable[..., Path], qvl_run: Command, stages: Path
) -> None:
    job = job_file(JOB)
    run = qvl_run(job)
    assert run.returncode == 0
    (row,) = (line for line in run.stdout.splitlines() if line.startswith("second   "))
    done = qvl_run("report", job)
    assert row.rstrip() in [line.rstrip() for line in done.stdout.splitlines()]
    assert "GPU memory" not in run.stdout + done.stdout, "there is no GPU"
    first, second = as_data(qvl_run, job)["stages"]
    assert (first["name"], first["steps"], first["gpu"]) == ("first", 10, None)
    assert first["measures"] == {"sum": [None, 55.0]}
    facts = manifest_of(stages / "first" / "final").facts
    assert first["time"]["step_seconds"] == facts["loop_seconds"] / 10
    assert set(first["memory"].values()) == {None}
    assert not first["other_settings"]
    assert second["measures"] == {"sum": [None, 91.0]}


def test_of_a_run_that_was_killed_it_shows_what_is_finished(
    job_file: Callable[..., Path], qvl_run: Command
) -> None:
    job = job_file(JOB)
    qvl_run(job, env={"QVL_CRASH_AT": "run.between_stages"})
    assert [stage["name"] for stage in as_data(qvl_run, job)["stages"]] == ["first"]


def test_what_other_settings_have_left_is_shown_and_marked(
    job_file: Callable[..., Path], qvl_run: Command, stages: Path
) -> None:
    job = job_file(JOB)
    assert qvl_run(job).returncode == 0
    (stages / "first" / "final" / "sum.json").unlink()
    changed = job_file(JOB.replace("to: 8", "to: 9"))
    assert "than the job names now: second" in qvl_run("report", changed).stdout
    (found,) = as_data(qvl_run, changed)["stages"]
    assert (found["name"], found["steps"], found["other_settings"]) == ("second", 8, True)


def test_memory_and_time_of_a_gpu_are_shown_on_another_machine(
    job_file: Callable[..., Path], qvl_run: Command, stages: Path
) -> None:
    job = job_file(JOB)
    assert qvl_run(job).returncode == 0
    memory = {"training": 5.5 * GIB, "predicted": 5.8 * GIB, "peak": 6 * GIB, "tokens": 464}
    work = {"flops": 85 * 10**11, "passes": 0, "decoding": 0}
    with_facts(
        stages / "first" / "final",
        gpu=T4, planned=9 * GIB, memory=memory, work=work, loop_seconds=20.0, loop_steps=10,
    )  # fmt: skip
    text = qvl_run("report", job).stdout
    assert "GPU memory in training: first 5.5 GiB (5.8 predicted)" in text
    first, _ = as_data(qvl_run, job)["stages"]
    assert first["gpu"] == T4
    assert first["memory"]["planned"] == 9 * GIB
    assert first["memory"]["training"] == 5.5 * GIB
    assert first["time"]["step_seconds"] == 2.0
    assert first["time"]["predicted_step_seconds"] == pytest.approx(1.0)


def test_a_drive_that_is_not_mounted_is_told(
    job_file: Callable[..., Path], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:  # fmt: skip
    job = job_file(JOB + "storage: {drive: /content/drive/MyDrive/x}\n")
    monkeypatch.setattr(hardware, "probe", lambda: pytest.fail("it was not asked what is there"))
    assert verb.main(str(job), as_json=False, profiles=(), settings=()) == exit_codes.MACHINE
    assert "error[QVL" in capsys.readouterr().err


def plan(qvl_run: Command, job: Path, *args: object) -> tuple[str, Any]:
    """The plan's lines on time, and the same as data."""
    lines = qvl_run("plan", job, *args).stdout.splitlines()
    data = json.loads(qvl_run("plan", job, *args, "--json").stdout)
    return "\n".join(line for line in lines if line.startswith("  time")), data


def test_a_plan_takes_the_pace_of_the_checkpoint_that_it_goes_on_from(
    job_file: Callable[..., Path], qvl_run: Command, stages: Path
) -> None:
    job = job_file(JOB.replace("to: 10", "to: 10, fail_at: 8") + "recovery: none\n")
    text, data = plan(qvl_run, job)
    assert text == "", "nothing is known of a stage that tells no work"
    assert data["time"] == {"seconds": None, "whole": False, "sessions": None}
    assert data["stages"][0]["time"] is None
    assert qvl_run(job).returncode == exit_codes.FAILED
    for folder in stages.glob("first/checkpoint-*"):
        with_facts(folder, loop_seconds=124.0, loop_steps=10)
    text, data = plan(qvl_run, job)
    first, second = data["stages"]
    assert first["state"] == "resume"
    assert first["time"] == {
        "steps": 4, "step_seconds": 12.4, "seconds": 49.6, "measured": True,
        "source": "measured without a GPU, over 10 steps",
    }  # fmt: skip
    assert "  time: about 50 s for the 4 steps left (12.4 s a step, measured without" in text
    assert second["time"]["source"] == "measured without a GPU, over 10 steps of first"
    assert data["time"]["whole"]
    assert data["time"]["seconds"] == pytest.approx(12.4 * 12, abs=0.2)
    assert "about 2 min 29 s for the steps of all stages" in text


def test_what_a_run_is_expected_to_take_is_no_part_of_a_saved_plan(
    job_file: Callable[..., Path], qvl_run: Command, tmp_path: Path
) -> None:
    job, saved = job_file(JOB), tmp_path / "plan.json"
    _, data = plan(qvl_run, job)
    data["time"] = {"seconds": 7.0, "whole": True}
    data["stages"][0]["time"] = {"seconds": 7.0}
    saved.write_text(json.dumps(data))
    assert qvl_run(job, "--plan", saved).returncode == 0


def test_the_shipped_job_for_a_t4_says_how_long_and_by_what(qvl_run: Command) -> None:
    text = qvl_run("plan", "t4_full_pipeline", "--assume", "t4").stdout
    lines = [line for line in text.splitlines() if line.startswith("  time: about")]
    assert len(lines) == 4, "each stage, and all of them"
    for line in lines[1:]:
        assert (
            "by what other trainings took on a T4, within a factor of 3; corrected by this" in line
        )
    assert "time:" not in qvl_run("plan", "cpu_quickstart").stdout
