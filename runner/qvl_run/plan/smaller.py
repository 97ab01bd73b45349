"""Which shipped job a machine has enough for, where it has not enough for the one that was asked for."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace

from qvl_run import resources
from qvl_run.hardware import Machine
from qvl_run.plan import decide, needs
from qvl_run.spec.diagnostic import Diagnostic
from qvl_run.spec.job import Job
from qvl_run.spec.load import load_job


def advised(findings: Iterable[Diagnostic], job: Job, machine: Machine) -> tuple[Diagnostic, ...]:
    """`findings`, each once though stages share what is wrong; the hint of each need that `machine` does not meet with
    the name of a job that would run there."""
    found = tuple(dict.fromkeys(findings))
    if not any(finding.code in needs.UNMET for finding in found):
        return found
    name = fitting(job, machine)
    if name is None:
        return found
    advice = f"or run a shipped job that needs no more than is there: qvl-run {name}"
    return tuple(
        replace(one, hint=f"{one.hint}; {advice}" if one.hint else advice)
        if one.code in needs.UNMET
        else one
        for one in found
    )


def fitting(job: Job, machine: Machine) -> str | None:
    """The shipped job nearest to `job` of those whose needs `machine` meets: the one that asks for most GPU memory, of
    these one with the same stages, then one with the same model. None where there is none."""
    fit = [
        (_likeness(other, job), name)
        for name, other in _runnable(machine).items()
        if other.name != job.name
    ]
    return max(fit, key=lambda one: one[0])[1] if fit else None


def runnable(machine: Machine) -> tuple[str, ...]:
    """The shipped jobs whose needs `machine` meets."""
    return tuple(_runnable(machine))


def _runnable(machine: Machine) -> dict[str, Job]:
    shipped = {name: load_job(path) for name, path in resources.shipped_jobs().items()}
    return {
        name: job
        for name, job in shipped.items()
        if not any(d.severity == "error" for d in decide.check(job, machine))
    }


def _likeness(other: Job, job: Job) -> tuple[int, bool, bool]:
    models, stages = (
        [{s.model["name"] for s in one.stages} for one in (other, job)],
        [[s.uses for s in one.stages] for one in (other, job)],
    )
    return other.hardware.min_vram or 0, stages[0] == stages[1], models[0] == models[1]
