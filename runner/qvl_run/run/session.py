"""One call of `qvl-run JOB` at work: all that its stages share, and the few things that they ask of it."""

from __future__ import annotations

import contextlib
from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from typing import Any

from qvl_run.checkpoints import generation
from qvl_run.checkpoints.pick import Entry
from qvl_run.checkpoints.store import Store
from qvl_run.hardware import Machine
from qvl_run.plan.fit import Fits, fit
from qvl_run.plan.make import Choices, choose, plan_stage
from qvl_run.plan.past import Past
from qvl_run.plan.places import Places
from qvl_run.plan.plan import StagePlan
from qvl_run.recovery.classify import STOPPED
from qvl_run.run import requests
from qvl_run.run.events import Events, Record
from qvl_run.run.lease import Interrupted, Lease
from qvl_run.run.machinery import Machinery
from qvl_run.run.mirror import Mirror
from qvl_run.run.patience import Patience
from qvl_run.run.supervise import Wish
from qvl_run.spec.job import Job, StageSpec
from qvl_run.watchdog import deadlines
from qvl_run.watchdog.deadlines import Seen, merge
from qvl_run.watchdog.snapshot import Known

PAUSE = 1.0
"""Seconds between two looks for requests, while an attempt is waited with."""


@dataclass(kw_only=True)
class Session:
    """`ends` is when the machine goes, in seconds since the epoch, None where that is not known. `seen` are the longest
    silences of each stage's sections so far, `failures` those that its last attempts on this machine ended by:
    key of the settings, and class."""

    job: Job
    machine: Machine
    where: Places
    choices: Choices
    machinery: Machinery
    store: Store
    lease: Lease
    mirror: Mirror
    events: Events
    patience: Patience
    past: Past
    ends: float | None
    seen: dict[str, Seen] = field(default_factory=dict)
    failures: dict[str, list[tuple[str, str]]] = field(default_factory=dict)
    stop_after_save: bool = False
    stop_now: bool = False
    _fits: Fits = field(init=False)

    def __post_init__(self) -> None:
        self._fits = fit(self.job, self.machine)

    def plan(self, spec: StageSpec, *, upstream: StagePlan | None, choices: Choices) -> StagePlan:
        """What is to be done with `spec` now. Raises OSError."""
        self._settle()
        return self.patience.ask(
            lambda: plan_stage(
                spec,
                self.job,
                self.machine,
                self.where,
                self.past,
                fits=self._fits,
                upstream=upstream,
                choices=choices,
                wait=self.unless_stopped,
            )
        )

    def again(self, plan: StagePlan) -> StagePlan:
        """`plan` with what there is of it now. Raises OSError."""
        self._settle()
        return self.patience.ask(
            lambda: choose(plan, self.job, self.where, self.past, wait=self.patience.moved)
        )

    def without(self, plan: StagePlan, reason: str) -> StagePlan:
        """`plan` anew, the checkpoint left out that it was to resume from: it broke between two looks."""
        assert plan.held is not None
        self.machinery.show.warn(f"{plan.held.last}: {reason}; passed over")
        self.past.index.mark(plan.spec.name, Entry(held=plan.held, broken=reason))
        return self.again(plan)

    def begin_anew(self, plan: StagePlan) -> None:
        """Write down that the stage is begun anew, and what is given up with that. Raises OSError."""
        name, key = plan.spec.name, plan.base_key
        assert key is not None
        given_up = [r.held.last for r in plan.rejected if r.broken]
        wanted = self.past.generations[name].numbers.get(key, 0) + 1

        def begin() -> generation.Generation:
            known = generation.read(self.store, self.where.run, name)
            if (
                known.numbers.get(key, 0) < wanted
            ):  # asked again after an error, it may have been written
                generation.begin(self.store, self.where.run, name, key=key, given_up=given_up)
            return generation.read(self.store, self.where.run, name)

        known = self.patience.ask(begin)
        self.past = replace(self.past, generations={**self.past.generations, name: known})

    def note(self, event: str, **details: Any) -> None:
        """Write an event that nothing depends on: a full disk must not end what still runs."""
        with contextlib.suppress(OSError):
            self.events.add(event, **details)

    def record(self, event: str, **details: Any) -> None:
        """Write an event that recovery counts on, and count on it from now on."""
        self.events.add(event, **details)
        self.past = replace(self.past, ledger=[*self.past.ledger, {"event": event, **details}])

    def remember(self, story: Iterable[Record]) -> None:
        """Learn from what earlier runs on this machine wrote down."""
        for record in story:
            stage = str(record.get("stage"))
            if record.get("event") == "attempt_ended":
                self.learn(stage, deadlines.read(record.get("seen")))
                if record.get("code") in (0, STOPPED):
                    self.failures.pop(stage, None)
            elif record.get("event") == "attempt_failed":
                failure = (str(record.get("key")), str(record.get("failure")))
                self.failures.setdefault(stage, []).append(failure)

    def learn(self, stage: str, seen: Seen) -> None:
        """Remember how long the sections of `stage` have been silent."""
        self.seen[stage] = merge(self.seen.get(stage, {}), seen)

    def over(self) -> str:
        """Why the run is to end, apart from what the user wants; empty where it is not."""
        if self.lease.lost:
            return "another qvl-run has taken this job over"
        if self.ends is not None and self.machinery.clock() > self.ends:
            return "the session is over"
        return ""

    def wish(self) -> Wish:
        """What is wanted of the child at this moment. Requests are taken; each is given once."""
        asked = self.lease.requests() | requests.take(self.where.scratch)
        for name in sorted(asked):
            self.note("asked", request=name)
            self.machinery.show.line(f"asked to {name.replace('-', ' ')}")
        if requests.STOP in asked:
            self.stop_after_save = True
        if self.stop_after_save and requests.SAVE in asked:
            self.stop_now = True  # both, whichever was seen first: as Ctrl-C
        count, over = self.machinery.stop(), self.over()
        return Wish(
            stop=max(count, 1 if over or self.stop_now else 0),
            why=over or "asked to stop",
            save=requests.SAVE in asked,
            after_save=self.stop_after_save,
        )

    def pause(self, seconds: float) -> None:
        """Wait before the next attempt, or until the run is to end."""
        while seconds > 0 and not self.wish().stop and not self.stop_after_save:
            self.patience.pause(min(PAUSE, seconds))
            seconds -= PAUSE

    def known(self) -> Known:
        """What the watchdog cannot see itself."""
        count, lag = self.mirror.waiting()
        stored = (entry for spec in self.job.stages for entry in self.past.index.of(spec.name))
        sizes = [entry.manifest.size for entry in stored if entry.manifest]
        return Known(
            checkpoint_bytes=max(sizes, default=None),
            store_refusing_for=self.mirror.refusing_for(),
            upload_waiting=count,
            upload_lag=lag,
            upload_seconds=0.0 if self.store.local("") else self.mirror.slowest_upload,
            session_left=None if self.ends is None else self.ends - self.machinery.clock(),
        )

    def unless_stopped(self, count: int) -> None:
        """Told of each chunk that was read: raise Interrupted where the user does not want to wait for it."""
        self.patience.moved(count)
        if self.patience.stop():
            raise Interrupted

    def _settle(self) -> None:
        """Where storage is this machine's own disk, what was committed is taken there before anyone loads from it."""
        self.mirror.settle()
