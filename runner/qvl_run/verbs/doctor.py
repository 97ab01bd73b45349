"""`qvl-run doctor`."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import click

from qvl_run import exit_codes, hardware, mounts
from qvl_run.doctor import report
from qvl_run.doctor.token import token_missing
from qvl_run.doctor.traps import gpu_traps
from qvl_run.doctor.versions import version_findings
from qvl_run.hardware import Machine
from qvl_run.plan import decide
from qvl_run.plan.places import places
from qvl_run.run.preflight import judged, libraries_missing, machine_here
from qvl_run.spec.diagnostic import Diagnostic
from qvl_run.spec.job import Job
from qvl_run.spec.render import render, to_json
from qvl_run.verbs.job import Options, chosen


def main(job: str | None, *, as_json: bool, **options: Any) -> int:
    """Print the facts of this machine and what is wrong with it, for `job` where one is named; the exit code is 3 where
    it cannot train. Raises JobError where the job is wrong."""
    if job is None:
        loaded, machine = None, hardware.probe(scratch=Path.cwd(), storage=mounts.google_drive())
        found = tuple(libraries_missing())
    else:
        loaded, choices = chosen(job, Options(**options))
        where = places(loaded)
        machine = machine_here(loaded, where)
        found = judged(loaded, machine, where, choices=choices)
        tier = loaded.hardware.tier
        if machine.gpu is None and tier is not None:  # judged by what it was written for
            told = {(finding.code, finding.span) for finding in found}
            by_tier = decide.unable(loaded, hardware.profile(tier))
            found = (*found, *(f for f in by_tier if (f.code, f.span) not in told))
    found = tuple(dict.fromkeys((*found, *_traps(machine, loaded))))
    able = not any(finding.severity == "error" for finding in found)
    shown = loaded.shown if loaded else str
    if as_json:
        decisions = (decide.precision(machine.gpu), decide.attention())
        data = {
            "machine": report.facts(machine),
            "decisions": [{"name": d.name, "value": d.value, "rule": d.rule} for d in decisions],
            "job": loaded.name if loaded else None,
            "able": able,
            "findings": to_json(found),
        }
        click.echo(shown(json.dumps(data, indent=2, default=str)))
    else:
        click.echo(shown("\n".join(_text(machine, loaded, found, able=able))))
    return exit_codes.DONE if able else exit_codes.MACHINE


def _traps(machine: Machine, job: Job | None) -> Iterator[Diagnostic]:
    yield from gpu_traps(machine, job)
    yield from version_findings(machine.libraries)
    if job is not None:
        yield from token_missing(job)


def _text(
    machine: Machine, job: Job | None, found: tuple[Diagnostic, ...], *, able: bool
) -> Iterator[str]:
    yield from report.lines(machine)
    if found:
        yield f"\n{render(found)}"
    can = "can" if able else "cannot"
    yield f"\nthis machine {can} train" if job is None else f"\n{job.name} {can} run here"
