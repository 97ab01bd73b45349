"""What a run is doing now, or why it stopped, from the files that it leaves: for somebody who looks from outside."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from filelock import FileLock, Timeout

from qvl_run.checkpoints.store import Store
from qvl_run.plan.places import Places
from qvl_run.run.attempt import AttemptFolder
from qvl_run.run.events import Record
from qvl_run.run.lease import EXPIRES, Owner, gone, here, read_owner

At = Literal["here", "elsewhere", "nowhere"]

_ATTEMPT_EVENTS = ("attempt_started", "attempt_ended")


@dataclass(frozen=True, kw_only=True)
class Working:
    """Where a runner is at work. `owner` is who, where that is known; `silent` the seconds since its sign of life."""

    at: At
    owner: Owner | None = None
    silent: float = 0.0


def working(where: Places, store: Store | None, *, now: float) -> Working:
    """Whether a runner is at work on the run, on this machine or another. Raises OSError."""
    owner = None
    if store is not None:
        with suppress(ValueError):
            owner = read_owner(store, where.run)
    silent = 0.0 if owner is None else max(0.0, now - owner.time)
    if locked(where.scratch):
        mine = owner if owner and here(owner) and not owner.ended else None
        return Working(at="here", owner=mine, silent=silent)
    if owner is None or owner.ended or gone(owner) or silent > EXPIRES:
        return Working(at="nowhere", owner=owner, silent=silent)
    return Working(at="elsewhere", owner=owner, silent=silent)


def locked(scratch: Path) -> bool:
    """Whether a runner of this machine works in `scratch`. Raises OSError."""
    path = scratch / "runner.lock"
    if not path.exists():
        return False
    try:
        with FileLock(path, timeout=0):
            return False
    except Timeout:
        return True


def progress(where: Places, story: Sequence[Record]) -> tuple[str, Mapping[str, Any]] | None:
    """The stage that is being run on this machine, and how far its attempt is; None between two attempts."""
    last = next((r for r in reversed(story) if r.get("event") in _ATTEMPT_EVENTS), None)
    if last is None or last["event"] != "attempt_started":
        return None
    folder = AttemptFolder(where.attempts(str(last["stage"])) / str(last["attempt"]))
    return str(last["stage"]), folder.read("progress") or {}


def left_seconds(progress: Mapping[str, Any]) -> float | None:
    """Seconds until the last step, at the pace so far; None where there is none yet."""
    steps, seconds = progress.get("loop_steps") or 0, progress.get("loop_seconds") or 0.0
    step, total = progress.get("step"), progress.get("total")
    training = progress.get("section") in ("step", "rollout", "save")
    if not training or steps < 1 or step is None or not total:
        return None
    return float(seconds) / int(steps) * (int(total) - int(step))
