"""How much memory of a GPU a stage may plan with, and how a predicted peak is told. Pure.

It is a share of the whole, never of what is free at the moment: the same machine decides the same on every start.
"""

from __future__ import annotations

from qvl_run.contract import Peak
from qvl_run.hardware import GIB, Gpu
from qvl_run.units import show_size, show_unlike

OUTSIDE = round(0.74 * GIB)
"""What the CUDA context and the libraries' workspaces hold beside PyTorch's allocator. A Colab T4 has 14.74 GiB, of
which the allocator can hold about 14.0."""
FRAGMENTED = 0.03
"""Share of the allocator's memory that lies in blocks too small for what is asked for."""


SHOWN = 0.04
"""Share of a peak from which on a part of it is told by name."""
LEAST_TOLD = 0.05
"""GiB below which a part would be told as 0.0."""
TERA = 1024 * GIB
"""Bytes from which on GiB are no measure."""


def room(gpu: Gpu) -> int:
    """Bytes that the tensors of one process can take on `gpu`. A cap is one of PyTorch's allocator, so nothing outside
    comes off it."""
    return max(round(min(gpu.vram - OUTSIDE, gpu.usable) * (1 - FRAGMENTED)), 0)


def of(need: int, there: int) -> str:
    """`9.8 of 13.6 GiB`, both in GiB: they are compared, and told apart where they differ. `1.3 TiB of 13.6 GiB`."""
    if need >= TERA:
        return f"{show_size(need)} of {show_size(there)}"
    for digits in (1, 2, 3):
        one, other = f"{need / GIB:.{digits}f}", f"{there / GIB:.{digits}f}"
        if one != other:
            return f"{one} of {other} GiB"
    return f"{need / GIB:.1f} of {there / GIB:.1f} GiB"


def against(need: int, there: int, what: str = "") -> str:
    """`15.1 GiB of RAM, 12.7 GiB are there`, where `what` is ` of RAM`."""
    one, other = show_unlike(need, there)
    return f"{one}{what}, {other} are there"


def told(peak: Peak) -> str:
    """`most in backward: weights 4.0 GiB, activations 3.1 GiB, the rest 0.2 GiB`, the largest part first."""
    large = {name: n for name, n in peak.parts.items() if n >= SHOWN * peak.total}
    rest = peak.total - sum(large.values())
    parts = [*sorted(large.items(), key=lambda part: -part[1]), ("the rest", rest)]
    texts = [
        f"{name} {show_size(n) if n >= TERA else f'{n / GIB:.1f} GiB'}"
        for name, n in parts
        if n / GIB >= LEAST_TOLD
    ]
    return f"most in {peak.phase}" + (f": {', '.join(texts)}" if texts else "")
