"""What a run tells people while it runs. All its printing happens here."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any, TextIO

from qvl_run.plan.plan import StagePlan
from qvl_run.recovery.budget import Decision
from qvl_run.recovery.failure import Failure
from qvl_run.units import show_duration, show_size

QUIET = 5.0
"""Seconds between two lines of progress, so that a log stays readable."""

WORTH_TELLING = 5.0
"""Seconds in the training loop from which on the cost of its saves says something."""

_SECTIONS = {
    "setup": "loading libraries",
    "download": "downloading",
    "load": "loading the model",
    "first_step": "starting to train",
    "step": "training",
    "rollout": "sampling answers",
    "eval": "evaluating",
    "save": "saving",
}


_STEPPING = {"step", "rollout", "save"}
_TELLING = ("loss", "reward", "rewards/accuracies", "rewards/margins", "kl", "learning_rate")
"""Metrics that are shown, where a stage has them; the log has all."""


class Show:
    """Lines on `out`; nothing is redrawn, so that a notebook and a log file read the same. `shown`
    takes out what must not be shown."""

    def __init__(
        self,
        out: TextIO,
        *,
        clock: Callable[[], float] = time.monotonic,
        shown: Callable[[str], str] = str,
    ) -> None:
        self._out = out
        self._shown = shown
        self._clock = clock
        self._last_time = float("-inf")
        self._last: tuple[Any, ...] | None = None
        self._section: str | None = None

    def line(self, text: str = "") -> None:
        """One line. A reader that has gone, or a terminal that lacks a character, never ends a run."""
        encoding = getattr(self._out, "encoding", None) or "utf-8"
        plain = self._shown(text).encode(encoding, "replace").decode(encoding)
        with suppress(OSError, ValueError):
            print(plain, file=self._out, flush=True)

    def warn(self, text: str) -> None:
        """Something that the user should know and that stops nothing."""
        self.line(f"warning: {text}")

    def stage(self, plan: StagePlan) -> None:
        """What is about to happen to a stage."""
        self._section = self._last = None
        self.line(f"{plan.spec.name}: {headline(plan)}")
        for text in details(plan):
            self.line(f"  {text}")

    def progress(
        self, plan: StagePlan, progress: Mapping[str, Any] | None, *, last: bool = False
    ) -> None:
        """Where the stage is, if that is news."""
        if progress is None:
            return
        section, step = progress.get("section", "setup"), progress.get("step")
        # Steps alternate between these; only their beginning is news.
        section = "step" if section in _STEPPING else section
        mark = (section, step)
        now = self._clock()
        new_section = section != self._section
        if mark == self._last or not (new_section or last or now - self._last_time >= QUIET):
            return
        self._section, self._last, self._last_time = section, mark, now
        self.line(f"  {plan.spec.name}  {progress_text(progress)}")

    def saves(self, plan: StagePlan) -> None:
        """What the saves of a finished stage cost it."""
        facts = plan.manifest.facts if plan.manifest else {}
        count, seconds, loop = (
            facts.get(name) for name in ("saves", "save_seconds", "loop_seconds")
        )
        if count and loop and loop >= WORTH_TELLING:
            self.line(
                f"{plan.spec.name}: {count} {'save' if count == 1 else 'saves'}, {seconds / count:.2f} s each, "
                f"{seconds / loop:.1%} of the time in the training loop"
            )

    def failed(
        self, plan: StagePlan, failure: Failure, decision: Decision, *, log: Path, change: str
    ) -> None:
        """An attempt died. `change` is what will be different in the next."""
        guessed = ", a guess" if failure.guessed else ""
        self.line(f"{plan.spec.name}: failed ({failure.failure}{guessed}): {failure.message}")
        # Where memory ran out says nothing: it is anybody's request that fails.
        if not failure.expected and failure.traceback and failure.failure not in ("oom", "ram"):
            self.line(
                "\n".join(f"  | {text}" for text in failure.traceback.strip().splitlines()[-6:])
            )
        after = f" in {show_duration(decision.wait)}" if decision.wait >= 1 else ""
        self.line(
            f"  {f'trying again{after}' if decision.retry else 'stopping'}: {decision.reason}"
        )
        if change:
            self.line(f"  with {change}")
        self.line(f"  all that it printed: {log}")


def headline(plan: StagePlan) -> str:
    """The state of a stage in a few words."""
    total = "" if plan.total is None else f" of {plan.total}"
    texts = {
        "done": "done" + (f" ({plan.step} steps)" if plan.step else ""),
        "resume": f"resume at step {plan.step}{total}",
        "run": "run" + (f" ({plan.total} steps)" if plan.total else ""),
        "rerun": "run again: its settings or its input changed",
        "waiting": "run" + (f" ({plan.total} steps)" if plan.total else ""),
        "no_input": "cannot start",
        "broken": "cannot go on",
    }
    return texts[plan.state]


def details(plan: StagePlan) -> list[str]:
    """The reasons below the headline."""
    lines = list(plan.reasons)
    lines += [
        f"{key} is {json.dumps(value)}: lowered by recovery" for key, value in plan.changes.items()
    ]
    if plan.state == "resume":
        lines.append(f"from {plan.held}")
    lines += [f"passed over {r.held.last}: {r.reason}" for r in plan.rejected if r.broken]
    return lines


def progress_text(progress: Mapping[str, Any]) -> str:
    """Where a stage is, from its progress file."""
    section, step, total = (progress.get(name) for name in ("section", "step", "total"))
    section, metrics = section or "setup", progress.get("metrics") or {}
    text = _SECTIONS.get(section, section)
    if section == "download" and (count := metrics.get("bytes")):
        whole = metrics.get("total_bytes")
        text += f"  {show_size(count)}" + (f" of {show_size(whole)}" if whole else "")
    if step is not None and section in {*_STEPPING, "first_step"}:
        text += f"  step {step}" + (f"/{total}" if total else "")
        told = [name for name in _TELLING if name in metrics] or list(metrics)[:3]
        text += "".join(f"  {name} {metrics[name]:.3g}" for name in told)
    return f"{text}  ({show_duration(progress.get('seconds') or 0)})"
