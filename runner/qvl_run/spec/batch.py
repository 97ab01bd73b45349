"""How many rows an optimizer step takes, the global batch, and what of its split is still to be chosen. Pure.

`global_batch_size` says it; then either half of the split that is not written, or is `auto`, follows from the other,
and where both are open the plan chooses them. Without it, the split as written says it: `auto` for the micro-batch
counts the accumulation in single rows (`gradient_accumulation_steps: 8` is a global batch of 8, however it is split),
and `auto` for the accumulation beside a micro-batch is its default.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from qvl_run.settings import TrainingSettings

WHOLE = "global_batch_size"
MICRO = "per_device_train_batch_size"
STEPS = "gradient_accumulation_steps"
SAMPLED = "generation_micro_batch_size"
"""An option of `with:`, of stages that sample: how many rows are sampled at once."""
AUTO = "auto"


class Contradiction(Exception):
    """Numbers that do not multiply to the global batch. `key` is one of those written."""

    def __init__(self, message: str, *, key: str, hint: str) -> None:
        super().__init__(message)
        self.key, self.hint = key, hint


@dataclass(frozen=True, kw_only=True)
class Split:
    """`micro` rows, `steps` times: their product is the global batch. `auto` are the keys that were left open; where
    both were, the micro-batch is 1 here."""

    micro: int
    steps: int
    auto: frozenset[str] = field(default=frozenset())


def split(training: Mapping[str, Any]) -> Split:
    """The split that `training`, as written, asks for. Raises Contradiction."""
    whole, micro, steps = (_number(training.get(key)) for key in (WHOLE, MICRO, STEPS))
    if whole is None:
        if training.get(MICRO) == AUTO:
            rows = TrainingSettings.gradient_accumulation_steps if steps is None else steps
            return Split(micro=1, steps=rows, auto=frozenset({MICRO, STEPS}))
        return Split(
            micro=TrainingSettings.per_device_train_batch_size if micro is None else micro,
            steps=TrainingSettings.gradient_accumulation_steps if steps is None else steps,
            auto=frozenset({STEPS} if training.get(STEPS) == AUTO else ()),
        )
    if micro is None and steps is None:
        return Split(micro=1, steps=whole, auto=frozenset({MICRO, STEPS}))
    if micro is not None and steps is not None:
        if micro * steps != whole:
            raise Contradiction(
                f"{MICRO} {micro} x {STEPS} {steps} is {micro * steps}, not the {WHOLE} of {whole}",
                key=WHOLE,
                hint=f"write {WHOLE} alone: the split follows, or is chosen to fit the GPU",
            )
        return Split(micro=micro, steps=steps)
    written, number = (MICRO, micro) if micro is not None else (STEPS, steps)
    assert number is not None
    if whole % number:
        raise Contradiction(
            f"{written} {number} does not divide the {WHOLE} of {whole}",
            key=written,
            hint=f"write {WHOLE} alone, or numbers that multiply to it",
        )
    rest = whole // number
    if micro is not None:
        return Split(micro=micro, steps=rest, auto=frozenset({STEPS}))
    return Split(micro=rest, steps=number, auto=frozenset({MICRO}))


def _number(value: Any) -> int | None:
    """None for what is left open. 1e2 is a whole number to JSON Schema."""
    return None if value in (None, AUTO) else int(value)
