"""What a user asks of a run from outside, and what he is told of it: stop, status, events."""

import json
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import jsonschema
import pytest

from qvl_run import resources
from qvl_run.hardware import PROFILES, Driver
from qvl_run.run import requests
from qvl_run.run.runner import machine_facts
from qvl_run.run.story import EVENTS, text
from tests.conftest import Command
from tests.qvl_run.run.test_run import JOB, events, outputs

LONG = JOB.replace("save_steps: 3", "save_steps: 100000000").replace("to: 10", "to: 1000000")


@contextmanager
def running(job: Path) -> Iterator[subprocess.Popen[str]]:
    """The job, some steps on its way."""
    runner = subprocess.Popen(
        [sys.executable, "-m", "qvl_run", str(job)],
        cwd=job.parent,
        stdout=subprocess.PIPE,
        text=True,
    )
    try:
        wait_for(lambda: steps(job.parent) > 5)
        yield runner
    finally:
        runner.kill()
        runner.communicate()


def steps(folder: Path) -> int:
    found = [json.loads(p.read_text())["step"] or 0 for p in folder.rglob("progress.json")]
    return max(found, default=0)


def wait_for(found: Callable[[], object]) -> None:
    until = time.monotonic() + 60
    while not found():
        assert time.monotonic() < until, "it did not come"
        time.sleep(0.02)


def saved(folder: Path) -> list[str]:
    return [p.parent.name for p in folder.rglob("manifest.json")]


def test_stop_saves_and_stops_and_the_run_goes_on_from_there(
    job_file: Callable[..., Path], qvl_run: Command, tmp_path: Path
) -> None:
    job = job_file(LONG)
    with running(job) as runner:
        status = qvl_run("status", job)
        assert "at work on this machine" in status.stdout
        assert "of 1000000" in status.stdout or "/1000000" in status.stdout
        asked = qvl_run("stop", job)
        assert asked.returncode == 0
        assert "was asked to save now and stop" in asked.stdout
        out, _ = runner.communicate(timeout=60)
    assert runner.returncode == 75, out
    (checkpoint,) = saved(tmp_path)
    after = qvl_run("status", job)
    assert "not at work. It stopped at" in after.stdout
    assert (
        f"first: resume at step {checkpoint.removeprefix('checkpoint-')} of 1000000" in after.stdout
    )
    data = json.loads(qvl_run("status", job, "--json").stdout)
    assert (data["at_work"], data["next"][0]["state"]) == ("nowhere", "resume")
    assert data["last"]["ending"] == "stopped"
    # What was asked of that run is not asked of the next.
    job_file(LONG.replace("to: 1000000", f"to: {int(checkpoint.removeprefix('checkpoint-')) + 5}"))
    assert qvl_run(job).returncode == 0


def test_a_save_can_be_asked_for_and_the_run_goes_on(
    job_file: Callable[..., Path], qvl_run: Command, tmp_path: Path
) -> None:
    job = job_file(LONG)
    with running(job) as runner:
        assert qvl_run("stop", job, "--save").returncode == 0
        wait_for(lambda: saved(tmp_path))
        before = steps(tmp_path)
        wait_for(lambda: steps(tmp_path) > before)
        assert runner.poll() is None
        assert len(saved(tmp_path)) == 1, "once"


def test_a_stop_after_the_next_save_waits_for_it(
    job_file: Callable[..., Path], qvl_run: Command, tmp_path: Path
) -> None:
    job = job_file(LONG)
    with running(job) as runner:
        assert qvl_run("stop", job, "--after-save").returncode == 0
        wait_for(lambda: list(tmp_path.rglob("stop-after-save")))
        before = steps(tmp_path)
        wait_for(lambda: steps(tmp_path) > before)
        assert not saved(tmp_path)
        qvl_run("stop", job, "--save")
        out, _ = runner.communicate(timeout=60)
    assert runner.returncode == 75, out
    assert len(saved(tmp_path)) == 1


def test_a_second_signal_ends_it_at_once(job_file: Callable[..., Path], tmp_path: Path) -> None:
    job = job_file(LONG)
    with running(job) as runner:
        (child,) = (json.loads(next(tmp_path.rglob("owner.json")).read_text())["pid"],)
        assert child == runner.pid
        runner.send_signal(signal.SIGSTOP)
        runner.send_signal(signal.SIGINT)
        runner.send_signal(signal.SIGTERM)
        runner.send_signal(signal.SIGCONT)
        out, _ = runner.communicate(timeout=20)
    assert runner.returncode == 75, out
    assert not saved(tmp_path)


def test_what_cannot_be_stopped_is_said(job_file: Callable[..., Path], qvl_run: Command) -> None:
    job = job_file(JOB)
    assert "nothing is at work on counting" in qvl_run("stop", job).stdout
    assert "has not been run yet" in qvl_run("status", job).stdout
    assert "nothing has happened to counting" in qvl_run("events", job).stderr
    both = qvl_run("stop", job, "--save", "--after-save")
    assert both.returncode == 2
    assert qvl_run("stop", "nothing.yaml").returncode == 2


def test_the_story_is_whole_fits_its_schema_and_reads_well(
    job_file: Callable[..., Path], qvl_run: Command, tmp_path: Path
) -> None:
    job = job_file(JOB.replace("to: 10", "to: 10, fail_at: 5"))
    assert qvl_run(job).returncode == 0
    assert outputs(tmp_path)["first"] == 55
    story = [json.loads(line) for line in qvl_run("events", job, "--json").stdout.splitlines()]
    assert story == events(tmp_path)
    check = jsonschema.Draft202012Validator(schema())
    for record in story:
        check.validate(record)
        assert "{" not in text(record), "an event without words"
    assert {r["event"] for r in story} >= {"attempt_failed", "restart", "mirrored", "run_ended"}
    lines = qvl_run("events", job).stdout
    assert "first, attempt 1 failed at step 4 (error): RuntimeError: asked to fail at 5" in lines
    assert len(qvl_run("events", job, "--last", "2").stdout.splitlines()) == 2
    job_file(JOB.replace("to: 10", "to: 10, fail_at: 5"))
    failed = qvl_run(job, "--set", "recovery=none", "--set", "stages.first.with.to=11")
    assert failed.returncode == 1
    status = qvl_run("status", job, "--set", "stages.first.with.to=11").stdout
    assert "attempt 3 failed at step 4 (error)" in status
    assert "first: resume at step 3 of 11" in status


def test_the_schema_knows_every_event_and_refuses_others() -> None:
    assert set(schema()["$defs"]) == set(EVENTS)
    check = jsonschema.Draft202012Validator(schema())
    record = {"id": "a-1", "time": "2026-01-01T00:00:00.000Z", "event": "stop_asked", "why": "x"}
    check.validate(record)
    for change in ({"event": "other"}, {"why": 1}, {"more": 1}):
        with pytest.raises(jsonschema.ValidationError):
            check.validate({**record, **change})


def test_a_run_says_which_gpu_it_began_on() -> None:
    check = jsonschema.Draft202012Validator(schema())
    head = {"id": "a-1", "time": "2026-01-01T00:00:00.000Z", "event": "run_started", "job": "x"}
    t4 = replace(PROFILES["t4"], driver=Driver(version="550.54.15"))
    for machine, driver in ((t4, "550.54.15"), (PROFILES["t4"], ""), (PROFILES["cpu"], None)):
        facts = machine_facts(machine)
        check.validate({**head, **facts})
        assert (facts["gpu"] or {}).get("driver") == driver
    assert machine_facts(t4)["gpu"]["capability"] == [7, 5]
    check.validate({**head, "machine": "Tesla T4"})  # as runs have written it before


def schema() -> dict[str, Any]:
    found: dict[str, Any] = json.loads(
        (resources.folder("schemas") / "event.schema.json").read_text(encoding="utf-8")
    )
    return found


def test_after_a_kill_nothing_is_at_work(
    job_file: Callable[..., Path], qvl_run: Command, tmp_path: Path
) -> None:
    job = job_file(LONG)
    with running(job) as runner:
        runner.kill()
        runner.wait()
        assert "not at work. It ended without a word after" in qvl_run("status", job).stdout
        assert "nothing is at work" in qvl_run("stop", job).stdout


@pytest.mark.parametrize("content", ["", "[]", "{}", '{"time": "abc"}', "null"])
def test_a_damaged_sign_of_life_is_told_without_a_traceback(
    job_file: Callable[..., Path], qvl_run: Command, tmp_path: Path, content: str
) -> None:
    job = job_file(JOB)
    folder = tmp_path / "qvl-runs" / "counting" / "runs" / "counting"
    folder.mkdir(parents=True)
    (folder / "owner.json").write_text(content)
    for verb in ("status", "stop"):
        done = qvl_run(verb, job)
        assert (done.returncode, done.stderr) == (0, "")


def test_a_terminal_that_is_closed_asks_once(job_file: Callable[..., Path], tmp_path: Path) -> None:
    job = job_file(LONG)
    with running(job) as runner:
        for _ in range(3):
            runner.send_signal(signal.SIGHUP)
        out, _ = runner.communicate(timeout=60)
    assert runner.returncode == 75, out
    assert len(saved(tmp_path)) == 1


def test_a_request_that_cannot_be_taken_away_is_none(tmp_path: Path) -> None:
    (tmp_path / requests.SAVE).mkdir()
    requests.ask(tmp_path, requests.STOP)
    assert requests.waits(tmp_path)
    assert requests.take(tmp_path) == {requests.STOP}
    assert not requests.waits(tmp_path)
    requests.forget(tmp_path)
