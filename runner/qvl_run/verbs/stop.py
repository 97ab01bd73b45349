"""`qvl-run stop`: ask a run to save and stop, from another terminal or another machine."""

from __future__ import annotations

import time
from typing import Any

import click

from qvl_run import exit_codes
from qvl_run.plan.past import opened
from qvl_run.plan.places import places
from qvl_run.run import requests, state
from qvl_run.run.lease import RENEW
from qvl_run.run.preflight import drive_missing
from qvl_run.spec.render import render
from qvl_run.units import show_duration
from qvl_run.verbs.job import Options, chosen


def main(job: str, *, after_save: bool, save: bool, **options: Any) -> int:
    """Leave the request where the run looks for it. Raises JobError and OSError."""
    loaded, _ = chosen(job, Options(**options))
    where = places(loaded)
    if missing := list(drive_missing(loaded, where)):
        click.echo(render(missing), err=True)
        return exit_codes.MACHINE
    names, what = requests.NAMES, "to save now and stop"
    if save:
        names, what = (requests.SAVE,), "to save now and go on"
    elif after_save:
        names, what = (requests.STOP,), "to stop after its next save"
    store = opened(where)
    at = state.working(where, store, now=time.time())
    if at.at == "here":
        requests.ask(where.scratch, *names)
        click.echo(f"{loaded.name} was asked {what}; `qvl-run status {job}` says how far it is")
    elif at.at == "elsewhere" and store is not None:
        for name in names:
            store.write(f"{where.run}/{name}", [b""])
        click.echo(
            f"{loaded.name} runs on another machine and was asked {what}; it looks every {show_duration(RENEW)}, "
            "and a drive takes its time to show it"
        )
    else:
        click.echo(f"nothing is at work on {loaded.name}")
    return exit_codes.DONE
