"""Machines that are not here: what Colab offers, by tier. Of their disks and drives nothing is known."""

from __future__ import annotations

from collections.abc import Mapping

from qvl_run.hardware.facts import GIB, Gpu, Machine

# tier, GPU, its VRAM in GiB, compute capability, RAM in GiB, cores. VRAM as the driver reports it, not as it is
# advertised: a Colab T4 has 14.74 GiB. RAM and cores of the t4 and cpu machines are the free ones'; the rest are what
# paid machines have shown, h100 and g4 unproved.
_TIERS = (
    ("cpu", "", 0.0, (0, 0), 12.7, 2),
    ("t4", "Tesla T4", 14.74, (7, 5), 12.7, 2),
    ("v100", "Tesla V100-SXM2-16GB", 16.0, (7, 0), 12.7, 2),
    ("l4", "NVIDIA L4", 22.5, (8, 9), 53.0, 12),
    ("a100-40gb", "NVIDIA A100-SXM4-40GB", 39.6, (8, 0), 83.5, 12),
    ("a100-80gb", "NVIDIA A100-SXM4-80GB", 79.3, (8, 0), 167.0, 12),
    ("h100", "NVIDIA H100 80GB HBM3", 79.6, (9, 0), 200.0, 16),
    ("g4", "NVIDIA RTX PRO 6000 Blackwell", 95.6, (12, 0), 180.0, 24),
)

GONE: Mapping[str, str] = {"v100": "Colab no longer offers it"}
"""Tiers that jobs may still name, and why they are hard to come by (google-colab-cli README)."""

PROFILES: Mapping[str, Machine] = {
    tier: Machine(
        gpu=Gpu(name=name, vram=round(vram * GIB), capability=capability) if name else None,
        gpus=1 if name else 0,
        ram=round(ram * GIB),
        cores=cores,
        assumed=tier,
    )
    for tier, name, vram, capability, ram, cores in _TIERS
}


def profile(tier: str) -> Machine:
    """The facts of `tier`. Raises KeyError where there is no such tier."""
    return PROFILES[tier]
