"""`qvl-run explain`."""

from __future__ import annotations

import click

from qvl_run.spec.codes import CODES, explain
from qvl_run.spec.diagnostic import Diagnostic, JobError, did_you_mean


def main(code: str) -> None:
    """Print the long answer for `code`. Raises JobError where there is no such code."""
    wanted = code.upper()
    if wanted not in CODES:
        message = f'there is no diagnostic "{code}"'
        raise JobError(
            [Diagnostic(code="QVL010", message=message, hint=did_you_mean(wanted, CODES))]
        )
    click.echo(explain(wanted))
