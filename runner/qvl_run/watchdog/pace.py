"""How long the steps of an attempt take, from its reports. Pure.

Steps are measured in windows of at least `WINDOW`: a stage that samples for several steps at once has long and short
ones in turn. Saves and evaluations between two steps do not count, nor does the first step.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from qvl_run.watchdog.snapshot import Report

WINDOW = 8
"""Steps whose mean time is one measurement."""
KEPT = 200
"""Windows that are remembered."""

WORKING = frozenset({"step", "rollout"})
"""Sections whose time belongs to the step."""
COUNTED = WORKING | {"first_step", "save"}
"""Sections whose `step` is that of the training; an evaluation counts its batches."""


@dataclass(frozen=True, kw_only=True)
class Pace:
    """`longest` is the longest step, `windows` the mean seconds a step of each window, oldest first. The rest is what
    has gone into the step and the window under way."""

    longest: float | None = None
    windows: tuple[float, ...] = ()
    step: int | None = None
    spent: float = 0.0
    window_seconds: float = 0.0
    window_steps: int = 0


def reported(pace: Pace, before: Report, now: Report, interval: float) -> Pace:
    """`pace` once `now` came, `interval` seconds after `before`."""
    if before.section in WORKING:
        pace = replace(pace, spent=pace.spent + interval)
    if now.section not in COUNTED or now.step is None:
        return pace
    if pace.step is None or now.step < pace.step or before.section == "first_step":
        return replace(pace, step=now.step, spent=0.0)
    if now.step == pace.step:
        return pace
    return _done(pace, now.step, steps=now.step - pace.step)


def _done(pace: Pace, step: int, *, steps: int) -> Pace:
    seconds, count = pace.window_seconds + pace.spent, pace.window_steps + steps
    longest = max(pace.longest or 0.0, pace.spent / steps)
    pace = replace(pace, step=step, spent=0.0, longest=longest)
    if count < WINDOW:
        return replace(pace, window_seconds=seconds, window_steps=count)
    windows = (*pace.windows, seconds / count)[-KEPT:]
    return replace(pace, windows=windows, window_seconds=0.0, window_steps=0)
