"""Runs a job: each stage in its order, each attempt in a process of its own, until all is done or a stage fails.

Everything impure that a test wants to replace comes in through `Machinery`.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Literal, Protocol

from qvl_run import plugins
from qvl_run.checkpoints import generation
from qvl_run.checkpoints import manifest as manifests
from qvl_run.checkpoints.manifest import Manifest
from qvl_run.checkpoints.store import FolderStore
from qvl_run.faults import crash_point
from qvl_run.hardware import Machine
from qvl_run.plan.make import Choices, Places, plan_stage
from qvl_run.plan.plan import StagePlan
from qvl_run.run import recovery
from qvl_run.run.attempt import AttemptFolder, Orders, next_attempt, records
from qvl_run.run.child import STOPPED
from qvl_run.run.events import Events
from qvl_run.run.mirror import Mirror
from qvl_run.run.process import ChildProcess, Process, environment
from qvl_run.run.recovery import Failure
from qvl_run.run.show import Show
from qvl_run.spec.job import Job, StageSpec

POLL = 0.2
"""Seconds between two looks at the child."""
GRACE = 120.0
"""Seconds that a child has to save, once it has been asked to stop."""
SESSION_MARGIN = 600.0
"""Seconds before the end of the session at which the run saves and stops."""

Ending = Literal["done", "failed", "stopped", "no_input", "broken"]


class Start(Protocol):
    """Starts the process of an attempt."""

    def __call__(self, folder: Path, *, log: Path, env: dict[str, str]) -> Process:
        """Start the attempt whose orders lie in `folder`; what it prints goes to `log`."""


@dataclass(kw_only=True)
class Machinery:
    """What a run touches the world with. `stop` is asked between looks whether the user wants it to end: 0 no,
    1 save and stop, 2 at once."""

    show: Show
    start: Start = ChildProcess
    clock: Callable[[], float] = time.time
    stop: Callable[[], int] = lambda: 0


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """How a run ended. `outputs` are the manifests of the finished stages; `folder` is the last one's."""

    ending: Ending
    outputs: tuple[Manifest, ...] = ()
    folder: Path | None = None
    stage: StagePlan | None = None
    failure: Failure | None = None
    log: Path | None = None


@dataclass(kw_only=True)
class Run:
    """One call of `qvl-run JOB`, with the folder lock held by the caller."""

    job: Job
    machine: Machine
    where: Places
    choices: Choices
    machinery: Machinery
    events: Events = field(init=False)
    store: FolderStore = field(init=False)
    deadline: float = field(init=False)

    def __post_init__(self) -> None:
        stamp = time.strftime("%Y%m%d-%H%M%S", time.gmtime(self.machinery.clock()))
        self.events = Events(self.where.scratch / "events" / f"events-{stamp}.jsonl")
        self.store = FolderStore(self.where.storage)
        session = self.job.hardware.max_session
        began = self.machine.boot_time if self.machine.colab else self.machinery.clock()
        self.deadline = began + session - SESSION_MARGIN if session else float("inf")

    def run(self) -> Outcome:
        """Run every stage that is not done. Raises OSError where storage cannot be read or prepared."""
        self.where.storage.mkdir(parents=True, exist_ok=True)
        self.events.add("run_started", job=self.job.name)
        done: dict[str, StagePlan] = {}
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
        self.events.add("run_ended", ending=outcome.ending)
        self._publish()
        finished = (plan for plan in done.values() if plan.state == "done")
        outputs = tuple(plan.manifest for plan in finished if plan.manifest)
        return replace(outcome, outputs=outputs)

    def _feeds(self, name: str) -> bool:
        """Whether the one stage to run starts, through others, from the stage called `name`."""
        upstream = {s.name: s.upstream for s in self.job.stages}
        at = self.choices.only
        while at is not None and at != name:
            at = upstream.get(at)
        return at == name

    def _plan(self, spec: StageSpec, done: dict[str, StagePlan], choices: Choices) -> StagePlan:
        upstream = done.get(spec.upstream) if spec.upstream else None
        return plan_stage(
            spec, self.job, self.machine, self.where, upstream=upstream, choices=choices
        )

    def _stage(self, spec: StageSpec, done: dict[str, StagePlan]) -> Outcome:
        """Bring `spec` to its end, over as many attempts as recovery allows."""
        show, choices = self.machinery.show, self.choices
        restarts = without_progress = 0
        while True:
            plan = self._plan(spec, done, choices)
            show.stage(plan)
            self.events.add("stage_planned", stage=spec.name, state=plan.state, step=plan.step)
            if plan.state == "done":
                done[spec.name] = self._kept(plan)
                return Outcome(ending="done", folder=done[spec.name].folder)
            if plan.state in ("broken", "waiting", "no_input"):
                return Outcome(
                    ending="broken" if plan.state == "broken" else "no_input", stage=plan
                )
            if choices.from_scratch:
                given_up = [r.folder.name for r in plan.rejected if r.broken]
                generation.begin(self.where.run, spec.name, given_up=given_up)
                choices = replace(choices, from_scratch=False)
            folder, returncode = self._attempt(plan)
            self._publish()
            error = folder.read("error")
            choices = replace(choices, resume_from=None)
            after = self._plan(spec, done, choices)
            if returncode == 0 and folder.read("result") and after.state == "done":
                continue
            if returncode == STOPPED or self.machinery.stop() or self._session_over():
                return Outcome(ending="stopped", stage=plan, log=folder.log)
            failure = recovery.classify(error, returncode)
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

    def _attempt(self, plan: StagePlan) -> tuple[AttemptFolder, int]:
        """One process, from start to end."""
        spec = plan.spec
        folder = next_attempt(self.where.attempts(spec.name))
        folder.write_orders(self._orders(plan, folder))
        env = environment(self.where.storage, drive=self.where.drive)
        self.events.add(
            "attempt_started", stage=spec.name, attempt=folder.path.name, step=plan.step
        )
        with Mirror(folder.work, self.store, tell=self.machinery.show.warn):
            process = self.machinery.start(folder.path, log=folder.log, env=env)
            try:
                returncode = self._watch(process, folder, plan)
            finally:
                process.kill()
        self.events.add("attempt_ended", stage=spec.name, attempt=folder.path.name, code=returncode)
        return folder, returncode

    def _orders(self, plan: StagePlan, folder: AttemptFolder) -> Orders:
        assert plan.identity is not None
        assert plan.key is not None
        local = self.where.scratch / "fetched"
        resume_from, input_from = None, plan.input
        if plan.state == "resume" and plan.folder and plan.manifest:
            resume_from = self.store.fetch(plan.folder, plan.manifest, local / "checkpoint")
        if input_from and (input_from / manifests.NAME).exists():
            input_from = self.store.fetch(input_from, manifests.read(input_from), local / "input")
        return Orders(
            settings=plan.settings,
            identity=plan.identity,
            key=plan.key,
            name=folder.path.name,
            input=None if input_from is None else str(input_from),
            resume_from=None if resume_from is None else str(resume_from),
            cache=str(self.where.cache),
            seconds=float(plan.manifest.facts.get("seconds", 0.0)) if plan.manifest else 0.0,
            recorded=records(self.where.attempts(plan.spec.name), plan.key),
            facts={"plugin": plugins.version_of("qvl.stages", plan.spec.uses)},
        )

    def _watch(self, process: Process, folder: AttemptFolder, plan: StagePlan) -> int:
        """Wait for the end of `process`, showing where it is, and passing a wish to stop on to it."""
        asked_at: float | None = None
        while (returncode := process.wait(POLL)) is None:
            self.machinery.show.progress(plan, folder.read("progress"))
            wish = self.machinery.stop()
            if (wish or self._session_over()) and asked_at is None:
                asked_at = self.machinery.clock()
                process.ask_to_stop()
                self.machinery.show.stopping(wish > 0)
            if wish > 1 or (asked_at is not None and self.machinery.clock() - asked_at > GRACE):
                process.kill()
        self.machinery.show.progress(plan, folder.read("progress"), last=True)
        return returncode

    def _kept(self, plan: StagePlan) -> StagePlan:
        """`plan`, with its output in storage, and on a local disk for whoever loads it."""
        assert plan.folder is not None
        assert plan.manifest is not None
        folder = plan.folder
        if self.where.attempts(plan.spec.name) in folder.parents:
            folder = self.store.put(folder, plan.manifest)
        return replace(plan, folder=folder)

    def _session_over(self) -> bool:
        return self.machinery.clock() > self.deadline

    def _publish(self) -> None:
        try:
            self.events.publish(self.where.run)
        except OSError as error:
            self.machinery.show.warn(f"the log of events could not be taken to storage: {error}")
