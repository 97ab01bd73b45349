"""How much memory of a GPU a stage may plan with, and how a predicted peak is told. Pure.

It is a share of the whole, never of what is free at the moment: the same machine decides the same on every start.
"""

from __future__ import annotations

from qvl_run.contract import Peak
from qvl_run.hardware import GIB, Gpu
from qvl_run.units import show_size

OUTSIDE = round(0.74 * GIB)
"""What the CUDA context and the libraries' workspaces hold beside PyTorch's allocator. A Colab T4 has 14.74 GiB, of
which the allocator can hold about 14.0."""
FRAGMENTED = 0.03
"""Share of the allocator's memory that lies in blocks too small for what is asked for."""


def room(gpu: Gpu) -> int:
    """Bytes that the tensors of one process can take on `gpu`. A cap is one of PyTorch's allocator, so nothing outside
    comes off it."""
    return max(round(min(gpu.vram - OUTSIDE, gpu.usable) * (1 - FRAGMENTED)), 0)


def of(need: int, there: int) -> str:
    """`9.8 of 13.6 GiB`, both in GiB: they are compared."""
    return f"{need / GIB:.1f} of {there / GIB:.1f} GiB"


def told(peak: Peak) -> str:
    """`most in backward: weights 4.0 GiB, activations 3.1 GiB`, the largest part first."""
    parts = sorted(peak.parts.items(), key=lambda part: -part[1])
    return f"most in {peak.phase}: " + ", ".join(f"{name} {show_size(n)}" for name, n in parts if n)
