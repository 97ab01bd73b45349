"""What the watchdog sees, as plain facts. None stands for what could not be seen; it is never a reason to kill."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

ProcessState = Literal["running", "stopped", "gone"]
"""`stopped` is by SIGSTOP; `gone` is ended, its exit code collected or not."""


@dataclass(frozen=True, kw_only=True)
class Report:
    """The child's newest report. `beat` grows with every report; 0 means that there was none yet."""

    section: str
    step: int | None = None
    total: int | None = None
    beat: int


FIRST = Report(section="setup", beat=0)
"""What stands for the report of a child that has made none: it is starting."""


def report(data: Mapping[str, Any]) -> Report | None:
    """From the content of the progress file; None where that is not what a child writes."""
    section, beat = data.get("section"), data.get("beat")
    if not isinstance(section, str) or not _whole(beat):
        return None
    step, total = (
        value if _whole(value) else None for value in (data.get("step"), data.get("total"))
    )
    return Report(section=section, step=step, total=total, beat=data["beat"])


def _whole(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


@dataclass(frozen=True, kw_only=True)
class Child:
    """The child at one look. `progress` is the content of its progress file as it was read."""

    report: Report | None = None
    process: ProcessState | None = None
    progress: Mapping[str, Any] | None = None


@dataclass(frozen=True, kw_only=True)
class Known:
    """What the runner knows itself. `checkpoint_bytes` is the size of the newest checkpoint; `store_refusing_for` the
    seconds since the store answered last, 0 where it answers; `upload_waiting` how many checkpoints are not stored yet,
    `upload_lag` the age in seconds of the oldest of them (0 where none waits), `upload_seconds` the longest that one
    took; `session_left` seconds, None also where there is no limit."""

    checkpoint_bytes: int | None = None
    store_refusing_for: float | None = None
    upload_waiting: int | None = None
    upload_lag: float | None = None
    upload_seconds: float | None = None
    session_left: float | None = None


@dataclass(frozen=True, kw_only=True)
class Around(Known):
    """What is around the child, looked at every few seconds. `gpu_use` is a share from 0 to 1; the rest is bytes:
    `disk_free` of scratch, `tree_rss` of the child and all it started."""

    gpu_use: float | None = None
    disk_free: int | None = None
    ram_available: int | None = None
    ram_total: int | None = None
    tree_rss: int | None = None


@dataclass(frozen=True, kw_only=True)
class Snapshot(Around):
    """All that is judged, at one look. Times are watched seconds (see `history`): `watched` since the attempt began;
    `quiet` since the child's last report; `process_for` that it is in the state `process`; `blind_for` that nothing
    could be seen of it; `gpu_idle_for` that the GPU has hardly been used in training. `save_seconds` and `step_seconds`
    are the longest seen."""

    watched: float = 0.0
    blind_for: float = 0.0
    section: str | None = None
    step: int | None = None
    total: int | None = None
    beat: int | None = None
    quiet: float | None = None
    process: ProcessState | None = None
    process_for: float = 0.0
    gpu_idle_for: float | None = None
    save_seconds: float | None = None
    step_seconds: float | None = None
