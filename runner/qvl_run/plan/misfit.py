"""Stages that are predicted not to fit the GPU, and what would make them fit. Pure.

A prediction is an upper bound: it counts with the longest rows that the settings admit, and what rows there are is not
known before they are read. So settings over the budget are

- a warning where recovery's ladder, as the job's own rules bound it, can lower them until they are predicted to fit:
  the run starts, and short rows may never need it;
- an error, exit code 3, where it cannot: the stage would fail for good on a long row, after the download and the first
  hours. That covers weights and optimizer states that alone are too large, since no rung of the ladder makes those
  smaller, and what was left to `auto`, which is at its least already then. Where all rows are known to be short, a
  smaller `max_seq_length` says so.

What is measured beside the training is judged alike, by itself: recovery lowers its batches without touching the rest.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from qvl_run.contract import Peak
from qvl_run.hardware import Machine
from qvl_run.plan import remedy, vram
from qvl_run.plan.bench import Bench
from qvl_run.plan.descent import descent
from qvl_run.plan.remedy import Over
from qvl_run.recovery.ladder import Needs
from qvl_run.spec.diagnostic import Diagnostic, Span
from qvl_run.spec.job import Job, StageSpec
from qvl_run.units import show_size

_MODEL = "model.name"
_OF_GPU = " of GPU memory"


def findings(job: Job, machine: Machine) -> Iterator[Diagnostic]:
    """What does not fit, or would not now. The stages of `job` are those that will run, fitted to `machine`."""
    bench = Bench(machine=machine)
    if machine.gpu is None or bench.room is None:
        return
    largest: tuple[int, str] = (0, "")
    for spec in job.stages:
        found = list(_judged(job, spec, bench, bench.room))
        yield from found
        peaks = (bench.peak(spec), bench.measuring(spec))
        need = max((peak.total for peak in peaks if peak is not None), default=0)
        if not found:
            largest = max(largest, (need, spec.name))
    need, name = largest
    free = machine.gpu.free
    if free is not None and need + vram.OUTSIDE > free:
        yield Diagnostic(
            code="QVL432",
            severity="warning",
            message=f"{name} needs {show_size(need + vram.OUTSIDE)} of GPU memory, the process's own included; "
            f"{show_size(free)} of {show_size(machine.gpu.vram)} are free",
            hint="another process holds the rest: nvidia-smi lists them; on Colab, restart the runtime",
        )


def _judged(job: Job, spec: StageSpec, bench: Bench, room: int) -> Iterator[Diagnostic]:
    peak, measuring = bench.peak(spec), bench.measuring(spec)
    if bench.over(spec):
        training = (
            _judge(job, spec, peak, room, spec.name, bench.over, bench.need, "step")
            if peak is not None
            else _weights(job, spec, bench, room)
        )
        yield training
        if training.severity == "error":
            return
    if measuring is not None and measuring.total > room:
        what = f"the evaluation of {spec.name}"
        over, needs = bench.over_measuring, bench.measured_need
        yield _judge(job, spec, measuring, room, what, over, needs, "eval")


def _judge(
    job: Job,
    spec: StageSpec,
    peak: Peak,
    room: int,
    what: str,
    over: Over,
    needs: Needs,
    section: str,
) -> Diagnostic:
    """The finding about `what`, which needs `peak` and is `over`."""
    message = f"{what} needs {vram.against(peak.total, room, _OF_GPU)} ({vram.told(peak)})"
    way = descent(spec, job.recovery, over=over, needs=needs, section=section)
    if way is None:
        return _refused(job, spec, message, over)
    who = "recovery" if way.rungs else "the stage"
    return Diagnostic(
        code="QVL431",
        severity="warning",
        message=f"for the longest rows that it admits, {message}",
        span=span(job, spec, way.keys),
        hint=f"{who} gets there by itself {way.told()}; to begin with what fits: {way.settings()}",
    )


def _weights(job: Job, spec: StageSpec, bench: Bench, room: int) -> Diagnostic:
    """The finding where no more is known than what no row changes, and that is too much."""
    least = bench.least(spec)
    assert least is not None
    message = f"{spec.name} needs at least {vram.against(least, room, _OF_GPU)}"
    message += ": so much take its weights and what is trained of them, however short its rows"
    return _refused(job, spec, message, bench.over, sure="may")


def _refused(
    job: Job, spec: StageSpec, message: str, over: Over, *, sure: str = "would"
) -> Diagnostic:
    hint, keys = advice(spec, over, gpu=True, sure=sure)
    hint = (
        hint or "nothing that was tried is enough: take a smaller model, or a GPU with more memory"
    )
    return Diagnostic(code="QVL430", message=message, span=span(job, spec, keys), hint=hint)


def advice(
    spec: StageSpec, over: Over, *, gpu: bool, sure: str = "would"
) -> tuple[str, tuple[str, ...]]:
    """What makes `spec` fit, for people, and the dotted keys that a single change stands at; nothing where nothing is
    enough. `sure` is how much of it is known."""
    if single := remedy.enough(spec, over, gpu=gpu):
        texts = " or ".join(one.text for one in single)
        return f"it {sure} fit with {texts}", (single[0].at,)
    if several := remedy.together(spec, over, gpu=gpu):
        texts = ", ".join(one.text for one in several)
        return f"no single change is enough; it {sure} fit with all of: {texts}", ()
    return "", ()


def span(job: Job, spec: StageSpec, keys: Iterable[str]) -> Span:
    """Where the first of `keys` that is written for the stage stands, in it or in the job's defaults; else where its
    model does."""
    document = job.document
    for key in keys:
        path = tuple(key.split("."))
        if any(document.has(at) for at in (("stages", spec.name, *path), path)):
            return document.stage_span(spec.name, *path)
    return document.stage_span(spec.name, *_MODEL.split("."))
