"""What stages need of the machine's RAM, and what is told where that is more than there is. Pure.

A process's own share is a round figure of the stage's, CUDA included. So too much is an error where what the stage
holds in RAM is the larger part of it, or alone too much; else a warning.
"""

from __future__ import annotations

from collections.abc import Iterator

from qvl_run.contract import Estimate
from qvl_run.hardware import Machine
from qvl_run.plan import misfit, vram
from qvl_run.plan.bench import Bench
from qvl_run.plan.needs import wants_gpu
from qvl_run.spec.diagnostic import Diagnostic
from qvl_run.spec.job import Job, StageSpec


def need(needs: Estimate, room: int | None) -> int | None:
    """Bytes of RAM; None where they cannot be told. `room` are those of the GPU, None without one."""
    return None if needs.ram is None else needs.ram + held(needs, room)


def held(needs: Estimate, room: int | None) -> int:
    """Bytes of that which the process holds beside itself, as far as is known: all where there is no GPU, and what may
    lie in either where the GPU has no room for it."""
    peaks = [peak.total for peak in (needs.vram, needs.evaluation) if peak is not None]
    most = max(peaks, default=needs.at_least or 0)
    if room is None:
        return most
    return most if needs.movable and most > room else 0


def findings(job: Job, machine: Machine) -> Iterator[Diagnostic]:
    """The stages of `job` that need more RAM than `machine` has: they will run, and are fitted to it. Nothing where it
    lacks the GPU that the job asks for: that is told already."""
    if machine.gpu is None and wants_gpu(job):
        return
    bench = Bench(machine=machine)

    def over(spec: StageSpec) -> bool:
        known = need(bench.estimate(spec), bench.room)
        return known is not None and known > machine.ram

    for spec in job.stages:
        needs = bench.estimate(spec)
        total, own = need(needs, bench.room), held(needs, bench.room)
        if total is None or needs.ram is None or total <= machine.ram:
            continue
        there = vram.against(total, machine.ram, " of RAM")
        hint, keys = ("", ()) if needs.movable else misfit.advice(spec, over, gpu=False)
        yield Diagnostic(
            code="QVL433",
            severity="error" if own > min(needs.ram, machine.ram) else "warning",
            message=f"{spec.name} needs {there}",
            span=misfit.span(job, spec, keys),
            hint=hint or _elsewhere(needs, bench.room),
        )


def _elsewhere(needs: Estimate, room: int | None) -> str:
    more = "take a machine with more RAM (on Colab: Runtime > Change runtime type > High-RAM)"
    if needs.movable:
        gpu = " or a larger GPU" if room is not None else ""
        return f"{more}{gpu} for this stage, with the same job and storage; --stage runs the others here"
    return f"{more}, or a smaller model"
