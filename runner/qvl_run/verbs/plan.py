"""`qvl-run plan`."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from dataclasses import replace
from typing import Any

import click

from qvl_run import exit_codes, hardware, plugins
from qvl_run.doctor.traps import kernels_missing
from qvl_run.hardware import Machine
from qvl_run.plan import host, origin, smaller, vram
from qvl_run.plan import plan as plans
from qvl_run.plan.bench import in_ram
from qvl_run.plan.decide import Decision
from qvl_run.plan.fit import fitted
from qvl_run.plan.make import make_plan
from qvl_run.plan.needs import UNMET
from qvl_run.plan.places import places
from qvl_run.plan.plan import Plan, StagePlan
from qvl_run.run.preflight import drive_missing, findings, machine_here
from qvl_run.run.show import details, headline
from qvl_run.spec.batch import MICRO, STEPS
from qvl_run.spec.data_check import check_data
from qvl_run.spec.diagnostic import Diagnostic, JobError
from qvl_run.spec.job import Job
from qvl_run.spec.render import render
from qvl_run.units import show_about, show_size, show_step
from qvl_run.verbs.job import Options, chosen, warn


def main(job: str, *, assume: str | None, as_json: bool, show_origin: bool, **options: Any) -> int:
    """Print the plan; the exit code is the one that `run` would end with before anything is done: 2, 3 or 4, else 0."""
    loaded, choices = chosen(job, Options(**options))
    warn(loaded)
    if show_origin:
        click.echo("\n".join(origin.lines(loaded)))
        return exit_codes.DONE
    where = places(loaded)
    here = machine_here(loaded, where) if assume is None else None
    machine = machine_for(loaded, assume, here)
    check_data(fitted(loaded, machine))
    plan = make_plan(loaded, machine, choices=choices)
    found = smaller.advised(plan.findings, plan.ahead, plan.machine)
    if here is not None:
        ahead = plan.ahead
        if plan.machine is not here:
            names = {spec.name for spec in ahead.stages}
            here_too = fitted(loaded, here).stages
            ahead = replace(loaded, stages=tuple(s for s in here_too if s.name in names))
        told = {(one.code, one.span) for one in found}
        found += tuple(
            one
            for one in findings(ahead, here, where)
            if one not in found and not (one.code in UNMET and (one.code, one.span) in told)
        )
    found = tuple(dict.fromkeys((*found, *kernels_missing(plan.machine))))
    plan = replace(plan, findings=found)
    if as_json:
        click.echo(loaded.shown(json.dumps(plans.to_json(plan), indent=2)))
    else:
        click.echo(loaded.shown(text(plan, judged=here is not None)))
    if any(f.severity == "error" for f in plan.findings):
        return exit_codes.MACHINE
    # Of a drive that is not here, as of an assumed machine's, it is not known what it holds.
    return _stopped_at(plan, known=not any(drive_missing(loaded, where)))


def _stopped_at(plan: Plan, *, known: bool) -> int:
    """The exit code of the first stage that could not begin, as things are: one that waits for a stage of this plan
    can. `known`: whether what it starts from can be looked for."""
    names = {stage.spec.name for stage in plan.stages}
    for stage in plan.stages:
        if stage.state == "broken":
            return exit_codes.BROKEN
        alone = stage.state == "waiting" and stage.spec.upstream not in names
        if known and (alone or stage.state == "no_input"):
            return exit_codes.USAGE
    return exit_codes.DONE


def machine_for(job: Job, assume: str | None, here: Machine | None) -> Machine:
    """This machine, `here`; the profile that `--assume` names; where there is no GPU, the tier the job was written for:
    what it would do there can still be shown.

    Raises JobError where there is no such tier.
    """
    if assume is None:
        assert here is not None
        tier = job.hardware.tier
        return here if here.gpu or tier in (None, "cpu") else hardware.profile(tier)
    tier = hardware.named(assume)
    if tier is None:
        message = f'--assume: there is no tier "{assume}"'
        raise JobError([Diagnostic(code="QVL010", message=message, hint=hardware.meant(assume))])
    return hardware.profile(tier)


def text(plan: Plan, *, judged: bool) -> str:
    """`plan` for people. `judged`: whether this machine's disks were held against what the job needs."""
    gpu, machine = plan.machine.gpu, plan.machine
    what = "no GPU" if gpu is None else f"{gpu.name}, {show_size(gpu.vram)}"
    gone = f"; {hardware.GONE[tier]}" if (tier := machine.assumed or "") in hardware.GONE else ""
    assumed = f" (assumed: {machine.assumed}{gone})" if machine.assumed else ""
    ram = f"{machine.cores} cores, {show_size(machine.ram)} RAM"
    lines = [f"{plan.job.name}: {what}, {ram}{assumed}"]
    lines += _decisions(plan.decisions, split=all(map(_chosen_split, plan.stages)))
    lines.append(f"  storage: {plan.storage}{_space(plan)}")
    lines += _not_judged(plan.job, judged=judged)
    lines += _total(plan)
    for stage in plan.stages:
        lines += ["", *_stage_lines(stage, plan)]
    lines += ["", "recovery:", *(f"  {line}" for line in plan.job.recovery.lines())]
    if plan.findings:
        lines += ["", render(plan.findings)]
    return "\n".join(lines)


def _decisions(decisions: Iterable[Decision], *, split: bool) -> Iterator[str]:
    """A line each. With `split` the micro-batch was chosen: the accumulation follows, and stands beside the global
    batch."""
    for decision in decisions:
        if not (split and decision.name == STEPS):
            yield f"  {decision.name}: {decision.value} ({decision.rule})"


def _chosen_split(stage: StagePlan) -> bool:
    return any(decision.name == MICRO for decision in stage.decisions)


def _not_judged(job: Job, *, judged: bool) -> Iterator[str]:
    wanted = {
        "min_disk": job.hardware.min_disk,
        "min_drive_space": job.hardware.min_drive_space,
    }
    names = " and ".join(name for name, least in wanted.items() if least is not None)
    if names and not judged:
        yield f"  not judged: {names} (what is free on a machine that is not here is not known)"


def _space(plan: Plan) -> str:
    """What the run will put there, where anything is known of it."""
    found = plan.space
    if not found.total:
        return ""
    least = "" if found.whole else "at least "
    models = f", base models {show_size(found.downloads)} of it" if found.downloads else ""
    return f" ({least}{show_size(found.total)} in the end{models})"


def _total(plan: Plan) -> Iterator[str]:
    """How long all of it will take, where there is more than one stage to tell of, and how many sessions."""
    known = [stage for stage in plan.stages if stage.seconds]
    least = "about" if plan.timed else "at least"
    if len(known) > 1:
        yield f"  time: {least} {show_about(plan.seconds or 0.0)} for the steps of all stages"
    length, count = plan.job.hardware.max_session, plan.sessions
    if length is not None and count is not None and count > 1:
        yield (
            f"  sessions: {least} {count} of {show_about(length)} each (max_session): after each, run it again with "
            "the same storage"
        )


def _time(stage: StagePlan) -> Iterator[str]:
    """How long the stage's steps will take, where something is known of that."""
    pace, left = stage.pace, stage.left
    if pace is None or stage.state in ("done", "no_input", "broken") or left == 0:
        return
    each = f"{show_step(pace.step)} a step, {pace.source}"
    if left is None or stage.seconds is None:
        yield f"  time: about {each}"
        return
    steps = "1 step" if left == 1 else f"{left} steps"
    more = " left" if stage.step else ""
    yield f"  time: about {show_about(stage.seconds)} for the {steps}{more} ({each})"


def _needs(stage: StagePlan, room: int | None) -> Iterator[str]:
    """What the stage needs of the machine, as far as it can tell."""
    needs = stage.needs
    peak, measuring = needs.vram, needs.evaluation
    if room is not None and in_ram(needs, room):
        yield "  GPU memory: too little for it, so it runs in RAM"
    elif peak is not None and room is not None:
        yield f"  GPU memory: {vram.of(peak.total, room)}, {vram.told(peak)}"
        if measuring is not None and measuring.total > peak.total:
            yield f"  its evaluation: {vram.of(measuring.total, room)}, {vram.told(measuring)}"
    elif needs.unknown and room is not None:
        least = f"; at least {vram.of(needs.at_least, room)}" if needs.at_least else ""
        yield f"  GPU memory: not predicted, {needs.unknown}{least}"
    sizes = (
        ("RAM", host.need(needs, room)),
        ("download", stage.needs.download),
        ("a checkpoint", stage.needs.checkpoint),
        ("its output", stage.needs.output),
    )
    if known := [f"{name} {show_size(size)}" for name, size in sizes if size]:
        yield f"  {', '.join(known)}"


def _stage_lines(stage: StagePlan, plan: Plan) -> Iterator[str]:
    yield f"{stage.spec.name} ({stage.spec.uses}): {headline(stage)}"
    for reason in details(stage):
        yield f"  {reason}"
    if stage.state == "done":
        if plan.machine.assumed:  # what it took here is in the report; there it is asked for
            yield from _needs(stage, plan.room)
        return
    yield from _needs(stage, plan.room)
    yield from _time(stage)
    if plugins.stage(stage.spec.uses).data_kind is None and not stage.total:
        return  # no rows and no steps: it does not train
    own = (decision for decision in stage.decisions if decision not in plan.decisions)
    yield from _decisions(own, split=_chosen_split(stage))
    training = stage.settings.training
    micro, accumulation = training.per_device_train_batch_size, training.gradient_accumulation_steps
    yield (
        f"  global batch {micro * accumulation} ({micro} x {accumulation}), "
        f"learning rate {training.learning_rate:g}"
    )
    risk = training.save_steps if stage.total is None else min(training.save_steps, stage.total)
    yield f"  a checkpoint every {training.save_steps} steps: a disconnect costs at most {risk} steps"
