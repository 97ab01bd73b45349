"""What stages need of the machine's RAM, and what is told where that is more than there is. Pure.

A process's own share is a round figure of the stage's, CUDA included, and so is what the system holds. So too much is
an error where what the stage holds in RAM is the larger part of it, or alone too much; else a warning.
"""

from __future__ import annotations

from collections.abc import Iterator

from qvl_run.contract import Estimate
from qvl_run.hardware import GIB, Machine
from qvl_run.plan import misfit, vram
from qvl_run.plan.bench import Bench, in_ram
from qvl_run.plan.needs import wants_gpu
from qvl_run.spec.diagnostic import Diagnostic
from qvl_run.spec.job import Job, StageSpec
from qvl_run.units import show_size

SYSTEM = 3 * GIB // 2
"""Bytes that the system and what else runs there hold: of a free Colab machine's 12.7 GiB about 11.2 are available."""


def need(needs: Estimate, room: int | None) -> int | None:
    """Bytes of RAM; None where they cannot be told. `room` are those of the GPU, None without one."""
    return None if needs.ram is None else needs.ram + held(needs, room)


def held(needs: Estimate, room: int | None) -> int:
    """Bytes of that which the process holds beside itself, as far as is known: all where there is no GPU, and what may
    lie in either where the GPU has no room for it."""
    if room is not None and not in_ram(needs, room):
        return 0
    peaks = [peak.total for peak in (needs.vram, needs.evaluation) if peak is not None]
    return max(peaks, default=needs.at_least or 0)


def findings(job: Job, machine: Machine) -> Iterator[Diagnostic]:
    """The stages of `job` that need more RAM than `machine` has: they will run, and are fitted to it. Nothing where it
    lacks the GPU that the job asks for: that says all, unless it is assumed and so asked about as it is."""
    lacking = machine.gpu is None and wants_gpu(job)
    if lacking and machine.assumed is None:
        return
    bench, free = Bench(machine=machine), max(machine.ram - SYSTEM, 0)

    def over(spec: StageSpec) -> bool:
        known = need(bench.estimate(spec), bench.room)
        return known is not None and known > free

    for spec in job.stages:
        needs = bench.estimate(spec)
        total, own = need(needs, bench.room), held(needs, bench.room)
        if total is None or needs.ram is None or total <= free:
            continue
        elsewhere = needs.movable or lacking
        hint, keys = ("", ()) if elsewhere else misfit.advice(spec, over, gpu=False)
        if lacking and not needs.movable:
            hint = f"with a GPU, {show_size(own)} of it would lie there"
        yield Diagnostic(
            code="QVL433",
            severity="error" if own > min(needs.ram, free) else "warning",
            message=f"{spec.name} needs {vram.against(total, machine.ram, ' of RAM')}, of which the system holds "
            f"about {show_size(min(SYSTEM, machine.ram))}",
            span=misfit.span(job, spec, keys),
            hint=hint or _elsewhere(needs, bench.room),
        )


def _elsewhere(needs: Estimate, room: int | None) -> str:
    more = "take a machine with more RAM (on Colab: Runtime > Change runtime type > High-RAM)"
    if needs.movable:
        gpu = " or a larger GPU" if room is not None else ""
        return f"{more}{gpu} for this stage, with the same job and storage; --stage runs the others here"
    return f"{more}, or a smaller model"
