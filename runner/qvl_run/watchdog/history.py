"""What is kept of an attempt between two looks. Pure: what was, and what is seen now, give what is.

WATCHED TIME: the time between two looks counts `LONGEST_LOOK` seconds at most, so that nothing is held against the
child while the runner itself, or the whole machine, stood still. A look that sees nothing of the child counts nothing.
Silence counts only at looks that read its report, find it unchanged, and see its process run.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, field, replace

from qvl_run.watchdog.deadlines import Seen, learn
from qvl_run.watchdog.pace import WORKING, Pace, reported
from qvl_run.watchdog.snapshot import Around, Child, ProcessState, Report, Snapshot

LONGEST_LOOK = 2.0
"""Most seconds that the time between two looks counts."""
IDLE = 0.05
"""Share of the GPU below which it counts as idle."""
SAMPLE = 10.0
"""Watched seconds between two samples of memory that are kept."""
WINDOW = 600.0
"""Watched seconds that samples of memory are kept for."""


@dataclass(frozen=True, kw_only=True)
class History:
    """An attempt so far. `report` is the newest that was read; `quiet` the silence since; `seen` the longest silences
    that ended, those of earlier attempts included; `rss` pairs of watched seconds and bytes."""

    seen: Seen = field(default_factory=dict)
    watched: float = 0.0
    blind_for: float = 0.0
    report: Report | None = None
    quiet: float = 0.0
    process: ProcessState | None = None
    process_for: float = 0.0
    pace: Pace = field(default_factory=Pace)
    gpu_idle_for: float = 0.0
    surveyed_at: float = 0.0
    rss: tuple[tuple[float, int], ...] = ()


def looked(was: History, child: Child, elapsed: float) -> History:
    """`was` after a look at the child, `elapsed` seconds after the one before."""
    elapsed = min(max(elapsed, 0.0), LONGEST_LOOK)
    now = fresh(was, child)
    if now is None and child.process is None:
        return replace(was, blind_for=was.blind_for + elapsed, process=None, process_for=0.0)
    same = child.process == was.process
    seen = replace(
        was,
        watched=was.watched + elapsed,
        blind_for=0.0,
        process=child.process,
        process_for=was.process_for + elapsed if same else 0.0,
    )
    if now is None:
        return seen
    if was.report is None:
        return replace(seen, report=now)
    quiet = was.quiet + (elapsed if child.process == "running" else 0.0)
    if now.beat == was.report.beat:
        return replace(seen, quiet=quiet)
    return replace(
        seen,
        report=now,
        quiet=0.0,
        seen=learn(was.seen, was.report.section, quiet),
        pace=reported(was.pace, was.report, now, quiet),
    )


def fresh(was: History, child: Child) -> Report | None:
    """The report of this look; None where it is older than one that was read: then the file is not what it was."""
    now = child.report
    return None if now and was.report and now.beat < was.report.beat else now


def surveyed(was: History, around: Around) -> History:
    """`was` after a look at what is around the child."""
    section = was.report.section if was.report else None
    is_now = replace(was, surveyed_at=was.watched)
    if section not in WORKING:
        return is_now
    # Time in other sections adds nothing; a save in between ends no idling either.
    idle = was.gpu_idle_for
    if around.gpu_use is not None:
        idle = idle + was.watched - was.surveyed_at if around.gpu_use < IDLE else 0.0
    rss = was.rss
    if around.tree_rss is not None and (not rss or was.watched - rss[-1][0] >= SAMPLE):
        kept = (sample for sample in rss if was.watched - sample[0] <= WINDOW)
        rss = (*kept, (was.watched, around.tree_rss))
    return replace(is_now, gpu_idle_for=idle, rss=rss)


def snapshot(history: History, child: Child, around: Around) -> Snapshot:
    """What is to be judged, after `looked(..., child, ...)`. `around` may be a few seconds old."""
    now = fresh(history, child)
    seen = history.seen
    step_seconds = seen.get("step", 0.0) + seen.get("rollout", 0.0)
    return Snapshot(
        **asdict(around),
        watched=history.watched,
        blind_for=history.blind_for,
        section=now.section if now else None,
        step=now.step if now else None,
        total=now.total if now else None,
        beat=now.beat if now else None,
        quiet=history.quiet if now else None,
        process=child.process,
        process_for=history.process_for,
        gpu_idle_for=None if around.gpu_use is None else history.gpu_idle_for,
        save_seconds=seen.get("save"),
        step_seconds=history.pace.longest or step_seconds or None,
    )
