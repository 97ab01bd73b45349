"""What the machine is, from the driver and the operating system, without importing torch.

`probe` is impure; `profile` gives the facts of a machine that is not here, for `plan --assume`.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import psutil

GIB = 1024**3


@dataclass(frozen=True, kw_only=True)
class Gpu:
    """One GPU. `vram` is its whole memory in bytes, `free` what no process held when it was looked at, None where that
    is not known; `capability` the CUDA compute capability."""

    name: str
    vram: int
    capability: tuple[int, int]
    free: int | None = None


@dataclass(frozen=True, kw_only=True)
class Machine:
    """Facts of a machine. `gpu` is the first one that is visible, or None; `assumed` names the profile that the
    facts come from, None where they were measured; `boot_time` is in seconds since the epoch."""

    gpu: Gpu | None
    ram: int
    cores: int
    colab: bool = False
    boot_time: float = 0.0
    assumed: str | None = None


# VRAM as the driver reports it, not as it is advertised: a Colab T4 has 14.74 GiB.
PROFILES: Mapping[str, Machine] = {
    tier: Machine(gpu=gpu, ram=round(ram * GIB), cores=cores, assumed=tier)
    for tier, gpu, ram, cores in (
        ("cpu", None, 12.7, 2),
        ("t4", Gpu(name="Tesla T4", vram=round(14.74 * GIB), capability=(7, 5)), 12.7, 2),
        ("v100", Gpu(name="Tesla V100-SXM2-16GB", vram=16 * GIB, capability=(7, 0)), 12.7, 2),
        ("l4", Gpu(name="NVIDIA L4", vram=round(22.5 * GIB), capability=(8, 9)), 53.0, 12),
        (
            "a100-40gb",
            Gpu(name="NVIDIA A100-SXM4-40GB", vram=round(39.6 * GIB), capability=(8, 0)),
            83.5,
            12,
        ),
        (
            "a100-80gb",
            Gpu(name="NVIDIA A100-SXM4-80GB", vram=round(79.3 * GIB), capability=(8, 0)),
            167.0,
            12,
        ),
        (
            "h100",
            Gpu(name="NVIDIA H100 80GB HBM3", vram=round(79.6 * GIB), capability=(9, 0)),
            200.0,
            16,
        ),
        (
            "g4",
            Gpu(name="NVIDIA RTX PRO 6000 Blackwell", vram=round(95.6 * GIB), capability=(12, 0)),
            180.0,
            24,
        ),
    )
}


def profile(tier: str) -> Machine:
    """The facts of `tier`. Raises KeyError where there is no such tier."""
    return PROFILES[tier]


def probe() -> Machine:
    """The facts of this machine."""
    return Machine(
        gpu=_gpu(),
        ram=psutil.virtual_memory().total,
        cores=len(os.sched_getaffinity(0))
        if hasattr(os, "sched_getaffinity")
        else os.cpu_count() or 1,
        colab=Path("/content").is_dir() and "COLAB_RELEASE_TAG" in os.environ,
        boot_time=psutil.boot_time(),
    )


def _gpu() -> Gpu | None:
    """The first GPU that `CUDA_VISIBLE_DEVICES` leaves visible; None without a driver or with none visible."""
    import pynvml

    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    if visible is not None and visible.split(",")[0].strip() in ("", "-1"):
        return None
    first = visible.split(",")[0].strip() if visible else "0"
    try:
        pynvml.nvmlInit()
    except pynvml.NVMLError:
        return None
    try:
        if first.isdigit():
            handle = pynvml.nvmlDeviceGetHandleByIndex(int(first))
        else:
            handle = pynvml.nvmlDeviceGetHandleByUUID(first)
        name = pynvml.nvmlDeviceGetName(handle)
        major, minor = pynvml.nvmlDeviceGetCudaComputeCapability(handle)
        memory = pynvml.nvmlDeviceGetMemoryInfo(handle)
        return Gpu(
            name=name if isinstance(name, str) else name.decode(),
            vram=int(memory.total),
            capability=(major, minor),
            free=int(memory.free),
        )
    except pynvml.NVMLError:
        return None
    finally:
        pynvml.nvmlShutdown()
