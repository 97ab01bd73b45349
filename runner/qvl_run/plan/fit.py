"""A number for every `auto`: what fits the machine, chosen by its whole memory, each choice with the rule that took it.

Preferred is what gives the better result, then what is faster: unquantized weights, large images, no gradient
checkpointing where that does not cost more than half of the micro-batch, a large micro-batch, many rows sampled at
once. What a job says by hand stays, and the rest is fitted around it; but for rows sampled at once, which the stage
itself halves where they do not fit. Pure, and the same for the same job on the same
machine: recovery's ladder begins where this ends. Where a stage cannot tell what it needs, or there is no GPU, `auto`
is the default. Nothing here refuses anything: see `plan.misfit`.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from qvl_run.hardware import Machine
from qvl_run.plan import chain, decide, vram
from qvl_run.plan.bench import CHECKPOINTING, Bench, filled
from qvl_run.plan.chain import NO_GPU
from qvl_run.plan.decide import Decision
from qvl_run.plan.descent import AT_ONCE, value_of
from qvl_run.spec.batch import MICRO, SAMPLED, STEPS
from qvl_run.spec.job import Job, StageSpec
from qvl_run.units import show_unlike

OPTIM = "training.optim"
_MICRO, _STEPS = f"training.{MICRO}", f"training.{STEPS}"


@dataclass(frozen=True, kw_only=True)
class Fitted:
    """`spec` with a value for every `auto`, and the decisions, in the order in which they were taken."""

    spec: StageSpec
    decisions: tuple[Decision, ...]


Fits = Mapping[str, Fitted]
"""By the name of the stage."""


def fit(job: Job, machine: Machine) -> Fits:
    """The stages of `job` on `machine`."""
    bench, found = Bench(machine=machine), dict[str, Fitted]()
    at_once = {spec.name: value_of(spec, AT_ONCE) for spec in job.stages}
    for line in chain.chains(job.stages):
        shared: dict[str, list[Decision]] = {spec.name: [] for spec in line}
        line = [filled(spec, _begun(spec, bench)) for spec in line]
        if held := chain.quantization(line, bench):
            line = [_with(spec, chain.QUANTIZATION, held.value, held, shared) for spec in line]
        if budget := chain.images(line, bench):
            line = [_with(spec, chain.IMAGES, *budget, shared) for spec in line]
        for spec in line:
            found[spec.name] = _fitted(spec, bench, shared[spec.name], at_once[spec.name])
    return {spec.name: found[spec.name] for spec in job.stages}


def fitted(job: Job, machine: Machine, *, only: str | None = None) -> Job:
    """`job` with its stages fitted to `machine`; with that called `only` alone, where it is given."""
    specs = (one.spec for one in fit(job, machine).values())
    return replace(job, stages=tuple(spec for spec in specs if only in (None, spec.name)))


def _begun(spec: StageSpec, bench: Bench) -> dict[str, Any]:
    """What the others are judged with: the optimizer, which asks for no memory to be there while what is there depends
    on it, and the least that can be sampled at once, also where more is written."""
    optim = {OPTIM: _optim(spec, bench).value} if OPTIM in spec.auto else {}
    return optim if value_of(spec, AT_ONCE) is None else {**optim, AT_ONCE: 1}


def _with(
    spec: StageSpec, key: str, value: Any, decision: Decision, told: Mapping[str, list[Decision]]
) -> StageSpec:
    if key not in spec.auto:
        return spec
    told[spec.name].append(decision)
    return filled(spec, {key: value})


def _fitted(spec: StageSpec, bench: Bench, shared: list[Decision], at_once: Any) -> Fitted:
    """`at_once` is what the job says of the rows that are sampled at once; None for a stage that samples none."""
    decisions = list(decide.capability_decisions(spec, bench.machine)) + shared
    if CHECKPOINTING in spec.auto:
        spec, decision = _checkpointing(spec, bench)
        decisions.append(decision)
    spec, split = _split(spec, bench)
    decisions += split
    if OPTIM in spec.auto:
        decisions.append(_optim(spec, bench))
    if AT_ONCE in spec.auto:
        spec, decision = _sampled(spec, bench)
        decisions.append(decision)
    elif at_once is not None:
        spec = filled(spec, {AT_ONCE: at_once})
    return Fitted(spec=spec, decisions=tuple(decisions))


def _checkpointing(spec: StageSpec, bench: Bench) -> tuple[StageSpec, Decision]:
    """Off where a micro-batch of at least half of that which fits with it fits without: rows that are computed again
    take about a third more time, and rows one by one take more."""
    without = filled(spec, {CHECKPOINTING: False})
    need, micro = bench.lowest(without), spec.training.per_device_train_batch_size
    if need is None or bench.room is None:
        return spec, _recomputed("on", _unknown(spec, bench))
    if need > bench.room:
        rule = f"without it, the least is {vram.against(need, bench.room)}"
        return spec, _recomputed("on", rule)
    rule = f"{vram.of(need, bench.room)} without it at micro-batch {micro}"
    if {_MICRO, _STEPS} <= spec.auto:
        whole = micro * spec.training.gradient_accumulation_steps
        most, saving = (_largest(one, whole, bench)[0] for one in (without, spec))
        if 2 * most < saving:
            rule = f"micro-batch {saving} fits with it, {most} without"
            return spec, _recomputed("on", rule)
        most_need = bench.need(filled(without, {_MICRO: most, _STEPS: whole // most}))
        assert most_need is not None
        rule = f"{vram.of(most_need, bench.room)} without it at micro-batch {most}"
        rule += f"; {saving} would fit with it" if saving > most else ""
    return without, _recomputed("off", rule)


def _recomputed(value: str, rule: str) -> Decision:
    return Decision(name="gradient_checkpointing", value=value, rule=rule)


def _unknown(spec: StageSpec, bench: Bench) -> str:
    return NO_GPU if bench.room is None else chain.unknown(spec, bench)


def _split(spec: StageSpec, bench: Bench) -> tuple[StageSpec, list[Decision]]:
    """The split of the global batch; a half of it that is open alone has been filled from the other."""
    micro, steps = (
        spec.training.per_device_train_batch_size,
        spec.training.gradient_accumulation_steps,
    )
    whole = micro * steps
    follows = Decision(
        name=STEPS, value=str(steps), rule=f"global batch {whole}, micro-batch {micro}"
    )
    if _MICRO not in spec.auto:
        return spec, [follows] if _STEPS in spec.auto else []
    if _STEPS not in spec.auto:
        rule = f"global batch {whole}, accumulation {steps}"
        return spec, [Decision(name=MICRO, value=str(micro), rule=rule)]
    chosen, rule = _largest(spec, whole, bench)
    micro, steps = chosen, whole // chosen
    return filled(spec, {_MICRO: micro, _STEPS: steps}), [
        Decision(name=MICRO, value=str(micro), rule=rule),
        Decision(name=STEPS, value=str(steps), rule=f"global batch {whole}, micro-batch {micro}"),
    ]


def _largest(spec: StageSpec, whole: int, bench: Bench) -> tuple[int, str]:
    """The largest divisor of `whole` that fits as the micro-batch, and why it is that one; where none does, the one
    that needs least."""
    room = bench.room
    if room is None or bench.need(spec) is None:
        return 1, _unknown(spec, bench)

    def need(micro: int) -> int:
        found = bench.need(filled(spec, {_MICRO: micro, _STEPS: whole // micro}))
        assert found is not None
        return found

    if need(whole) <= room:
        return whole, f"{vram.of(need(whole), room)}; the whole global batch"
    # Between the batches of a step gradients stay, so that all at once may need less than the next smaller one.
    sizes = list(divisors(whole))
    if (fits := _first(sizes[1:], need, room)) is not None:
        return sizes[1:][fits], _and_larger(sizes[1:][fits], sizes[fits], need, room)
    least = min((1, whole), key=need)
    return (
        least,
        f"does not fit: it needs {vram.against(need(least), room)}, and no other split needs less",
    )


def _first(sizes: Sequence[int], need: Callable[[int], int], room: int) -> int | None:
    """Which of `sizes`, the largest first, is the first that `room` is enough for: what is smaller needs no more."""
    found = bisect_left(sizes, True, key=lambda size: need(size) <= room)
    return found if found < len(sizes) else None


def _and_larger(size: int, larger: int, need: Callable[[int], int], room: int) -> str:
    told = show_unlike(need(larger), room)[0]
    return f"{vram.of(need(size), room)}; {larger} would need {told}"


def _sampled(spec: StageSpec, bench: Bench) -> tuple[StageSpec, Decision]:
    """As many rows of a step at once as the rest of the stage leaves memory for: fewer take longer."""
    training, room = spec.training, bench.room
    whole = training.per_device_train_batch_size * training.gradient_accumulation_steps
    least = bench.need(spec)

    def need(rows: int) -> int:
        found = bench.need(filled(spec, {AT_ONCE: rows}))
        assert found is not None
        return found

    if room is None or least is None:
        chosen, rule = whole, _unknown(spec, bench)
    elif need(whole) <= room:
        chosen, rule = whole, f"{vram.of(need(whole), room)}; all of a step"
    elif least > room:
        chosen, rule = 1, f"does not fit: it needs {vram.against(least, room)}, with one at a time"
    else:
        sizes = list(divisors(whole))
        at = _first(sizes, need, room)
        assert at
        chosen, rule = sizes[at], _and_larger(sizes[at], sizes[at - 1], need, room)
    decision = Decision(name=SAMPLED, value=str(chosen), rule=rule)
    return filled(spec, {AT_ONCE: chosen}), decision


def divisors(whole: int) -> Iterator[int]:
    """Those of `whole`, the largest first."""
    small = [n for n in range(1, int(whole**0.5) + 1) if whole % n == 0]
    yield from (whole // n for n in small)
    yield from (n for n in reversed(small) if n * n != whole)


def _optim(spec: StageSpec, bench: Bench) -> Decision:
    """The machine must not decide this but by being a GPU: a checkpoint holds the optimizer's state in its own form."""
    if spec.model.get("lora", {}) is not None:
        value, rule = "adamw_torch", "only adapters are trained, and their state is small"
    elif bench.room is None:
        value, rule = "adamw_torch", "adamw_8bit needs a GPU; none was found"
    else:
        value, rule = (
            "adamw_8bit",
            "all weights are trained: 2 bytes of state a weight in place of 8",
        )
    return Decision(name="optim", value=value, rule=rule)
