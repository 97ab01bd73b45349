"""All that a machine cannot do for the stages of a job that will run. Pure.

The stages of the job that is judged here are those alone, fitted to the machine: what is done already, or was not
chosen, asks nothing of it.
"""

from __future__ import annotations

from collections.abc import Iterator

from qvl_run.hardware import Machine
from qvl_run.plan import decide, disks, host, misfit
from qvl_run.spec.diagnostic import Diagnostic
from qvl_run.spec.job import Job


def findings(
    job: Job, machine: Machine, *, begun: bool, downloads_last: bool
) -> Iterator[Diagnostic]:
    """Errors stop the run with exit code 3, warnings do not. `begun`: something of the run may be stored already, so
    that it is not known how much is still to be written. `downloads_last` as in `disks`."""
    yield from decide.check(job, machine)
    yield from misfit.findings(job, machine)
    yield from host.findings(job, machine)
    if not begun:
        yield from disks.findings(job, machine, downloads_last=downloads_last)
