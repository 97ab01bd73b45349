"""`qvl-run plan`."""

from __future__ import annotations

import json

import click

from qvl_run import exit_codes, hardware
from qvl_run.hardware import Machine
from qvl_run.plan import plan as plans
from qvl_run.plan.make import make_plan
from qvl_run.plan.plan import Plan
from qvl_run.run.show import details, headline
from qvl_run.spec.diagnostic import Diagnostic, JobError, did_you_mean
from qvl_run.spec.job import Job
from qvl_run.spec.load import check_data
from qvl_run.spec.render import render
from qvl_run.units import show_size
from qvl_run.verbs.job import chosen


def main(
    job: str,
    *,
    assume: str | None,
    as_json: bool,
    stage: str | None,
    resume_from: str | None,
    init_from: str | None,
    from_scratch: bool,
) -> int:
    """Print the plan; the exit code says whether the machine can run it (0 or 3)."""
    loaded, choices = chosen(
        job, stage=stage, resume_from=resume_from, init_from=init_from, from_scratch=from_scratch
    )
    check_data(loaded)
    plan = make_plan(loaded, machine_for(loaded, assume), choices=choices)
    if as_json:
        click.echo(json.dumps(plans.to_json(plan), indent=2))
    else:
        show(plan)
    if any(f.severity == "error" for f in plan.findings):
        return exit_codes.MACHINE
    return exit_codes.BROKEN if any(s.state == "broken" for s in plan.stages) else exit_codes.DONE


def machine_for(job: Job, assume: str | None) -> Machine:
    """This machine; the profile that `--assume` names; where there is no GPU, the tier the job was written for.

    Raises JobError where there is no such tier.
    """
    if assume is None:
        machine = hardware.probe()
        tier = job.hardware.tier
        return machine if machine.gpu or tier is None else hardware.profile(tier)
    if assume not in hardware.PROFILES:
        hint = did_you_mean(assume, hardware.PROFILES)
        raise JobError(
            [Diagnostic(code="QVL010", message=f'--assume: there is no tier "{assume}"', hint=hint)]
        )
    return hardware.profile(assume)


def show(plan: Plan) -> None:
    """Print `plan` for people."""
    gpu, machine = plan.machine.gpu, plan.machine
    what = "no GPU" if gpu is None else f"{gpu.name}, {show_size(gpu.vram)}"
    assumed = f" (assumed: {machine.assumed})" if machine.assumed else ""
    click.echo(
        f"{plan.job.name}: {what}, {machine.cores} cores, {show_size(machine.ram)} RAM{assumed}"
    )
    for decision in plan.decisions:
        click.echo(f"  {decision.name}: {decision.value} ({decision.rule})")
    click.echo(f"  storage: {plan.storage}")
    for stage in plan.stages:
        click.echo(f"\n{stage.spec.name} ({stage.spec.uses}): {headline(stage)}")
        for text in details(stage):
            click.echo(f"  {text}")
        training = stage.settings.training
        batch = training.per_device_train_batch_size * training.gradient_accumulation_steps
        click.echo(
            f"  global batch {batch} ({training.per_device_train_batch_size} x "
            f"{training.gradient_accumulation_steps}), learning rate {training.learning_rate:g}, "
            f"a checkpoint every {training.save_steps} steps"
        )
    if plan.findings:
        click.echo("\n" + render(plan.findings))
