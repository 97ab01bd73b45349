"""`qvl-run validate`."""

from __future__ import annotations

from collections.abc import Sequence

import click

from qvl_run import exit_codes
from qvl_run.spec import render
from qvl_run.spec.compose import Overlays
from qvl_run.spec.data_check import check_data
from qvl_run.spec.diagnostic import Diagnostic, JobError
from qvl_run.spec.load import load_job
from qvl_run.verbs.job import find_job, warn


def main(job: str, *, profiles: Sequence[str], settings: Sequence[str], form: str) -> int:
    """Print that `job` is right, or what is wrong with it. Raises JobError in the form of text."""
    try:
        loaded = load_job(find_job(job), overlays=Overlays(profiles=profiles, settings=settings))
        check_data(loaded)
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


def _print(diagnostics: Sequence[Diagnostic], form: str) -> None:
    text = render.as_json(diagnostics) if form == "json" else render.as_github(diagnostics)
    if text:
        click.echo(text)
