"""Whole runs of the counting stage, as a user starts them: killed, stopped, failed, and gone on with."""

import json
import signal
import subprocess
import sys
import tempfile
import time
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

from qvl_run.checkpoints.manifest import Broken
from qvl_run.checkpoints.pick import step_of
from qvl_run.faults import POINTS
from tests.conftest import Command
from tests.qvl_run.checkpoints.test_manifest import check

JOB = """
version: 1
name: counting
model: {name: none}
training: {save_steps: 3}
stages:
  first: {uses: count, with: {to: 10}}
  second: {uses: count, with: {to: 8}}
"""
SUM = 55 + 36


@pytest.fixture
def other_disk(tmp_path: Path) -> Iterator[Path]:
    """A folder on another file system than `tmp_path`, as a scratch disk is to a mounted drive."""
    shared = Path("/dev/shm")
    if not shared.is_dir() or shared.stat().st_dev == tmp_path.stat().st_dev:
        pytest.skip("this machine has one file system only")
    with tempfile.TemporaryDirectory(dir=shared) as folder:
        yield Path(folder)


def outputs(folder: Path) -> dict[str, int]:
    store = folder / "qvl-runs" / "counting" / "checkpoints"
    return {
        stage: json.loads((store / stage / "final" / "sum.json").read_text())["sum"]
        for stage in ("first", "second")
        if (store / stage / "final" / "manifest.json").exists()
    }


def events(folder: Path) -> list[dict[str, object]]:
    found = []
    for path in sorted((folder / "qvl-runs" / "counting" / "scratch" / "events").glob("*.jsonl")):
        found += [json.loads(line) for line in path.read_text().splitlines()]
    return found


def test_a_run_goes_through_all_stages_and_a_second_one_does_nothing(
    job_file: Callable[..., Path], qvl_run: Command, tmp_path: Path
) -> None:
    job = job_file(JOB)
    first = qvl_run(job)
    assert first.returncode == 0, first.stdout + first.stderr
    assert outputs(tmp_path) == {"first": 55, "second": SUM}
    before = {p: p.stat().st_mtime_ns for p in tmp_path.rglob("checkpoint*")}
    second = qvl_run(job)
    assert second.returncode == 0
    assert "first: done (10 steps)" in second.stdout
    assert sum(e["event"] == "attempt_started" for e in events(tmp_path)) == 2
    assert {p: p.stat().st_mtime_ns for p in tmp_path.rglob("checkpoint*")} == before


@pytest.mark.parametrize(
    ("point", "drive"),
    [
        (point, drive)
        for point in (*POINTS, "checkpoint.after_manifest@3", "mirror.after_manifest@2")
        for drive in (False, True)
        # On one disk a checkpoint is renamed into the store, so there is no moment between its files and its manifest.
        if drive or point != "mirror.before_manifest"
    ],
)
def test_a_kill_at_any_point_costs_at_most_one_save_interval(
    job_file: Callable[..., Path],
    qvl_run: Command,
    tmp_path: Path,
    other_disk: Path,
    point: str,
    drive: bool,
) -> None:
    job = job_file(JOB + (f"storage: {{drive: drive, scratch: {other_disk}}}\n" if drive else ""))
    killed = qvl_run(job, env={"QVL_CRASH_AT": point})
    assert killed.returncode == -signal.SIGKILL
    saved = newest(tmp_path, other_disk)
    again = qvl_run(job)
    assert again.returncode == 0, again.stdout + again.stderr
    root = tmp_path / ("drive" if drive else "qvl-runs/counting") / "checkpoints"
    assert json.loads((root / "second" / "final" / "sum.json").read_text())["sum"] == SUM
    story = last_run(root.parent / "runs" / "counting")
    assert story[-1]["ending"] == "done"
    began = {e["stage"]: e["step"] for e in story if e["event"] == "attempt_started"}
    for stage, total in (("first", 10), ("second", 8)):
        expected = saved.get((stage, "checkpoint"), 0)
        if (stage, "output") in saved:
            assert stage not in began, "a finished stage is not run again"
        else:
            assert began[stage] == expected, "it goes on from the newest that was whole"
        assert expected <= total


def last_run(folder: Path) -> list[dict[str, Any]]:
    """The story of the last run, from the segments that reached the store."""
    records = [
        json.loads(line)
        for path in sorted(folder.glob("events-*.jsonl"))
        for line in path.read_text().splitlines()
    ]
    token = records[-1]["id"].rpartition("-")[0]
    return [record for record in records if record["id"].rpartition("-")[0] == token]


def newest(*roots: Path) -> dict[tuple[str, str], int]:
    """The highest step of each stage's whole checkpoints and outputs anywhere below `roots`."""
    found: dict[tuple[str, str], int] = {}
    for path in {path for root in roots for path in root.rglob("manifest.json")}:
        try:
            check(path.parent)
        except Broken:
            continue
        body = json.loads(path.read_text())
        place = (body["stage"], body["kind"])
        found[place] = max(found.get(place, 0), body["step"])
    return found


@pytest.mark.parametrize(
    ("point", "least"),
    [
        ("checkpoint.before_manifest", 0),
        ("checkpoint.before_manifest@2", 3),
        ("checkpoint.after_manifest@2", 6),
    ],
)
def test_a_resumed_stage_starts_from_the_newest_whole_checkpoint(
    job_file: Callable[..., Path], qvl_run: Command, tmp_path: Path, point: str, least: int
) -> None:
    job = job_file(JOB)
    qvl_run(job, env={"QVL_CRASH_AT": point})
    assert qvl_run(job).returncode == 0
    started = [
        e["step"]
        for e in events(tmp_path)
        if e["event"] == "attempt_started" and e["stage"] == "first"
    ]
    assert started == [0, least]


def test_the_child_dies_with_the_runner(job_file: Callable[..., Path], tmp_path: Path) -> None:
    job = job_file(JOB.replace("to: 10", "to: 100000000"))
    runner = subprocess.Popen(
        [sys.executable, "-m", "qvl_run", str(job)], cwd=tmp_path, stdout=subprocess.DEVNULL
    )
    try:
        child = _wait_for(lambda: psutil.Process(runner.pid).children())[0]
        _wait_for(lambda: list(tmp_path.rglob("progress.json")))
    finally:
        runner.kill()
        runner.wait()
    assert child.wait(timeout=10) is not None or not child.is_running()


def test_ctrl_c_saves_and_the_same_command_goes_on(
    job_file: Callable[..., Path], qvl_run: Command, tmp_path: Path
) -> None:
    job = job_file(
        JOB.replace("save_steps: 3", "save_steps: 100000000").replace("to: 10", "to: 30000")
    )
    runner = subprocess.Popen(
        [sys.executable, "-m", "qvl_run", str(job)], cwd=tmp_path, stdout=subprocess.PIPE, text=True
    )
    _wait_for(
        lambda: any(
            (json.loads(p.read_text())["step"] or 0) > 5 for p in tmp_path.rglob("progress.json")
        )
    )
    runner.send_signal(signal.SIGINT)
    out, _ = runner.communicate(timeout=60)
    assert runner.returncode == 75, out
    assert "to go on: qvl-run" in out
    assert qvl_run(job).returncode == 0
    started = [
        e["step"]
        for e in events(tmp_path)
        if e["event"] == "attempt_started" and e["stage"] == "first"
    ]
    assert len(started) == 2
    assert int(str(started[1])) > 0


def test_a_second_runner_is_refused(
    job_file: Callable[..., Path], qvl_run: Command, tmp_path: Path
) -> None:
    job = job_file(JOB.replace("to: 10", "to: 100000000"))
    runner = subprocess.Popen(
        [sys.executable, "-m", "qvl_run", str(job)], cwd=tmp_path, stdout=subprocess.DEVNULL
    )
    try:
        _wait_for(lambda: list(tmp_path.rglob("progress.json")))
        refused = qvl_run(job)
        assert refused.returncode == 5
        assert "another qvl-run" in refused.stderr
    finally:
        runner.kill()
        runner.wait()


def test_an_error_is_tried_again_from_the_newest_checkpoint(
    job_file: Callable[..., Path], qvl_run: Command, tmp_path: Path
) -> None:
    job = job_file(JOB.replace("to: 10", "to: 10, fail_at: 5"))
    run = qvl_run(job)
    assert run.returncode == 0
    assert "RuntimeError: asked to fail at 5" in run.stdout
    assert "resume at step 3 of 10" in run.stdout
    assert outputs(tmp_path)["second"] == SUM


def test_a_generation_that_was_given_up_stays_given_up(
    job_file: Callable[..., Path], qvl_run: Command, tmp_path: Path
) -> None:
    job = job_file(JOB)
    (tmp_path / "qvl-runs/counting/checkpoints/first/checkpoint-3").mkdir(parents=True)
    assert qvl_run(job).returncode == 4
    for _ in range(2):
        assert qvl_run(job, "--stage", "first", "--from-scratch").returncode == 0
    assert qvl_run(job).returncode == 0


def test_what_was_given_up_does_not_come_back_after_a_failure(
    job_file: Callable[..., Path], qvl_run: Command, tmp_path: Path
) -> None:
    job = job_file(JOB.replace("to: 10", "to: 10, fail_at: 1"))
    (tmp_path / "qvl-runs/counting/checkpoints/first/checkpoint-3").mkdir(parents=True)
    run = qvl_run(job, "--stage", "first", "--from-scratch")
    assert run.returncode == 0, run.stdout
    assert "asked to fail at 1" in run.stdout
    assert outputs(tmp_path) == {"first": 55}


def test_a_checkpoint_of_another_script_on_another_disk_is_gone_on_from(
    job_file: Callable[..., Path], qvl_run: Command, tmp_path: Path, other_disk: Path
) -> None:
    plain = other_disk / "checkpoint-4"
    plain.mkdir()
    (plain / "trainer_state.json").write_text('{"global_step": 4, "max_steps": 10}')
    (plain / "sum.json").write_text('{"step": 4, "sum": 10}')
    for name in ("optimizer.pt", "scheduler.pt", "rng_state.pth"):
        with zipfile.ZipFile(plain / name, "w") as archive:
            archive.writestr("data", "x")
    header = b'{"w":{"dtype":"F32","shape":[1],"data_offsets":[0,4]}}'
    weights = len(header).to_bytes(8, "little") + header + bytes(4)
    (plain / "adapter_model.safetensors").write_bytes(weights)
    run = qvl_run(job_file(JOB), "--stage", "first", "--resume-from", plain)
    assert run.returncode == 0, run.stdout + run.stderr
    assert "resume at step 4 of 10" in run.stdout
    assert outputs(tmp_path) == {"first": 55}
    (plain / "adapter_model.safetensors").write_bytes(weights[:-1])
    torn = qvl_run(job_file(JOB), "--stage", "first", "--resume-from", plain)
    assert torn.returncode == 2
    assert "adapter_model.safetensors has" in torn.stderr


def test_recovery_none_is_honoured(
    job_file: Callable[..., Path], qvl_run: Command, tmp_path: Path
) -> None:
    run = qvl_run(job_file(JOB.replace("to: 10", "to: 10, fail_at: 5") + "recovery: none\n"))
    assert run.returncode == 1
    assert outputs(tmp_path) == {}
    assert "recovery: none" in run.stdout


def test_checkpoints_of_which_none_is_whole_stop_the_run(
    job_file: Callable[..., Path], qvl_run: Command, tmp_path: Path
) -> None:
    job = job_file(JOB)
    qvl_run(job, env={"QVL_CRASH_AT": "output.before_manifest"})
    torn = [path.parent for path in tmp_path.rglob("manifest.json")]
    for folder in torn:
        (folder / "sum.json").write_text("")
    refused = qvl_run(job)
    assert refused.returncode == 4
    assert f"{torn[0].name}: sum.json has 0 of" in refused.stdout
    assert "--from-scratch" in refused.stdout
    assert outputs(tmp_path) == {}
    anew = qvl_run(job, "--stage", "first", "--from-scratch")
    assert anew.returncode == 0, anew.stdout
    rest = qvl_run(job)
    assert rest.returncode == 0, rest.stdout
    assert len(list(tmp_path.rglob("checkpoint-10*"))) == 2


def test_a_changed_setting_runs_its_stage_and_those_after_it_again(
    job_file: Callable[..., Path], qvl_run: Command, tmp_path: Path
) -> None:
    qvl_run(job_file(JOB))
    changed = qvl_run(job_file(JOB.replace("to: 8", "to: 9")))
    assert changed.returncode == 0
    assert "first: done (10 steps)" in changed.stdout
    assert "with.to: 8 -> 9" in changed.stdout
    root = tmp_path / "qvl-runs" / "counting" / "checkpoints" / "second"
    assert len(list(root.glob("final*"))) == 2
    back = qvl_run(job_file(JOB))
    assert "second: done (8 steps)" in back.stdout


def test_one_stage_only(job_file: Callable[..., Path], qvl_run: Command, tmp_path: Path) -> None:
    job = job_file(JOB)
    early = qvl_run(job, "--stage", "second")
    assert early.returncode == 2
    assert "output of first, which is not done yet" in early.stdout
    assert qvl_run(job, "--stage", "first").returncode == 0
    assert outputs(tmp_path) == {"first": 55}
    assert qvl_run(job, "--stage", "second").returncode == 0
    assert outputs(tmp_path)["second"] == SUM


def test_a_checkpoint_named_by_hand_is_gone_on_from(
    job_file: Callable[..., Path], qvl_run: Command, tmp_path: Path
) -> None:
    job = job_file(JOB)
    qvl_run(job, env={"QVL_CRASH_AT": "mirror.after_manifest@2"})
    store = tmp_path / "qvl-runs" / "counting" / "checkpoints" / "first"
    older = min(store.glob("checkpoint-*"), key=lambda path: step_of(path.name))
    run = qvl_run(job, "--stage", "first", "--resume-from", older)
    assert run.returncode == 0
    assert f"resume at step {step_of(older.name)} of 10" in run.stdout
    other = qvl_run(job, "--stage", "second", "--resume-from", store / "checkpoint-10")
    assert other.returncode == 2
    assert "other settings" in other.stderr


def _wait_for(condition: Callable[[], object], seconds: float = 20) -> object:
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        if found := condition():
            return found
        time.sleep(0.02)
    raise AssertionError("it did not happen")


def test_a_drive_that_has_become_empty_is_not_taken_for_a_new_one(
    job_file: Callable[..., Path], qvl_run: Command, tmp_path: Path, other_disk: Path
) -> None:
    job = job_file(JOB + f"storage: {{drive: drive, scratch: {other_disk}, patience: 0.1s}}\n")
    assert qvl_run(job).returncode == 0
    (tmp_path / "drive").rename(tmp_path / "unmounted")
    (tmp_path / "drive").mkdir()
    again = qvl_run(job)
    assert again.returncode == 75, again.stdout
    assert "is it mounted?" in again.stderr
    assert "Traceback" not in again.stderr
    assert not list((tmp_path / "drive").iterdir()), "nothing was begun"
    (tmp_path / "drive").rmdir()
    (tmp_path / "unmounted").rename(tmp_path / "drive")
    assert "second: done" in qvl_run(job).stdout
