"""Stages that are predicted not to fit the GPU, and what would make them fit. Pure.

A prediction is an upper bound: it counts with the longest rows that the settings admit, and what rows there are is not
known before they are read. So settings over the budget are

- a warning where recovery's ladder, as the job's own rules bound it, can lower them until they are predicted to fit:
  the run starts, and short rows may never need it;
- an error, exit code 3, where it cannot: the stage would fail for good on a long row, after the download and the first
  hours. That covers weights and optimizer states that alone are too large, since no rung of the ladder makes those
  smaller, and what was left to `auto`, which is at its least already then. Where all rows are known to be short, a
  smaller `max_seq_length` says so.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

from qvl_run.contract import Peak
from qvl_run.hardware import Machine
from qvl_run.plan import chain, vram
from qvl_run.plan.bench import Bench, filled
from qvl_run.plan.fit import CHECKPOINTING, Fits
from qvl_run.recovery import ladder
from qvl_run.recovery.ladder import Changes
from qvl_run.spec.batch import MICRO, STEPS
from qvl_run.spec.diagnostic import Diagnostic, Span
from qvl_run.spec.job import Job, StageSpec
from qvl_run.units import show_size

_SAMPLING = (("num_generations", 2), ("max_completion_length", 16))
"""Options of a stage that samples, with the least worth trying."""
_MODEL = ("model", "name")


@dataclass(frozen=True, kw_only=True)
class Remedy:
    """One change to a stage: the key below it, what to write, and the stage with it."""

    key: tuple[str, ...]
    text: str
    spec: StageSpec


def findings(job: Job, machine: Machine, fits: Fits) -> Iterator[Diagnostic]:
    """What does not fit, or would not now. `fits` are the stages of `job`, fitted to `machine`."""
    bench = Bench(machine=machine)
    if machine.gpu is None or bench.room is None:
        return
    largest: tuple[int, str] = (0, "")
    for name, fitted in fits.items():
        peak = bench.peak(fitted.spec)
        if peak is None:
            continue
        if peak.total > bench.room:
            yield _too_large(job, fitted.spec, bench, peak, bench.room)
        else:
            largest = max(largest, (peak.total, name))
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


def _too_large(job: Job, spec: StageSpec, bench: Bench, peak: Peak, room: int) -> Diagnostic:
    message = (
        f"{spec.name} needs {show_size(peak.total)} of GPU memory, {show_size(room)} are there"
    )
    message += f" ({vram.told(peak)})"
    steps = _lowered(job, spec, bench)
    remedies = [remedy for remedy in changes(spec) if not bench.over(remedy.spec)]
    span = _span(job, spec, remedies[0].key if remedies else _MODEL)
    names = " or ".join(remedy.text for remedy in remedies)
    if steps is not None:
        # The run starts as it is: only what leaves its result alone is worth writing.
        names = " or ".join(
            r.text for r in remedies if not ladder.changes_result([".".join(r.key)])
        )
        last = {step.rung: step.text for step in steps}
        hint = f"after an out-of-memory, recovery goes on with {'; '.join(last.values())}"
        hint += f"; to begin with what fits: {names}" if names else ""
        message = f"for the longest rows that it admits, {message}"
        return Diagnostic(code="QVL431", severity="warning", message=message, span=span, hint=hint)
    hint = f"it would fit with {names}" if names else _smaller(spec, bench)
    return Diagnostic(code="QVL430", message=message, span=span, hint=hint)


def _smaller(spec: StageSpec, bench: Bench) -> str:
    """What to say where no single change is enough: as many of them as are, in their order."""
    texts: list[str] = []
    for key in [remedy.key for remedy in changes(spec)]:
        # One may make another impossible: an image must stay shorter than its row.
        for remedy in (r for r in changes(spec) if r.key == key):
            spec = remedy.spec
            texts.append(remedy.text)
        if not bench.over(spec):
            return f"no single change is enough; together these are: {', '.join(texts)}"
    return "nothing that was tried is enough: take a smaller model, or a GPU with more memory"


def _lowered(job: Job, spec: StageSpec, bench: Bench) -> Sequence[ladder.Step] | None:
    """The rungs that recovery would go down until `spec` is predicted to fit; None where it cannot get there."""
    rule, steps = job.recovery.rule("oom"), list[ladder.Step]()
    ceiling = job.recovery.max_restarts
    most = 0 if not rule.retry else ceiling if rule.limit is None else min(rule.limit, ceiling)
    while bench.over(spec):
        step = ladder.next_step(spec, rule.adapt) if len(steps) < most else None
        if step is None:
            return None
        spec = ladder.apply(spec, step.changes)
        steps.append(step)
    return steps


def changes(spec: StageSpec) -> Iterator[Remedy]:
    """Single changes that need less memory, those first that cost the result least."""
    training, model = spec.training, spec.model
    micro, images = training.per_device_train_batch_size, model.get("image_tokens")
    whole = micro * training.gradient_accumulation_steps
    if micro > 1:
        split = {f"training.{MICRO}": 1, f"training.{STEPS}": whole}
        yield _remedy(spec, f"{MICRO}: 1 and {STEPS}: {whole}", split)
    if not training.gradient_checkpointing:
        yield _remedy(spec, "gradient_checkpointing: true", {CHECKPOINTING: True})
    if model.get("quantization", "none") != "nf4" and model.get("lora", {}) is not None:
        yield _remedy(spec, "quantization: nf4", {chain.QUANTIZATION: "nf4"})
    most = chain.BUDGETS[0] + 1 if images is None else images[1]
    if smaller := next((n for n in chain.BUDGETS if n < most), None):
        budget = [min(images[0], smaller), smaller] if images else chain.bounds(smaller)
        yield _remedy(spec, f"image_tokens: {budget}", {chain.IMAGES: budget})
    if (length := training.max_seq_length) is not None and (not images or images[1] < length // 2):
        half = {"training.max_seq_length": length // 2}
        yield _remedy(spec, f"max_seq_length: {length // 2}", half)
    for option, least in _SAMPLING:
        half_of = spec.options.get(option, 0) // 2
        if half_of >= least and (option != "num_generations" or whole % half_of == 0):
            lowered = replace(spec, options={**spec.options, option: half_of})
            yield Remedy(key=("with", option), text=f"{option}: {half_of}", spec=lowered)


def _remedy(spec: StageSpec, text: str, made: Changes) -> Remedy:
    return Remedy(key=tuple(next(iter(made)).split(".")), text=text, spec=filled(spec, made))


def _span(job: Job, spec: StageSpec, path: tuple[str, ...]) -> Span:
    """Where `path` of the stage is written, in it or in the job's defaults; else where its model is."""
    written = any(job.document.has(at) for at in (("stages", spec.name, *path), path))
    return job.document.stage_span(spec.name, *(path if written else _MODEL))
