"""`qvl-run validate`."""

from __future__ import annotations

import click

from qvl_run.spec.load import check_data, load_job
from qvl_run.verbs.job import find_job


def main(job: str) -> None:
    """Print that `job` is right. Raises JobError where it is not."""
    loaded = load_job(find_job(job))
    check_data(loaded)
    names = ", ".join(stage.name for stage in loaded.stages)
    click.echo(f"{loaded.path}: right ({len(loaded.stages)} stages: {names})")
