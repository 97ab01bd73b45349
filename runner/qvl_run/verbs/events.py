"""`qvl-run events`: the story of a job's runs."""

from __future__ import annotations

import json
from typing import Any

import click

from qvl_run import exit_codes
from qvl_run.plan.past import opened
from qvl_run.plan.places import places
from qvl_run.run import events
from qvl_run.run import story as words
from qvl_run.run.preflight import drive_missing
from qvl_run.spec.render import render
from qvl_run.verbs.job import Options, chosen


def main(job: str, *, as_json: bool, last: int | None, **options: Any) -> int:
    """Print every event, or the `last` ones. Raises JobError and OSError."""
    loaded, _ = chosen(job, Options(**options))
    where = places(loaded)
    if missing := list(drive_missing(loaded, where)):
        click.echo(render(missing), err=True)
        return exit_codes.MACHINE
    store = opened(where)
    there = events.stored(store, where.run) if store else []
    story = events.merged(there, events.here(where.scratch / "events"))
    if not story:
        click.echo(f"nothing has happened to {loaded.name} yet", err=True)
    for record in story[-last:] if last else story:
        click.echo(loaded.shown(json.dumps(record) if as_json else words.line(record)))
    return exit_codes.DONE
