"""What a finished stage took of the GPU and of time, beside what was predicted, from its output's manifest. Pure."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from qvl_run.checkpoints.manifest import Manifest
from qvl_run.hardware import GIB
from qvl_run.plan import pace
from qvl_run.units import show_step


@dataclass(frozen=True, kw_only=True)
class Cost:
    """Of one stage; None where it was not measured. `gpu` is the GPU's name, None without one.

    Bytes of its memory: `planned` at most, before anything was read; `predicted` for the rows that were trained on,
    and `training` what they took; `peak` in all, evaluation included; `reserved` by PyTorch's allocator. `tokens`, of
    which `image_tokens`, of the longest row. `step` is seconds of an optimizer step in the training loop, saves
    included, of the last attempt; `expected` what the GPU's rates give for it; `samples` are rows a second: pairs in
    DPO, completions in GRPO.
    """

    stage: str
    gpu: str | None
    planned: float | None
    predicted: float | None
    training: float | None
    peak: float | None
    reserved: float | None
    tokens: float | None
    image_tokens: float | None
    step: float | None
    expected: float | None
    samples: float | None


def cost(manifest: Manifest) -> Cost:
    """What `manifest` says of it."""
    facts = manifest.facts
    memory, timed = facts.get("memory", {}), pace.timed(manifest)
    gpu = facts.get("gpu")
    rows = manifest.identity.get("training", {}).get("global_batch")
    trains = rows is not None and manifest.identity.get("data") is not None
    return Cost(
        stage=manifest.stage,
        gpu=gpu,
        planned=None if gpu is None else facts.get("planned"),
        predicted=memory.get("predicted"),
        training=memory.get("training"),
        peak=memory.get("peak"),
        reserved=memory.get("reserved"),
        tokens=memory.get("tokens"),
        image_tokens=memory.get("image_tokens"),
        step=timed.step if timed else None,
        expected=pace.expected(timed.work, gpu) if timed else None,
        samples=rows / timed.step if timed and trains else None,
    )


def memory_cells(one: Cost) -> tuple[str, ...]:
    """Its memory as text: stage, GPU, planned, predicted, training, in all, reserved, longest row."""
    sizes = (one.planned, one.predicted, one.training, one.peak, one.reserved)
    row = "" if one.tokens is None else f"{one.tokens:.0f} tokens"
    if one.image_tokens:
        row += f", {one.image_tokens:.0f} of images"
    return (one.stage, one.gpu or "", *(_gib(size) for size in sizes), row)


def time_cells(one: Cost) -> tuple[str, ...]:
    """Its pace as text: stage, GPU, a step, expected, samples a second."""
    return (
        one.stage,
        one.gpu or "no GPU",
        "" if one.step is None else show_step(one.step),
        "" if one.expected is None else show_step(one.expected),
        "" if one.samples is None else f"{one.samples:.3g}",
    )


def memory_line(costs: Iterable[Cost]) -> str:
    """`GPU memory: sft 5.5 GiB (5.8 predicted), ...`, in the training loop; empty where none was measured."""
    known = [_memory(one) for one in costs if one.training is not None]
    return f"GPU memory in training: {', '.join(known)}" if known else ""


def _memory(one: Cost) -> str:
    more = "" if one.predicted is None else f" ({one.predicted / GIB:.1f} predicted)"
    return f"{one.stage} {_gib(one.training)}{more}"


def _gib(size: float | None) -> str:
    return "" if size is None else f"{size / GIB:.1f} GiB"
