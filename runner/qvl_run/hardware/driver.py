"""The GPU as its driver sees it, through NVML."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from qvl_run.hardware.facts import Driver, Gpu
from qvl_run.run.bounded import within

PATIENCE = 30.0
"""Seconds to wait for the driver. Without its persistence daemon it starts each GPU at the first question."""
_FRACTION = re.compile(r"(?:^|,)\s*per_process_memory_fraction:\s*([0-9.]+)")
_ALLOCATOR = ("PYTORCH_ALLOC_CONF", "PYTORCH_CUDA_ALLOC_CONF")
"""Where PyTorch reads its allocator's settings; the first that is set holds."""


@dataclass(frozen=True, kw_only=True)
class Seen:
    """What the driver says. `driver` is None where there is none."""

    gpu: Gpu | None = None
    gpus: int = 0
    driver: Driver | None = None


def look(
    library: Any | None = None,
    *,
    environ: Mapping[str, str] = os.environ,
    patience: float = PATIENCE,
) -> Seen:
    """The first GPU that `CUDA_VISIBLE_DEVICES` leaves visible, how many there are, and the driver. Never raises, and
    does not hang where the driver does. `library` is the driver's, pynvml."""
    if library is None:
        import pynvml

        library = pynvml
    answers: list[Seen] = []
    if not within(patience, lambda: answers.append(_ask(library, environ)), name="qvl-driver"):
        return Seen(driver=Driver(problem=f"it has not answered for {patience:.0f} s"))
    return answers[0] if answers else Seen(driver=Driver(problem="it could not be asked"))


def _ask(nvml: Any, environ: Mapping[str, str]) -> Seen:
    try:
        nvml.nvmlInit()
    except nvml.NVMLError as error:
        # No library: no driver was ever installed, and nothing is wrong.
        absent = error.value == nvml.NVML_ERROR_LIBRARY_NOT_FOUND
        return Seen(driver=None if absent else Driver(problem=str(error)))
    try:
        version, cuda = nvml.nvmlSystemGetDriverVersion(), nvml.nvmlSystemGetCudaDriverVersion()
        driver = Driver(version=_text(version), cuda=(cuda // 1000, cuda % 1000 // 10))
        names = _visible(environ.get("CUDA_VISIBLE_DEVICES"), nvml.nvmlDeviceGetCount())
        gpu = _gpu(nvml, names[0], environ) if names else None
        return Seen(gpu=gpu, gpus=len(names), driver=driver)
    except nvml.NVMLError as error:
        # A name in CUDA_VISIBLE_DEVICES that there is no GPU of hides all; anything else is the driver's failure.
        if error.value in (nvml.NVML_ERROR_NOT_FOUND, nvml.NVML_ERROR_INVALID_ARGUMENT):
            return Seen(driver=driver)
        return Seen(driver=Driver(problem=str(error)))
    finally:
        nvml.nvmlShutdown()


def _visible(text: str | None, count: int) -> list[str]:
    """Indices or UUIDs of the GPUs that CUDA shows, in its order: all up to the first that is none."""
    if text is None:
        return [str(index) for index in range(count)]
    names: list[str] = []
    for part in text.split(","):
        name = part.strip()
        if not name or name.startswith("-") or (name.isdigit() and int(name) >= count):
            break
        names.append(name)
    return names


def _gpu(nvml: Any, name: str, environ: Mapping[str, str]) -> Gpu:
    if name.isdigit():
        whole = nvml.nvmlDeviceGetHandleByIndex(int(name))
        handle = _slice(nvml, whole)
    else:
        handle = nvml.nvmlDeviceGetHandleByUUID(name)
        whole = (
            nvml.nvmlDeviceGetDeviceHandleFromMigDeviceHandle(handle)
            if name.startswith("MIG")
            else handle
        )
    vram, free = _memory(nvml, handle)
    major, minor = nvml.nvmlDeviceGetCudaComputeCapability(whole)
    fraction = _fraction(environ)
    return Gpu(
        name=_text(nvml.nvmlDeviceGetName(handle)),
        vram=vram,
        capability=(major, minor),
        free=free,
        cap=None if fraction is None else int(vram * fraction),
    )


def _memory(nvml: Any, handle: Any) -> tuple[int, int]:
    """Bytes that processes can have in all, and those that are free. What the driver holds for itself is in neither:
    the rest is what PyTorch calls `total_memory`."""
    try:
        found = nvml.nvmlDeviceGetMemoryInfo(handle, version=nvml.nvmlMemory_v2)
        return int(found.total) - int(found.reserved), int(found.free)
    except nvml.NVMLError:  # a driver older than 510 counts what it holds as used
        found = nvml.nvmlDeviceGetMemoryInfo(handle)
        return int(found.total), int(found.free)


def _slice(nvml: Any, whole: Any) -> Any:
    """The first slice of a GPU that is cut up (MIG): CUDA shows that one; else the GPU itself."""
    try:
        if nvml.nvmlDeviceGetMigMode(whole)[0] != nvml.NVML_DEVICE_MIG_ENABLE:
            return whole
        for index in range(nvml.nvmlDeviceGetMaxMigDeviceCount(whole)):
            try:
                return nvml.nvmlDeviceGetMigDeviceHandleByIndex(whole, index)
            except nvml.NVMLError:
                continue
    except nvml.NVMLError:
        pass  # a GPU that cannot be cut up
    return whole


def _fraction(environ: Mapping[str, str]) -> float | None:
    """The share of the GPU that PyTorch's allocator is told to keep to (CUDA semantics, "Memory management")."""
    setting = next((environ[name] for name in _ALLOCATOR if environ.get(name)), "")
    found = _FRACTION.search(setting)
    try:
        share = float(found[1]) if found else None
    except ValueError:
        return None
    return share if share is not None and 0 < share < 1 else None


def _text(name: str | bytes) -> str:
    return name if isinstance(name, str) else name.decode()
