"""Runs a job: each stage in its order, each attempt in a process of its own, until all is done or a stage fails.

Everything impure that a test wants to replace comes in through `Machinery`.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Literal, Protocol

from qvl_run.checkpoints import generation
from qvl_run.checkpoints.manifest import Broken, Manifest
from qvl_run.checkpoints.pick import Entry
from qvl_run.checkpoints.store import Held, Store
from qvl_run.faults import crash_point
from qvl_run.hardware import Machine
from qvl_run.plan.identity import measured_on
from qvl_run.plan.make import Choices, Past, Places, choose, look, plan_stage
from qvl_run.plan.plan import StagePlan
from qvl_run.run import recovery
from qvl_run.run.attempt import AttemptFolder, next_attempt
from qvl_run.run.child import STOPPED
from qvl_run.run.events import Events
from qvl_run.run.lease import Interrupted, Lease
from qvl_run.run.mirror import PATIENCE, Local, Mirror
from qvl_run.run.orders import make_orders
from qvl_run.run.patience import Patience
from qvl_run.run.process import ChildProcess, Process, environment
from qvl_run.run.recovery import Failure
from qvl_run.run.show import Show
from qvl_run.spec.job import Job, StageSpec
from qvl_run.units import show_duration

POLL = 0.2
"""Seconds between two looks at the child."""
GRACE = 120.0
"""Seconds that a child has to save, once it has been asked to stop."""
SESSION_MARGIN = 600.0
"""Seconds before the end of the session at which the run saves and stops."""

Ending = Literal["done", "failed", "stopped", "no_input", "broken", "owned"]


class Start(Protocol):
    """Starts the process of an attempt."""

    def __call__(self, folder: Path, *, log: Path, env: dict[str, str]) -> Process:
        """Start the attempt whose orders lie in `folder`; what it prints goes to `log`."""


@dataclass(kw_only=True)
class Machinery:
    """What a run touches the world with. `stop` is asked between looks whether the user wants it to end: 0 no,
    1 save and stop, 2 at once. `sleep` waits between two tries of a store."""

    show: Show
    start: Start = ChildProcess
    clock: Callable[[], float] = time.time
    sleep: Callable[[float], object] = time.sleep
    stop: Callable[[], int] = lambda: 0


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """How a run ended. `outputs` are the manifests of the finished stages; `result` is where the last one's output
    lies. `elsewhere` names those of them that were measured on other held-out rows than the job now names. `left` is
    what has not reached the store; `store` says where that is."""

    ending: Ending
    outputs: tuple[Manifest, ...] = ()
    result: Held | None = None
    elsewhere: frozenset[str] = frozenset()
    stage: StagePlan | None = None
    failure: Failure | None = None
    log: Path | None = None
    left: tuple[Local, ...] = ()
    store: Store | None = None


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
    events: Events = field(init=False)
    store: Store = field(init=False)
    past: Past = field(init=False)
    lease: Lease = field(init=False)
    mirror: Mirror = field(init=False)
    deadline: float = field(init=False)
    patience: Patience = field(init=False)
    _refused: bool = False

    def __post_init__(self) -> None:
        session = self.job.hardware.max_session
        began = self.machine.boot_time if self.machine.colab else self.machinery.clock()
        self.deadline = began + session - SESSION_MARGIN if session else float("inf")
        seconds = self.job.storage.patience
        self.patience = Patience(
            seconds=seconds,
            stop=lambda: self.machinery.stop() > 0,
            sleep=self.machinery.sleep,
            tell=lambda: self.machinery.show.warn(
                f"{self.where.place} does not answer; trying for up to {show_duration(seconds)}"
            ),
        )

    def run(self) -> Outcome:
        """Run every stage that is not done. Raises OSError where storage cannot be read or prepared, Owned where
        another runner is at work, Interrupted where the user ended the wait for one."""
        self.where.prepare()
        self.store = self.where.store()
        self.lease = Lease(
            store=self.store,
            run=self.where.run,
            memory=self.where.scratch / "owned",
            clock=self.machinery.clock,
            pause=self.patience.pause,
            tell=self.machinery.show.line,
        )
        self.patience.ask(lambda: self.lease.acquire(take_over=self.take_over))
        now = self.machinery.clock()
        stamp = f"{time.strftime('%Y%m%d-%H%M%S', time.gmtime(now))}-{now % 1 * 1000:03.0f}"
        name = f"events-{stamp}-{self.lease.me.token}.jsonl"
        self.events = Events(self.where.scratch / "events" / name, clock=self.machinery.clock)
        try:
            self.past = self.patience.ask(lambda: look(self.job, self.where, self.store))
            self.lease.keep()
            return self._with_mirror()
        finally:
            self.lease.release()

    def _with_mirror(self) -> Outcome:
        show, job = self.machinery.show, self.job
        self.mirror = Mirror(
            committed=lambda: [e for spec in job.stages for e in self.where.committed(spec.name)],
            store=self.store,
            index=self.past.index,
            tell=show.warn,
            note=self.events.add,
            rate=job.storage.mirror_rate,
            rival=lambda: self.lease.rival,
        )
        self.mirror.start()
        self.events.add("run_started", job=job.name)
        outcome, done = Outcome(ending="failed"), dict[str, StagePlan]()
        try:
            outcome = self._stages(done)
        finally:
            left = self._close_mirror()
            self.events.add(
                "run_ended", ending=outcome.ending, not_stored=[one.name for one in left]
            )
            self._publish()
        finished = [plan for plan in done.values() if plan.state == "done" and plan.manifest]
        return replace(
            outcome,
            outputs=tuple(plan.manifest for plan in finished if plan.manifest),
            result=self._settled(finished[-1]).held if finished else None,
            elsewhere=frozenset(
                plan.spec.name
                for plan in finished
                if plan.manifest
                and plan.manifest.facts.get("measured_on") != measured_on(plan.settings)
            ),
            left=tuple(left),
            store=self.store,
        )

    def _close_mirror(self) -> list[Local]:
        before = self.machinery.stop()
        if (left := self.mirror.pending()) and self.store.local("") is None:
            self.machinery.show.line(
                f"taking {len(left)} more to {self.store.place} (Ctrl-C ends that)"
            )
        return self.mirror.close(
            patience=float("inf") if self.wait_for_store else PATIENCE,
            enough=lambda: self.machinery.stop() > before,
        )

    def _stages(self, done: dict[str, StagePlan]) -> Outcome:
        outcome = Outcome(ending="done")
        for spec in self.job.stages:
            if self.choices.only not in (None, spec.name):
                if self._feeds(spec.name):
                    done[spec.name] = self._plan(spec, done, Choices())
                continue
            if done:
                crash_point("run.between_stages")
            outcome = self._stage(spec, done)
            if outcome.ending != "done":
                break
        return outcome

    def _feeds(self, name: str) -> bool:
        """Whether the one stage to run starts, through others, from the stage called `name`."""
        upstream = {s.name: s.upstream for s in self.job.stages}
        at = self.choices.only
        while at is not None and at != name:
            at = upstream.get(at)
        return at == name

    def _plan(self, spec: StageSpec, done: dict[str, StagePlan], choices: Choices) -> StagePlan:
        upstream = done.get(spec.upstream) if spec.upstream else None
        self._settle()
        return self.patience.ask(
            lambda: plan_stage(
                spec,
                self.job,
                self.machine,
                self.where,
                self.past,
                upstream=upstream,
                choices=choices,
            )
        )

    def _again(self, plan: StagePlan) -> StagePlan:
        """`plan` with what there is of it now."""
        self._settle()
        return self.patience.ask(lambda: choose(plan, self.job, self.where, self.past))

    def _settle(self) -> None:
        """Where storage is this machine's own disk, what was committed is taken there before anyone loads from it."""
        if self.store.local("") is not None:
            self.mirror.sweep()

    def _stage(self, spec: StageSpec, done: dict[str, StagePlan]) -> Outcome:
        """Bring `spec` to its end, over as many attempts as recovery allows."""
        show = self.machinery.show
        restarts = without_progress = 0
        plan = self._plan(spec, done, self.choices)
        while True:
            show.stage(plan)
            self.events.add("stage_planned", stage=spec.name, state=plan.state, step=plan.step)
            if plan.state == "done":
                done[spec.name] = plan
                return Outcome(ending="done")
            if plan.state in ("broken", "waiting", "no_input"):
                return Outcome(
                    ending="broken" if plan.state == "broken" else "no_input", stage=plan
                )
            if self.choices.from_scratch and not restarts:
                self._begin_anew(plan)
            try:
                folder, returncode = self._attempt(plan)
            except Broken as error:
                plan = self._without(plan, str(error))
                continue
            self._publish()
            failed = folder.read("error")
            after = self._again(plan)
            if returncode == 0 and folder.read("result") and after.state == "done":
                show.saves(after)
                plan = after
                continue
            if self.lease.lost:
                return Outcome(ending="owned", stage=plan, log=folder.log)
            if returncode == STOPPED or self.machinery.stop() or self._session_over():
                return Outcome(ending="stopped", stage=plan, log=folder.log)
            failure = recovery.classify(failed, returncode)
            self.events.add(
                "attempt_failed", stage=spec.name, failure=failure.failure, message=failure.message
            )
            progressed = after.step > plan.step
            without_progress = 0 if progressed else without_progress
            decision = recovery.decide(
                failure,
                policy=self.job.recovery,
                restarts=restarts,
                without_progress=without_progress,
            )
            show.failed(plan, failure, decision, log=folder.log)
            if not decision.retry:
                return Outcome(ending="failed", stage=plan, failure=failure, log=folder.log)
            restarts += 1
            without_progress += 0 if progressed else 1
            plan = after

    def _begin_anew(self, plan: StagePlan) -> None:
        """Write down that the stage is begun anew, and what is given up with that."""
        assert plan.base_key is not None
        name = plan.spec.name
        given_up = [r.held.last for r in plan.rejected if r.broken]
        generation.begin(self.store, self.where.run, name, key=plan.base_key, given_up=given_up)
        known = generation.read(self.store, self.where.run, name)
        self.past = replace(self.past, generations={**self.past.generations, name: known})

    def _without(self, plan: StagePlan, reason: str) -> StagePlan:
        """`plan` anew, the checkpoint left out that it was to resume from: it broke between two looks."""
        assert plan.held is not None
        self.machinery.show.warn(f"{plan.held.last}: {reason}; passed over")
        self.past.index.mark(plan.spec.name, Entry(held=plan.held, broken=reason))
        return self._again(plan)

    def _attempt(self, plan: StagePlan) -> tuple[AttemptFolder, int]:
        """One process, from start to end. Raises Broken where the checkpoint to resume from is not what it was."""
        spec = plan.spec
        folder = next_attempt(self.where.attempts(spec.name))
        folder.write_orders(
            self.patience.ask(
                lambda: make_orders(
                    plan,
                    self.where,
                    attempt=folder.path.name,
                    owner=self.lease.me,
                    wait=self._unless_stopped,
                )
            )
        )
        env = environment(self.where.downloads)
        self.events.add(
            "attempt_started", stage=spec.name, attempt=folder.path.name, step=plan.step
        )
        process = self.machinery.start(folder.path, log=folder.log, env=env)
        try:
            returncode = self._watch(process, folder, plan)
        finally:
            process.kill()
        self.events.add("attempt_ended", stage=spec.name, attempt=folder.path.name, code=returncode)
        return folder, returncode

    def _unless_stopped(self, _: int) -> None:
        """Raise Interrupted in the middle of a copy that the user does not want to wait for."""
        if self.machinery.stop():
            raise Interrupted

    def _watch(self, process: Process, folder: AttemptFolder, plan: StagePlan) -> int:
        """Wait for the end of `process`, showing where it is, and passing a wish to stop on to it."""
        asked_at: float | None = None
        while (returncode := process.wait(POLL)) is None:
            self.machinery.show.progress(plan, folder.read("progress"))
            wish = self.machinery.stop()
            if (wish or self.lease.lost or self._session_over()) and asked_at is None:
                asked_at = self.machinery.clock()
                process.ask_to_stop()
                why = "another qvl-run has taken this job over" if self.lease.lost else ""
                self.machinery.show.stopping(wish > 0, why)
            if wish > 1 or (asked_at is not None and self.machinery.clock() - asked_at > GRACE):
                process.kill()
        self.machinery.show.progress(plan, folder.read("progress"), last=True)
        return returncode

    def _settled(self, plan: StagePlan) -> StagePlan:
        """`plan` with its output where it is in storage, if it has come there."""
        stored = (e for e in self.past.index.of(plan.spec.name) if e.manifest == plan.manifest)
        return replace(plan, held=next((e.held for e in stored), plan.held))

    def _session_over(self) -> bool:
        return self.machinery.clock() > self.deadline

    def _publish(self) -> None:
        try:
            self.events.publish(self.store, self.where.run)
            self._refused = False
        except OSError as error:
            if not self._refused:
                self.machinery.show.warn(
                    f"the log of events could not be taken to storage yet: {error}"
                )
            self._refused = True
