"""`qvl-run validate`."""

from __future__ import annotations

from collections.abc import Sequence

import click

from qvl_run import exit_codes, hardware
from qvl_run.plan import decide
from qvl_run.plan.fit import fitted
from qvl_run.spec import render
from qvl_run.spec.compose import Overlays
from qvl_run.spec.data_check import check_data
from qvl_run.spec.diagnostic import Diagnostic, JobError
from qvl_run.spec.job import Job
from qvl_run.spec.load import load_job
from qvl_run.verbs.job import find_job, warn

LARGEST = "h100"


def main(job: str, *, profiles: Sequence[str], settings: Sequence[str], form: str) -> int:
    """Print that `job` is right, or what is wrong with it. Raises JobError in the form of text."""
    try:
        loaded = load_job(find_job(job), overlays=Overlays(profiles=profiles, settings=settings))
        loaded = _judged(loaded)
    except JobError as error:
        if form == "text":
            raise
        _print(error.diagnostics, form)
        return exit_codes.USAGE
    if form == "text":
        warn(loaded)
        names = ", ".join(stage.name for stage in loaded.stages)
        count = "1 stage" if len(loaded.stages) == 1 else f"{len(loaded.stages)} stages"
        click.echo(f"{loaded.path}: right ({count}: {names})")
    else:
        _print(loaded.warnings, form)
    return exit_codes.DONE


def _judged(job: Job) -> Job:
    """`job` with the warnings that its tier gives. Raises JobError for rows that cannot be used, and for what no
    machine of that tier can do. Without a tier, what says `auto` stands for what the largest GPU would allow."""
    tier = job.hardware.tier
    machine = hardware.profile(tier or LARGEST)
    fit = fitted(job, machine)
    found = dict.fromkeys(decide.unable(fit, machine) if tier is not None else ())
    wrong = [finding for finding in found if finding.severity == "error"]
    try:
        check_data(fit)
    except JobError as error:
        wrong += error.diagnostics
    if wrong:
        raise JobError(wrong)
    return job.with_warnings((*job.warnings, *found))


def _print(diagnostics: Sequence[Diagnostic], form: str) -> None:
    text = render.as_json(diagnostics) if form == "json" else render.as_github(diagnostics)
    if text:
        click.echo(text)
