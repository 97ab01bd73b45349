"""Brings one stage to its end, over as many attempts as the rules of recovery allow."""

from __future__ import annotations

import contextlib
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import partial

from qvl_run.checkpoints.manifest import Broken
from qvl_run.plan.bench import Bench
from qvl_run.plan.faults import adds_none
from qvl_run.plan.make import Choices
from qvl_run.plan.plan import StagePlan
from qvl_run.recovery import budget, ladder
from qvl_run.recovery.classify import STOPPED, classify
from qvl_run.recovery.failure import Failure
from qvl_run.run.attempt import AttemptFolder, next_attempt
from qvl_run.run.cleanup import tidy_fetched
from qvl_run.run.orders import make_orders
from qvl_run.run.outcome import Outcome
from qvl_run.run.process import environment
from qvl_run.run.session import Session
from qvl_run.run.supervise import Ended, Supervisor
from qvl_run.spec.job import StageSpec
from qvl_run.watchdog.observe import Observer
from qvl_run.watchdog.watch import Watch


@dataclass(kw_only=True)
class StageRun:
    """The stage `spec` of the job, in `session`. `upstream` is the plan of the stage it starts from, done."""

    session: Session
    spec: StageSpec
    upstream: StagePlan | None
    _begun: bool = False
    _named: StagePlan | None = None
    _failures: list[tuple[str, str]] = field(init=False)

    def __post_init__(self) -> None:
        self._failures = self.session.failures.get(self.spec.name, [])

    def run(self) -> tuple[Outcome, StagePlan]:
        """How it ended, and its plan then. Raises OSError and Interrupted."""
        session, show = self.session, self.session.machinery.show
        plan = self._plan(session.choices)
        while True:
            show.stage(plan)
            session.note("stage_planned", stage=plan.spec.name, state=plan.state, step=plan.step)
            if plan.state == "done":
                return Outcome(ending="done"), plan
            if plan.state in ("broken", "waiting", "no_input"):
                return Outcome(
                    ending="broken" if plan.state == "broken" else "no_input", stage=plan
                ), plan
            if ending := self._due(plan):
                return ending, plan
            if session.choices.from_scratch and not self._begun:
                session.begin_anew(plan)
            self._begun = True
            try:
                folder, ended = self._attempt(plan)
            except Broken as error:
                self._named = None
                plan = session.without(plan, str(error))
                continue
            after = self._named_or(session.again(plan))
            if folder.read("result") and after.state == "done":
                show.saves(after)
                plan = after
                continue
            outcome = self._ended(plan, after, folder, ended)
            if isinstance(outcome, Outcome):
                return outcome, plan
            plan = outcome

    def _due(self, plan: StagePlan) -> Outcome | None:
        """The end of the run, where no further attempt is to be started."""
        session = self.session
        if session.lease.lost:
            return Outcome(ending="owned", stage=plan)
        if session.stop_after_save or session.stop_now:
            return Outcome(ending="stopped", stage=plan, why="asked to stop")
        if session.machinery.stop() or session.over():
            return Outcome(ending="stopped", stage=plan, why=session.over())
        return None

    def _plan(self, choices: Choices) -> StagePlan:
        plan = self.session.plan(self.spec, upstream=self.upstream, choices=choices)
        if choices.resume_from:
            self._named = plan
        return plan

    def _named_or(self, found: StagePlan) -> StagePlan:
        """`found`, unless the checkpoint that the user has named is further: it need not lie in the job's places."""
        named = self._named
        if named is None or found.state == "done" or found.step > named.step:
            return found
        return named

    def _ended(
        self, plan: StagePlan, after: StagePlan, folder: AttemptFolder, ended: Ended
    ) -> Outcome | StagePlan:
        """What an attempt that left no whole output comes to: the end of the run, or the plan of the next attempt."""
        session = self.session
        if session.lease.lost:
            return Outcome(ending="owned", stage=plan, log=folder.log)
        wanted = ended.asked or session.over() or session.machinery.stop()
        if wanted or (session.stop_after_save and ended.remains.returncode == STOPPED):
            why = ended.asked or ("asked to stop" if session.stop_after_save else "")
            return Outcome(ending="stopped", stage=plan, log=folder.log, why=why)
        failure = classify(ended.remains)
        failure = replace(failure, step=max(failure.step, plan.step), section=ended.remains.section)
        self._failures.append((plan.key or "", failure.failure))
        session.note(
            "attempt_failed",
            stage=plan.spec.name,
            attempt=folder.path.name,
            key=plan.key,
            failure=failure.failure,
            guessed=failure.guessed,
            step=failure.step,
            saved=after.step,
            message=failure.message[:2000],
        )
        return self._recover(plan, after, failure, folder)

    def _recover(
        self, plan: StagePlan, after: StagePlan, failure: Failure, folder: AttemptFolder
    ) -> Outcome | StagePlan:
        session, name = self.session, plan.spec.name
        assert plan.key is not None
        policy = session.job.recovery
        rule = policy.rule(failure.failure)
        account = budget.spent(session.past.ledger, stage=name, key=plan.key)
        step = self._rung(plan.spec, failure)
        decision = budget.decide(
            failure,
            policy=policy,
            account=account,
            saved=after.step,
            adapts=step is not None,
            exhausted=failure.failure == "oom"
            and bool(rule.adapt)
            and step is None
            and ladder.holds_batches(failure.section),
            jitter=session.machinery.chance(),
        )
        change = step.text if step and decision.retry else ""
        session.machinery.show.failed(plan, failure, decision, log=folder.log, change=change)
        if not decision.retry:
            # Nothing is wrong with the job then: another start may find what this one did not. At the ceiling that
            # must end, or whoever starts it again on exit code 75 would do so for ever.
            passing = failure.failure in ("preempted", "drive_lost") and not decision.ceiling
            if passing:
                # The next start is one more try: it counts, so that the ceiling ends those too.
                account = replace(account, total=account.total + 1)
                self._spend(plan.key, failure, decision, account)
            session.note("gave_up", stage=name, failure=failure.failure, why=decision.reason)
            return Outcome(
                ending="stopped" if passing else "failed",
                stage=plan,
                failure=failure,
                why=f"{failure.failure}: {decision.reason}" if passing else "",
                log=folder.log,
            )
        if step is not None:
            after = self._adapted(plan, step, failure)
        # With other settings the account goes on: a rung that changes the result gives nothing back.
        self._spend(after.key or plan.key, failure, decision, decision.account)
        session.pause(decision.wait)
        return after

    def _rung(self, spec: StageSpec, failure: Failure) -> ladder.Step | None:
        """What to make smaller in `spec`; None where nothing is left."""
        bench = Bench(machine=self.session.machine)
        needs = bench.measured_need if failure.section == "eval" else bench.need
        rule = self.session.job.recovery.rule(failure.failure)
        accepts = partial(adds_none, before=spec)
        return ladder.next_step(
            spec, rule.adapt, section=failure.section, needs=needs, accepts=accepts
        )

    def _spend(
        self, key: str, failure: Failure, decision: budget.Decision, account: budget.Account
    ) -> None:
        self.session.record(
            budget.RESTART,
            stage=self.spec.name,
            key=key,
            failure=failure.failure,
            rule=decision.rule.name,
            account=budget.to_json(account),
            wait=round(decision.wait, 1),
            by_hand=not decision.retry,
        )

    def _adapted(self, plan: StagePlan, step: ladder.Step, failure: Failure) -> StagePlan:
        """The plan of the next attempt with the change of `step`, which is remembered."""
        session = self.session
        machine = session.machine
        changes = {**plan.changes, **step.changes}
        session.record(
            ladder.ADAPTED,
            stage=plan.spec.name,
            settings=ladder.digest(self.spec),
            gpu=machine.gpu.name if machine.gpu else "cpu",
            rung=step.rung,
            rungs=self._rungs() + 1,
            changes=changes,
            text=step.text,
            step=failure.step,
        )
        fresh = self._plan(Choices())
        # A change that leaves the result as it is leaves the named checkpoint as it was, too.
        if self._named is not None and fresh.key == self._named.key:
            self._named = replace(
                self._named,
                spec=fresh.spec,
                settings=fresh.settings,
                needs=fresh.needs,
                changes=fresh.changes,
            )
            return self._named_or(fresh)
        self._named = None
        return fresh

    def _rungs(self) -> int:
        mine = ladder.digest(self.spec)
        return max(
            (
                int(record["rungs"])
                for record in self.session.past.ledger
                if record.get("event") == ladder.ADAPTED
                and (record["stage"], record["settings"]) == (self.spec.name, mine)
            ),
            default=0,
        )

    def _attempt(self, plan: StagePlan) -> tuple[AttemptFolder, Ended]:
        """One process, from start to end. Raises Broken where the checkpoint to resume from is not what it was."""
        session, name = self.session, plan.spec.name
        machinery = session.machinery
        folder = next_attempt(session.where.attempts(name))
        self._tidy_fetched(plan)
        orders = session.patience.ask(
            lambda: make_orders(
                plan,
                session.where,
                attempt=folder.path.name,
                owner=session.lease.me,
                gpu=session.machine.gpu.name if session.machine.gpu else None,
                wait=session.unless_stopped,
                earlier=self._earlier(plan),
            )
        )
        folder.write_orders(orders)
        session.note(
            "attempt_started",
            stage=name,
            attempt=folder.path.name,
            step=plan.step,
            changes=dict(plan.changes),
        )
        process = machinery.start(
            folder.path, log=folder.log, env=environment(session.where.downloads)
        )
        supervisor = Supervisor(
            process=process,
            folder=folder,
            watch=Watch(
                eyes=Observer(folder, pid=process.pid, gpu=machinery.gpu, known=session.known),
                clock=machinery.ticks,
                seen=session.seen.get(name, {}),
                floors=session.job.recovery.deadlines,
            ),
            wishes=session.wish,
            note=session.note,
            show=lambda progress: machinery.show.progress(plan, progress),
            tell=machinery.show.warn,
            say=machinery.show.line,
            gpu=machinery.gpu,
            clock=machinery.ticks,
            oom_kills=machinery.oom_kills,
        )
        ended = supervisor.run()
        machinery.show.progress(plan, folder.read("progress"), last=True)
        session.learn(name, ended.seen)
        session.note(
            "attempt_ended",
            stage=name,
            attempt=folder.path.name,
            code=ended.remains.returncode,
            section=ended.remains.section,
            step=ended.remains.step,
            seen=dict(ended.seen),
            left_behind=ended.left_behind,
        )
        with contextlib.suppress(OSError):
            session.events.close()
        return folder, ended

    def _tidy_fetched(self, plan: StagePlan) -> None:
        """Clear away what was fetched for attempts before this one, as far as this one does not load from it."""
        wanted = (
            {"checkpoint"} if plan.state == "resume" and plan.held and not plan.held.path else set()
        )
        wanted |= {"input"} if plan.input and not plan.input.path else set()
        with contextlib.suppress(OSError):
            tidy_fetched(self.session.where.scratch / "fetched", wanted=wanted)

    def _earlier(self, plan: StagePlan) -> Mapping[str, int]:
        """How many failures of one class the last attempts with these settings ended by, in a row."""
        count, last = 0, self._failures[-1] if self._failures else None
        for failure in reversed(self._failures):
            if failure != last or failure[0] != plan.key:
                break
            count += 1
        return {last[1]: count} if last and count else {}
