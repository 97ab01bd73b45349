"""Changes that would make a stage fit: which are enough, alone or together, by trying them. Pure.

None is told that makes settings which the stage's own check has something against.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

from qvl_run.plan.changes import Change, Kind, kinds
from qvl_run.plan.faults import adds_none
from qvl_run.spec.job import StageSpec

SHOWN = 3
"""Changes that are told at most, where each alone is enough."""

Over = Callable[[StageSpec], bool]
"""Whether a stage is known not to fit."""


def enough(spec: StageSpec, over: Over, *, gpu: bool) -> list[Change]:
    """The first few changes of which each alone is enough, those first that cost the result least."""
    found: list[Change] = []
    for kind in kinds(gpu=gpu):
        one = next((one for one in _levels(kind, spec) if not over(one.on(spec))), None)
        if one is not None and not any(known.within(one) for known in found):
            found.append(one)
    return found[:SHOWN]


def together(spec: StageSpec, over: Over, *, gpu: bool) -> list[Change]:
    """Changes that are enough together, none larger than it must be and none that could be left out; empty where all of
    them are not enough."""
    every = list(kinds(gpu=gpu))
    # The first, a smaller micro-batch, may need more: between the batches of a step gradients stay.
    return _together(spec, every, over) or _together(spec, every[1:], over)


def _together(spec: StageSpec, every: Sequence[Kind], over: Over) -> list[Change]:
    made: list[tuple[Change, ...]] = []
    at = spec
    # Twice: shorter completions leave room for shorter rows.
    for kind in (*every, *every):
        if levels := _levels(kind, at):
            at = levels[-1].on(at)
            made.append(levels)
        if levels and not over(at):
            return _least(spec, made, over)
    return []


def _least(spec: StageSpec, made: Sequence[tuple[Change, ...]], over: Over) -> list[Change]:
    """Of the last of each of `made`, which are enough together, those that must be, each as small as will do."""

    def enough_with(changes: Iterable[Change]) -> bool:
        changed = _all_on(spec, changes)
        return _accepted(changed, before=spec) and not over(changed)

    kept = {i: levels[-1] for i, levels in enumerate(made)}
    before: dict[int, Change] = {}
    # What one of them no longer must be may be what another had to be for: until nothing changes.
    while kept != before:
        before = kept
        for i in reversed(list(kept)):
            rest = {k: one for k, one in kept.items() if k != i}
            kept = rest if enough_with(rest.values()) else kept
        for i in reversed(list(kept)):
            smaller = ({**kept, i: level} for level in made[i])
            kept = next((tried for tried in smaller if enough_with(tried.values())), kept)
    told = list(kept.values())
    # A smaller global batch says its split anew.
    return [one for i, one in enumerate(told) if not any(one.within(b) for b in told[i + 1 :])]


def _all_on(spec: StageSpec, changes: Iterable[Change]) -> StageSpec:
    for one in changes:
        spec = one.on(spec)
    return spec


def _levels(kind: Kind, spec: StageSpec) -> tuple[Change, ...]:
    """The changes of `kind` that can be made to `spec`."""
    return tuple(one for one in kind(spec) if _accepted(one.on(spec), before=spec))


def _accepted(spec: StageSpec, *, before: StageSpec) -> bool:
    """Whether its image is shorter than its row, what is quantized is not trained, and the stage has nothing against it
    that it had not `before`."""
    images, length = spec.model.get("image_tokens"), spec.training.max_seq_length
    quantized = spec.model.get("quantization", "none") != "none"
    shorter = not images or length is None or images[1] < length
    possible = shorter and not (quantized and spec.model.get("lora", {}) is None)
    return possible and adds_none(spec, before=before)
