"""Runs a job: each stage in its order, each attempt in a process of its own, until all is done or a stage fails.

Everything impure that a test wants to replace comes in through `Machinery`.
"""

from __future__ import annotations

import contextlib
import errno
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from qvl_run.checkpoints.store import Store
from qvl_run.faults import crash_point
from qvl_run.hardware import Machine
from qvl_run.plan.make import Choices
from qvl_run.plan.past import look
from qvl_run.plan.places import Places
from qvl_run.plan.plan import StagePlan
from qvl_run.run import events as story
from qvl_run.run import requests
from qvl_run.run.cleanup import tidy_attempts
from qvl_run.run.events import Events
from qvl_run.run.lease import Interrupted, Lease
from qvl_run.run.machinery import Machinery
from qvl_run.run.mirror import PATIENCE, Local, Mirror
from qvl_run.run.outcome import Outcome
from qvl_run.run.patience import Patience
from qvl_run.run.process import end_leftovers
from qvl_run.run.report import measured_elsewhere
from qvl_run.run.session import Session
from qvl_run.run.stage import StageRun
from qvl_run.spec.job import Job
from qvl_run.units import show_duration

LEAST_END = 20.0
"""Least seconds for taking what is left to storage, however little of the session is left."""


@dataclass(kw_only=True)
class Run:
    """One call of `qvl-run JOB`, with the folder lock of this machine held by the caller."""

    job: Job
    machine: Machine
    where: Places
    choices: Choices
    machinery: Machinery
    take_over: bool = False
    wait_for_store: bool = False
    patience: Patience = field(init=False)
    ends: float | None = field(init=False)

    def __post_init__(self) -> None:
        length = self.job.hardware.max_session
        began = self.machine.boot_time if self.machine.colab else self.machinery.clock()
        self.ends = began + length if length else None
        if self.ends is not None and self.ends < self.machinery.clock():
            self.machinery.show.warn(
                f"this machine is up for longer than hardware.max_session ({show_duration(length or 0)}): when "
                "it goes is not known, so the run cannot stop in time; set max_session to what it really is"
            )
            self.ends = None
        seconds = self.job.storage.patience
        self.patience = Patience(
            seconds=seconds,
            stop=lambda: self.machinery.stop() > 0 or requests.waits(self.where.scratch),
            sleep=self.machinery.sleep,
            tell=lambda: self.machinery.show.warn(
                f"{self.where.place} does not answer; trying for up to {show_duration(seconds)}"
            ),
        )

    def run(self) -> Outcome:
        """Run every stage that is not done. Raises OSError where storage cannot be read or prepared, Owned where
        another runner is at work, Interrupted where the user ended the wait for one."""
        requests.forget(self.where.scratch)
        self.where.prepare()
        store = self.where.store()
        lease = Lease(
            store=store,
            run=self.where.run,
            memory=self.where.scratch / "owned",
            clock=self.machinery.clock,
            pause=self.patience.pause,
            tell=self.machinery.show.line,
        )
        known = self.where.scratch / "stored"
        self.patience.ask(lambda: self._still_there(store, known))
        self.patience.ask(lambda: lease.acquire(take_over=self.take_over))
        with contextlib.suppress(OSError):
            if store.names(self.where.run):
                known.touch()
        try:
            lease.keep()
            past = self.patience.ask(lambda: look(self.job, self.where, store))
            folder = self.where.scratch / "events"
            before = story.here(folder)
            events = Events(
                folder, token=lease.me.token, clock=self.machinery.clock, shown=self.job.shown
            )
            session = Session(
                job=self.job,
                machine=self.machine,
                where=self.where,
                choices=self.choices,
                machinery=self.machinery,
                store=store,
                lease=lease,
                mirror=Mirror(
                    committed=lambda: [
                        e for spec in self.job.stages for e in self.where.committed(spec.name)
                    ],
                    store=store,
                    index=past.index,
                    tell=self.machinery.show.warn,
                    note=events.add,
                    rate=self.job.storage.mirror_rate,
                    rival=lambda: lease.rival,
                    segments=events.closed,
                    run=self.where.run,
                ),
                events=events,
                patience=self.patience,
                past=past,
                ends=self.ends,
            )
            session.remember(before)
            return self._with_mirror(session)
        finally:
            lease.release()

    def _still_there(self, store: Store, known: Path) -> None:
        """Raise OSError where the store has held something of this run, as the file `known` says, and holds nothing
        now: an empty folder at the place of a drive that is not mounted looks so, and all would start anew."""
        if known.exists() and not store.names(self.where.run):
            text = (
                "it has held this run and holds nothing of it now: is it mounted? To begin anew, delete "
                f"{self.where.scratch}"
            )
            raise OSError(errno.ENOENT, text, self.where.place)

    def _with_mirror(self, session: Session) -> Outcome:
        session.mirror.start()
        session.note("run_started", job=self.job.name, **machine_facts(self.machine))
        self._tidy(session)
        outcome, done = Outcome(ending="failed"), dict[str, StagePlan]()
        try:
            outcome = self._stages(session, done)
        except (OSError, Interrupted, KeyboardInterrupt) as error:
            outcome = Outcome(ending="stopped", why=str(error) or "asked to stop")
            raise
        finally:
            with contextlib.suppress(OSError):
                session.events.close()
            left = self._close_mirror(session)
            session.note(
                "run_ended",
                ending=outcome.ending,
                stage=outcome.stage.spec.name if outcome.stage else None,
                why=outcome.why,
                not_stored=[one.name for one in left],
            )
            with contextlib.suppress(OSError):
                session.events.close()
            session.mirror.take_segments()
        finished = [
            (plan, plan.manifest)
            for plan in done.values()
            if plan.state == "done" and plan.manifest
        ]
        return replace(
            outcome,
            outputs=tuple(manifest for _, manifest in finished),
            result=_settled(session, finished[-1][0]).held if finished else None,
            elsewhere=measured_elsewhere(finished),
            left=tuple(left),
            store=session.store,
        )

    def _tidy(self, session: Session) -> None:
        """End and clear away what a runner left behind that was killed."""
        if count := end_leftovers(self.where.scratch):
            text = f"{count} processes of an earlier run lived on and were ended"
            session.note("finding", name="leftovers", text=text)
            self.machinery.show.warn(text)
        for spec in self.job.stages:
            with contextlib.suppress(OSError):
                tidy_attempts(self.where.attempts(spec.name), keep=self._in_use())

    def _in_use(self) -> list[Path]:
        """Folders that the user has named, and that may lie among those that are cleared away."""
        named = [self.choices.resume_from, *(spec.init_from for spec in self.job.stages)]
        return [path for path in named if path is not None]

    def _stages(self, session: Session, done: dict[str, StagePlan]) -> Outcome:
        outcome = Outcome(ending="done")
        for spec in self.job.stages:
            upstream = done.get(spec.upstream) if spec.upstream else None
            if self.choices.only not in (None, spec.name):
                if self._feeds(spec.name):
                    done[spec.name] = session.plan(spec, upstream=upstream, choices=Choices())
                continue
            if done:
                crash_point("run.between_stages")
            outcome, plan = StageRun(session=session, spec=spec, upstream=upstream).run()
            if outcome.ending != "done":
                break
            done[spec.name] = plan
            if session.stop_after_save and spec != self.job.stages[-1]:
                return Outcome(ending="stopped", why="asked to stop after the next save")
        return outcome

    def _feeds(self, name: str) -> bool:
        """Whether the one stage to run starts, through others, from the stage called `name`."""
        upstream = {s.name: s.upstream for s in self.job.stages}
        at = self.choices.only
        while at is not None and at != name:
            at = upstream.get(at)
        return at == name

    def _close_mirror(self, session: Session) -> list[Local]:
        before, show = self.machinery.stop(), self.machinery.show
        if before > 1:
            return session.mirror.close(patience=0.0, enough=lambda: True)
        if (left := session.mirror.pending()) and session.store.local("") is None:
            show.line(f"taking {len(left)} more to {session.store.place} (Ctrl-C ends that)")
        until = self._last_moment()
        return session.mirror.close(
            patience=float("inf") if self.wait_for_store else PATIENCE,
            enough=lambda: self.machinery.stop() > before or self.machinery.clock() > until,
        )

    def _last_moment(self) -> float:
        """Until when storage is waited for: the end of the session."""
        if self.ends is None:
            return float("inf")
        return max(self.ends, self.machinery.clock() + LEAST_END)


def _settled(session: Session, plan: StagePlan) -> StagePlan:
    """`plan` with its output where it is in storage, if it has come there."""
    stored = (e for e in session.past.index.of(plan.spec.name) if e.manifest == plan.manifest)
    return replace(plan, held=next((e.held for e in stored), plan.held))


def machine_facts(machine: Machine) -> dict[str, Any]:
    """What the story of a run says of its machine (schemas/event.schema.json)."""
    gpu = machine.gpu
    if gpu is None:
        return {"machine": "no GPU", "gpu": None}
    driver = machine.driver.version if machine.driver else ""
    facts = {"name": gpu.name, "vram": gpu.vram, "capability": list(gpu.capability)}
    return {"machine": gpu.name, "gpu": {**facts, "driver": driver}}
