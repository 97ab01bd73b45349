"""What the stages of one hand-over chain share: how the base weights are held, and the image budget. Pure.

Both change what is learnt from, so a chain has one of each: a stage whose job says it by hand decides for those that
leave it open, where the chain says one thing only. Preferred is the better result: unquantized weights before large
images (judged at the smallest budget), then the largest image budget. Memory is judged with every further `auto` at its
least: the split that needs least, gradient checkpointing on, one row sampled at a time. Where not all stages of a chain
fit unquantized, 4 bits are taken: unless that makes fewer of them fit, or needs more once batches are as small as they
get.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from typing import Any

from qvl_run.plan import vram
from qvl_run.plan.bench import Bench, filled
from qvl_run.plan.decide import Decision
from qvl_run.plan.faults import adds_none
from qvl_run.spec.job import StageSpec
from qvl_run.units import show_unlike

QUANTIZATION = "model.quantization"
IMAGES = "model.image_tokens"
BUDGETS = (1024, 768, 512, 384, 256)
"""Most tokens of an image, best first; 1024 are about 1024 x 1024 pixels."""
LEAST = 64
"""Least tokens of an image: one of 256 x 256 pixels."""
_SMALL = " with the smallest batches and gradient checkpointing"
NO_GPU = "no GPU whose memory it would be fitted to"
UNKNOWN = "the default: what it needs of GPU memory cannot be told"


def chains(stages: Iterable[StageSpec]) -> list[list[StageSpec]]:
    """`stages`, upstream first, by the stage that begins their chain."""
    found: dict[str, list[StageSpec]] = {}
    begins: dict[str, str] = {}
    for spec in stages:
        begins[spec.name] = begins.get(spec.upstream or "", spec.name)
        found.setdefault(begins[spec.name], []).append(spec)
    return list(found.values())


def quantization(line: Sequence[StageSpec], bench: Bench) -> Decision | None:
    """How the stages of `line` that leave it open hold the base; None where none does."""
    mine = [spec for spec in line if QUANTIZATION in spec.auto]
    if not mine:
        return None
    said = {spec.model.get("quantization", "none") for spec in line if spec not in mine}
    if bench.room is None:
        return _quantized("none", "quantization needs a GPU; none was found")
    if any(spec.model.get("lora", {}) is None for spec in line):
        return _quantized("none", "without LoRA the weights themselves are trained")
    if len(said) == 1:
        return _quantized(said.pop(), "as the other stages of the chain say")
    smallest = [_smallest(line)(spec) for spec in mine]
    whole, packed = (_needs(smallest, value, bench.lowest) for value in ("none", "nf4"))
    if not whole:
        return _by_weights(mine, bench)
    most = max(whole, key=lambda name: whole[name])
    if whole[most] <= bench.room:
        share = vram.of(whole[most], bench.room)
        return _quantized("none", f"{most}, which needs most, can do with {share} unquantized")
    there = f"unquantized, {most} needs {vram.against(whole[most], bench.room)}"
    if not packed:
        return _quantized("none", there)
    floors = [_needs(smallest, value, bench.floor) for value in ("none", "nf4")]
    unquantized, quantized = (
        _judged(as_written.values(), floor.values(), bench.room)
        for as_written, floor in zip((whole, packed), floors, strict=True)
    )
    if quantized < unquantized:
        return _quantized("nf4", there + _even_so(packed, floors[1], bench.room))
    if quantized[:2] == unquantized[:2]:
        return _quantized("none", f"{there}, but nf4 would need no less{_SMALL}")
    return _quantized("none", f"{there}, but fewer stages would fit with nf4")


def _needs(
    specs: Iterable[StageSpec], value: str, need: Callable[[StageSpec], int | None]
) -> dict[str, int]:
    """What each of `specs` needs, held as `value`, by name; without those of which it cannot be told."""
    found = {spec.name: need(filled(spec, {QUANTIZATION: value})) for spec in specs}
    return {name: size for name, size in found.items() if size is not None}


def _judged(
    as_written: Collection[int], floors: Collection[int], room: int
) -> tuple[int, int, int]:
    """The less the better: how many stages recovery cannot make fit without changing the result, how many do not fit to
    begin with, then the largest at its smallest batches."""
    stuck, over = (sum(need > room for need in needs) for needs in (floors, as_written))
    return stuck, over, max(floors)


def _even_so(packed: Mapping[str, int], floors: Mapping[str, int], room: int) -> str:
    """What of a chain in 4 bits does not fit all the same."""
    worst = max(packed, key=lambda name: packed[name])
    if packed[worst] <= room:
        return ""
    text = f"; even with nf4, {worst} does not fit: it needs {show_unlike(packed[worst], room)[0]}"
    if floors[worst] < packed[worst]:
        text += f", {show_unlike(floors[worst], room)[0]}{_SMALL}"
    return text


def images(line: Sequence[StageSpec], bench: Bench) -> tuple[Any, Decision] | None:
    """The image budget of the stages of `line`, quantized as decided, that leave it open, and the decision."""
    mine = [spec for spec in line if IMAGES in spec.auto]
    if not mine:
        return None
    said = [spec.model.get("image_tokens") for spec in line if spec not in mine]
    if said and all(one == said[0] for one in said):
        return _budget(said[0], "as the other stages of the chain say")
    if bench.room is None:
        return _budget(None, NO_GPU)
    open_to, larger = candidates(mine), ""
    for most in open_to:
        tried = [filled(spec, {IMAGES: bounds(most)}) for spec in mine]
        need = max((n for spec in tried if (n := bench.lowest(spec)) is not None), default=None)
        if need is None:
            return _budget(None, unknown(mine[0], bench))
        if need <= bench.room:
            if most == open_to[0]:
                why = "leaves room for the text" if most < BUDGETS[0] else "is tried"
                larger = (
                    f"the most that {why}: {vram.of(need, bench.room)} at the least micro-batch"
                )
            return _budget(bounds(most), larger)
        if most == open_to[-1]:
            rule = f"does not fit: even {most} tokens need {vram.against(need, bench.room)}"
            return _budget(bounds(most), rule)
        larger = f"{most} tokens need {vram.against(need, bench.room)}"
    raise AssertionError("there is a smallest budget")


def unknown(spec: StageSpec, bench: Bench) -> str:
    """The rule of what was not chosen since nothing is predicted of `spec`, with the stage's own reason."""
    why = bench.estimate(spec).unknown
    return f"{UNKNOWN}: {why}" if why else UNKNOWN


def candidates(specs: Iterable[StageSpec]) -> tuple[int, ...]:
    """Image budgets that leave half of `max_seq_length` to the text, and to what else the stages say must have room,
    best first; the largest share of that half which does where all of `BUDGETS` are larger."""
    specs = list(specs)

    def accepted(most: int) -> bool:
        return all(adds_none(filled(spec, {IMAGES: bounds(most)}), before=spec) for spec in specs)

    lengths = [n for spec in specs if (n := spec.training.max_seq_length) is not None]
    half = min(lengths, default=2 * BUDGETS[0]) // 2
    usual = tuple(most for most in BUDGETS if most <= half and accepted(most))
    return usual or (next((n for n in (half, half // 2, half // 4) if accepted(n)), half),)


def bounds(most: int) -> list[int]:
    """`image_tokens` for images of at most `most`."""
    return [min(LEAST, most), most]


def _smallest(line: Sequence[StageSpec]) -> Callable[[StageSpec], StageSpec]:
    """Gives a stage of `line` the smallest image budget, where it is open."""
    least = bounds(candidates(spec for spec in line if IMAGES in spec.auto)[-1])
    return lambda spec: filled(spec, {IMAGES: least}) if IMAGES in spec.auto else spec


def _by_weights(specs: Sequence[StageSpec], bench: Bench) -> Decision:
    """Where nothing more is known than what no row changes: unquantized, unless that alone is too much."""
    assert bench.room is not None
    for spec in specs:
        whole, packed = (
            bench.least(filled(spec, {QUANTIZATION: value})) for value in ("none", "nf4")
        )
        if whole is not None and packed is not None and packed < whole > bench.room:
            rule = f"unquantized, {spec.name} needs {vram.against(whole, bench.room)}, whatever its rows"
            return _quantized("nf4", rule)
    return _quantized("none", unknown(specs[0], bench))


def _quantized(value: str, rule: str) -> Decision:
    return Decision(name="quantization", value=value, rule=rule)


def _budget(value: Any, rule: str) -> tuple[Any, Decision]:
    shown = "the processor's own" if value is None else f"{value[0]} to {value[1]}"
    return value, Decision(name="image_tokens", value=shown, rule=rule)
