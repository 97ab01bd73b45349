"""Does to a run what the plan says, at the moment that it says."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable
from pathlib import Path

import psutil

from tests.soak.plan import Fault, Kind, Moment
from tests.soak.site import Progress, Site

MANIFEST = "manifest.json"
FROZEN = 1.0
"""Seconds that a child is stopped for."""
REFUSING = 1.0
"""Most seconds that storage refuses: a run that begins to read it meanwhile must not wait for ever."""
TRAINING = ("first_step", "step", "rollout", "save", "eval")
"""Sections in which a stage reads nothing from storage. What is on this machine's own disk is read where it lies, and
a stage whose input is gone has failed: that is right, and not what is looked at here."""


def inject(site: Site, fault: Fault) -> Kind | None:
    """Wait for the moment of `fault` and do it; what was really done, None where the run has ended before. What ends
    the run has ended it when this returns."""
    if not site.until(reached(site, fault.moment)):
        return None
    if act := _ON_CHILD.get(fault.kind):
        return fault.kind if _on_child(site, act) else None
    match fault.kind:
        case "save asked for":
            (site.scratch / "save-now").touch()
        case "storage refuses":
            return fault.kind if _refuse(site, site.storage / fault.detail) else None
        case "machine dies":
            site.die()
        case "machine lost":
            site.die()
            site.lose()
        case "upload cut short":
            # A machine whose upload never ended is lost: what it had is not there to be used instead.
            site.die()
            site.lose()
            return fault.kind if _tear(site, fault) else "machine lost"
        case "runner asked to end":
            number, _, twice = fault.detail.partition(" ")
            for _ in range(2 if twice else 1):
                site.signal(signal.Signals[number])
            site.until(lambda: False)
        case "qvl-run stop":
            asked = site.run("stop", str(site.file), *fault.detail.split())
            assert asked.returncode == 0, asked.stdout + asked.stderr
            site.until(lambda: False)
        case _:
            raise AssertionError(fault.kind)
    return fault.kind


def reached(site: Site, moment: Moment) -> Callable[[], bool]:
    """Whether `moment` has come, counted from now."""
    if moment.what == "event":
        lines = site.lines() + moment.count
        return lambda: site.lines() >= lines
    began = site.progress()

    def said() -> bool:
        now = site.progress()
        before = began.beat if now.attempt == began.attempt else 0
        return now.beat >= before + moment.count

    return said


def _on_child(site: Site, act: Callable[[psutil.Process], None]) -> bool:
    """`act` on the child, once there is one."""
    done: list[bool] = []

    def try_it() -> bool:
        if child := site.child():
            try:
                act(child)
            except psutil.NoSuchProcess:
                return False
            done.append(True)
        return bool(done)

    site.until(try_it)
    return bool(done)


def _freeze(child: psutil.Process) -> None:
    child.suspend()
    time.sleep(FROZEN)
    child.resume()


_ON_CHILD: dict[Kind, Callable[[psutil.Process], None]] = {
    "child killed": psutil.Process.kill,
    "child asked to end": psutil.Process.terminate,
    "child frozen": _freeze,
}


def _refuse(site: Site, folder: Path) -> bool:
    """Have a file stand where `folder` was, until the stage has said a few things more or storage is read."""
    began: Progress = site.progress()
    if began.section not in TRAINING and not site.until(
        lambda: site.progress().section in TRAINING
    ):
        return False
    away = site.drive / "away"
    if not folder.exists():
        return False
    began, until = site.progress(), time.monotonic() + REFUSING
    folder.rename(away)
    folder.touch()
    try:
        site.until(
            lambda: (
                site.progress().attempt != began.attempt
                or site.progress().section not in TRAINING
                or time.monotonic() > until
                or site.child() is None
            )
        )
    finally:
        folder.unlink()
        away.rename(folder)
    return True


def _tear(site: Site, fault: Fault) -> bool:
    """Leave what was stored last of a stage as an upload that was cut short does, never all that is whole."""
    kind = "final*" if fault.output else "checkpoint-*"
    for stage in reversed(site.job.stages):
        whole = site.whole(stage, kind, stored=True)
        others = site.whole(stage, "checkpoint-*", stored=True)
        if whole and set(others) - {whole[-1]}:
            _cut(whole[-1], fault.detail)
            return True
    return False


def _cut(folder: Path, how: str) -> None:
    """As `plan.DETAILS` says; a `hole` leaves the size as it was."""
    if how == "no manifest":
        (folder / MANIFEST).unlink()
        return
    files = [path for path in folder.iterdir() if path.is_file() and path.name != MANIFEST]
    largest = max(files, key=_size)
    size = _size(largest)
    os.truncate(largest, 0 if how == "emptied" else size // 2)
    if how == "hole":
        os.truncate(largest, size)


def _size(path: Path) -> int:
    return path.stat().st_size
