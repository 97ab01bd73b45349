"""What to run where a machine has less than a job asks for: the same job, where what it is predicted to need is there,
else a shipped job that the machine has enough for."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace

from qvl_run import resources
from qvl_run.hardware import Machine
from qvl_run.plan import decide, needs, vram
from qvl_run.plan.bench import Bench, in_ram
from qvl_run.spec.diagnostic import Diagnostic
from qvl_run.spec.job import Job
from qvl_run.spec.load import load_job


def advised(findings: Iterable[Diagnostic], job: Job, machine: Machine) -> tuple[Diagnostic, ...]:
    """`findings`, each once though stages share what is wrong; the hint of each need that `machine` does not meet with
    the name of a job that would run there. Of GPU memory that is asked for and not needed by `job`, whose stages are
    those that will run, fitted to `machine`, that is told."""
    found = tuple(_enough(one, job, machine) for one in dict.fromkeys(findings))
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


def _enough(finding: Diagnostic, job: Job, machine: Machine) -> Diagnostic:
    """`finding`; where it is of GPU memory that is asked for, but not needed, with that as its hint."""
    share = _needed(job, machine) if finding.code == "QVL402" else ""
    hint = f"predicted need is {share}: lower min_vram or leave it out"
    return replace(finding, hint=hint) if share else finding


def _needed(job: Job, machine: Machine) -> str:
    """The share of the GPU's memory that the largest stage needs; nothing where it does not fit or is not known."""
    bench, most = Bench(machine=machine), 0
    if bench.room is None:
        return ""
    for spec in job.stages:
        asked = bench.estimate(spec)
        if asked.vram is None:
            return ""
        if not in_ram(asked, bench.room):
            peaks = (asked.vram, asked.evaluation)
            most = max(most, *(peak.total for peak in peaks if peak is not None))
    return vram.of(most, bench.room) if 0 < most <= bench.room else ""


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
