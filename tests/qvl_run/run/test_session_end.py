"""Near the end of the session a run saves, takes what it has to storage, and stops, to be gone on with."""

import io
import json
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from qvl_run import hardware
from qvl_run.plan.make import Choices
from qvl_run.plan.places import places
from qvl_run.run import events
from qvl_run.run.lease import Interrupted
from qvl_run.run.machinery import Machinery
from qvl_run.run.outcome import Outcome
from qvl_run.run.runner import Run
from qvl_run.run.show import Show
from qvl_run.spec.load import load_job

JOB = """
version: 1
name: counting
hardware: {max_session: 2h}
model: {name: none}
training: {save_steps: 100000000}
stages:
  first: {uses: count, with: {to: 1000000}}
"""


class Clock:
    """Goes as it should until `jumps` says so, then by `seconds` at once."""

    def __init__(self, jumps: Callable[[], bool], seconds: float) -> None:
        self._jumps, self._seconds = jumps, seconds
        self._jumped = False

    def __call__(self) -> float:
        self._jumped = self._jumped or self._jumps()
        return time.time() + (self._seconds if self._jumped else 0.0)


def run(job: Path, clock: Clock) -> tuple[Outcome, str]:
    out = io.StringIO()
    loaded = load_job(job)
    where = places(loaded)
    where.scratch.mkdir(parents=True, exist_ok=True)
    # The watchdog looks around every five seconds of its own clock.
    machinery = Machinery(show=Show(out), clock=clock, ticks=lambda: 20 * time.monotonic())
    outcome = Run(
        job=loaded, machine=hardware.probe(), where=where, choices=Choices(), machinery=machinery
    ).run()
    return outcome, out.getvalue()


@pytest.mark.parametrize("left", [200.0, -10.0])
def test_it_saves_and_stops_before_the_session_ends(
    job_file: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, left: float
) -> None:
    monkeypatch.chdir(tmp_path)
    job = job_file(JOB)

    def begun() -> bool:
        found = list(tmp_path.rglob("progress.json"))
        return any((json.loads(path.read_text())["step"] or 0) > 5 for path in found)

    outcome, told = run(job, Clock(begun, 7200 - left))
    assert outcome.ending == "stopped"
    assert "the session" in outcome.why
    assert "saving and stopping" in told
    (manifest,) = tmp_path.rglob("manifest.json")
    assert json.loads(manifest.read_text())["step"] > 5
    assert "checkpoints" in manifest.parts, "it is in storage"
    assert not outcome.left


def test_a_session_that_lasts_stops_nothing(
    job_file: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    job = job_file(JOB.replace("1000000", "50"))
    outcome, _ = run(job, Clock(lambda: True, 0.0))
    assert outcome.ending == "done"


def test_a_machine_that_is_up_for_longer_than_the_session_still_trains(
    job_file: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    old = replace(hardware.probe(), colab=True, boot_time=time.time() - 3 * 3600)
    monkeypatch.setattr(hardware, "probe", lambda **_: old)
    outcome, told = run(job_file(JOB.replace("1000000", "50")), Clock(lambda: False, 0.0))
    assert outcome.ending == "done"
    assert "up for longer than hardware.max_session (2 h 0 min)" in told


def test_a_wait_that_the_user_ends_is_a_stop_and_no_failure(
    job_file: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    job = job_file(JOB.replace("1000000", "50"))
    run(job, Clock(lambda: False, 0.0))
    loaded = load_job(job)
    # What is there is verified before anything else: there the user has had enough.
    machinery = Machinery(show=Show(io.StringIO()), stop=lambda: 1)
    again = Run(
        job=loaded,
        machine=hardware.probe(),
        where=places(loaded),
        choices=Choices(),
        machinery=machinery,
    )
    with pytest.raises(Interrupted):
        again.run()
    records = events.here(places(loaded).scratch / "events")
    assert [r["ending"] for r in records if r["event"] == "run_ended"] == ["done", "stopped"]
