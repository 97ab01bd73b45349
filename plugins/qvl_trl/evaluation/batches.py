"""Examples in batches, each reported to the runner: what every measure of this package iterates over."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from qvl_run.contract import Example, StageContext


def batches(
    ctx: StageContext, examples: Sequence[Example], *, size: int
) -> Iterator[Sequence[Example]]:
    """`examples` in order, `size` at a time. Raises StageStopped between batches when a stop was asked for."""
    total = -(-len(examples) // size)
    for number, start in enumerate(range(0, len(examples), size)):
        ctx.progress("eval", step=number, total=total)
        yield examples[start : start + size]
