"""What may be wrong with an attempt: one pure function for each, which finds it or gives None.

What is not known finds nothing. Only `silent` asks for a kill, and only of a child that is seen to run.
"""

from __future__ import annotations

import statistics
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from qvl_run.units import show_duration, show_size
from qvl_run.watchdog.deadlines import deadline
from qvl_run.watchdog.history import IDLE, History
from qvl_run.watchdog.pace import WORKING
from qvl_run.watchdog.snapshot import Snapshot

Act = Literal["kill", "stop", "wake", "warn"]

GONE = 30.0
"""Watched seconds after which an ended process, whose exit code nobody got, is told of. It ends normally in less:
the driver takes its time to give a GPU's memory back."""
STOPPED = 60.0
"""Watched seconds after which a process that was sent SIGSTOP is woken."""
BLIND = 60.0
"""Seconds without sight of the child after which that is told."""
SLOWER = 3.0
"""Times the median step that counts as slow."""
EARLIER = 3
"""Windows of steps that tell what is usual, at least."""
SHORT_STEP = 1.0
"""Seconds a step that are slow for nobody."""
GPU_IDLE = 600.0
"""Watched seconds of training without the GPU."""
LEAST_DISK = 1024**3
"""Bytes of disk that a run needs anyway."""
REFUSING = 300.0
"""Seconds without an answer of the store."""
LAG = 1800.0
"""Age in seconds of a checkpoint that is on this machine only."""
RAM_SOON = 600.0
"""Seconds until memory would be full."""
RAM_SPAN = 300.0
"""Watched seconds that samples of memory must span before anything is said of them."""
STEADY = 0.9
"""Correlation of memory with time from which on growth is steady."""

ASSUMED_STEP, ASSUMED_SAVE, ASSUMED_UPLOAD = 30.0, 60.0, 120.0
"""Seconds that stand in for what was not seen yet."""
SESSION_MARGIN, LEAST_SESSION = 120.0, 300.0
"""Seconds beside what ending takes, and for all of it at least."""


@dataclass(frozen=True)
class Finding:
    """Something that is wrong. `name` stays the same while it lasts; `text` is for people."""

    name: str
    act: Act
    text: str


def detect(
    now: Snapshot, history: History, *, floors: Mapping[str, float] | None = None
) -> list[Finding]:
    """All that is found."""
    return list(_each(now, history, floors))


def _each(now: Snapshot, history: History, floors: Mapping[str, float] | None) -> Iterator[Finding]:
    for found in (
        dead(now),
        silent(now, history.seen, floors),
        session_nearly_over(now),
        stopped(now),
        blind(now),
        slow(history.pace.windows),
        gpu_idle(now),
        disk_nearly_full(now),
        drive_dead(now),
        upload_lag(now),
        ram_rising(now, history.rss),
    ):
        if found:
            yield found


def dead(now: Snapshot) -> Finding | None:
    """The process has ended and its exit code did not come. There is nothing left to kill."""
    if now.process != "gone" or now.process_for <= GONE:
        return None
    return Finding("dead", "warn", "the training process has gone, and its exit code has not come")


def silent(
    now: Snapshot, seen: Mapping[str, float], floors: Mapping[str, float] | None = None
) -> Finding | None:
    """A child that runs and has said nothing for longer than its section allows."""
    if now.process != "running" or now.section is None or now.quiet is None:
        return None
    allowed = deadline(now.section, seen=seen, floors=floors)
    if now.quiet <= allowed:
        return None
    of = "" if now.total is None else f" of {now.total}"
    at = "" if now.step is None else f", step {now.step}{of}"
    text = (
        f'silent for {show_duration(now.quiet)} in section "{now.section}"{at}; '
        f"{show_duration(allowed)} are allowed there"
    )
    return Finding("silent", "kill", text)


def stopped(now: Snapshot) -> Finding | None:
    """Someone has sent it SIGSTOP: it cannot go on, save, or stop as asked."""
    if now.process != "stopped" or now.process_for <= STOPPED:
        return None
    text = f"the training process has been stopped (SIGSTOP) for {show_duration(now.process_for)}; waking it"
    return Finding("stopped", "wake", text)


def blind(now: Snapshot) -> Finding | None:
    """Nothing can be seen of the child. It may be well."""
    if now.blind_for <= BLIND:
        return None
    text = f"nothing could be seen of the training process for {show_duration(now.blind_for)}; it is left alone"
    return Finding("blind", "warn", text)


def slow(windows: Sequence[float]) -> Finding | None:
    """The last two windows took much longer a step than the ones before. One odd step is in one window only."""
    if len(windows) < EARLIER + 2:
        return None
    usual, recent = statistics.median(windows[:-2]), min(windows[-2:])
    if recent <= max(SLOWER * usual, SHORT_STEP):
        return None
    text = f"a step takes {_seconds(recent)} now; it took {_seconds(usual)} before"
    return Finding("slow", "warn", text)


def gpu_idle(now: Snapshot) -> Finding | None:
    """Training goes on without the GPU."""
    if now.gpu_idle_for is None or now.section not in WORKING or now.gpu_idle_for <= GPU_IDLE:
        return None
    text = (
        f"the GPU has been used less than {IDLE:.0%} for {show_duration(now.gpu_idle_for)} of training; "
        "is reading the images what takes so long?"
    )
    return Finding("gpu_idle", "warn", text)


def disk_nearly_full(now: Snapshot) -> Finding | None:
    """Scratch has no room for two more checkpoints."""
    needed = max(2 * (now.checkpoint_bytes or 0), LEAST_DISK)
    if now.disk_free is None or now.disk_free >= needed:
        return None
    text = (
        f"{show_size(now.disk_free)} are left on the disk of scratch; two more checkpoints and a reserve need "
        f"{show_size(needed)}: free some space"
    )
    return Finding("disk_nearly_full", "warn", text)


def drive_dead(now: Snapshot) -> Finding | None:
    """The store has refused for long; checkpoints are on this machine only."""
    if now.store_refusing_for is None or now.store_refusing_for <= REFUSING:
        return None
    text = (
        f"storage has not answered for {show_duration(now.store_refusing_for)}; training goes on, "
        "and checkpoints stay on this machine until it does"
    )
    return Finding("drive_dead", "warn", text)


def upload_lag(now: Snapshot) -> Finding | None:
    """Uploads do not keep up with saves."""
    if not now.upload_waiting or now.upload_lag is None or now.upload_lag <= LAG:
        return None
    what = "1 checkpoint is" if now.upload_waiting == 1 else f"{now.upload_waiting} checkpoints are"
    text = f"{what} on this machine only, for up to {show_duration(now.upload_lag)}"
    return Finding("upload_lag", "warn", text)


def ram_rising(now: Snapshot, samples: Sequence[tuple[float, int]]) -> Finding | None:
    """Memory grows steadily in training and would soon be full."""
    if now.ram_available is None or len(samples) < 3 or samples[-1][0] - samples[0][0] < RAM_SPAN:
        return None
    times, sizes = [at for at, _ in samples], [float(size) for _, size in samples]
    slope = statistics.linear_regression(times, sizes).slope
    if slope * RAM_SOON <= now.ram_available or statistics.correlation(times, sizes) < STEADY:
        return None
    text = (
        f"memory of the training process grows by {show_size(slope * 60)} a minute and would be full in "
        f"{show_duration(now.ram_available / slope)}: dataloader workers or decoded images may be leaking"
    )
    return Finding("ram_rising", "warn", text)


def ending_takes(now: Snapshot) -> float:
    """Seconds that it may take to save and store before the session ends: two steps and two saves, since one of each
    may be under way, an upload, and a margin; the longest of each that was seen."""
    step = ASSUMED_STEP if now.step_seconds is None else now.step_seconds
    save = ASSUMED_SAVE if now.save_seconds is None else now.save_seconds
    upload = ASSUMED_UPLOAD if now.upload_seconds is None else now.upload_seconds
    return max(2 * (step + save) + upload + SESSION_MARGIN, LEAST_SESSION)


def session_nearly_over(now: Snapshot) -> Finding | None:
    """The session ends before more can be saved."""
    needed = ending_takes(now)
    if now.session_left is None or now.session_left >= needed:
        return None
    text = (
        f"the session ends in {show_duration(max(now.session_left, 0.0))}; saving and storing may take "
        f"{show_duration(needed)}"
    )
    return Finding("session_nearly_over", "stop", text)


def _seconds(value: float) -> str:
    return f"{value:.1f} s" if value < 60 else show_duration(value)
