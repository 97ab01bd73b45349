"""Facts of a machine, as plain data."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

GIB = 1024**3


@dataclass(frozen=True, kw_only=True)
class Gpu:
    """One GPU, or the slice of one (MIG) that CUDA shows. `vram` are the bytes of its memory that processes can have:
    without those that the driver holds for itself, as in PyTorch's `total_memory`. `capability` is the CUDA compute
    capability.

    `free` are bytes that no process held when it was looked at; `cap` what PyTorch was told to keep to. None where that
    is not known. A cap that other software sets (MPS, a scheduler) is not seen.
    """

    name: str
    vram: int
    capability: tuple[int, int]
    free: int | None = None
    cap: int | None = None

    @property
    def usable(self) -> int:
        """Bytes that one process may take at most."""
        return self.vram if self.cap is None else min(self.vram, self.cap)

    @property
    def dotted(self) -> str:
        """The compute capability as people write it: `7.5`."""
        return dotted(self.capability)


@dataclass(frozen=True, kw_only=True)
class Driver:
    """The GPU's driver. `cuda` is the newest CUDA that it runs; `problem` says why it does not answer, empty where it
    does."""

    version: str = ""
    cuda: tuple[int, int] | None = None
    problem: str = ""


@dataclass(frozen=True, kw_only=True)
class Space:
    """Bytes that may still be written at `folder`, or where it would lie, as its file system reports it; None where it
    does not say."""

    folder: Path
    free: int | None


@dataclass(frozen=True, kw_only=True)
class Machine:
    """Facts of a machine. `gpu` is the first one that is visible, or None, of `gpus`; `assumed` names the profile that
    the facts come from, None where they were measured; `boot_time` is in seconds since the epoch.

    Sizes in bytes; None where something was not looked at, as most is not for a profile. `disk` is the space where
    scratch lies, `storage` that where results go; `drive` is where Google Drive is mounted. `libraries` are versions by
    distribution, those alone that are installed.
    """

    gpu: Gpu | None
    ram: int
    cores: int
    colab: bool = False
    boot_time: float = 0.0
    assumed: str | None = None
    gpus: int = 0
    driver: Driver | None = None
    ram_available: int | None = None
    disk: Space | None = None
    storage: Space | None = None
    drive: Path | None = None
    python: str = ""
    libraries: Mapping[str, str] = field(default_factory=dict, hash=False)


def dotted(capability: tuple[int, int]) -> str:
    """A compute capability, or a version of CUDA, as people write it."""
    return f"{capability[0]}.{capability[1]}"
