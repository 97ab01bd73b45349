"""A driver's library for tests, with the real one's errors: `Nvml(gpus)` answers as NVML does."""

from __future__ import annotations

import threading
from dataclasses import dataclass, field
from types import SimpleNamespace

import pynvml

GIB = 1024**3


@dataclass(frozen=True)
class Card:
    name: str = "Tesla T4"
    uuid: str = "GPU-1"
    total: int = 15 * GIB
    used: int = GIB
    reserved: int = 0
    capability: tuple[int, int] = (7, 5)
    slices: tuple[Card, ...] = ()
    lost: bool = False


@dataclass
class Nvml:
    cards: list[Card] = field(default_factory=list)
    init_error: int | None = None
    hang: threading.Event | None = None
    """Where given, the first call waits for it."""
    shut: int = 0
    old: bool = False
    """Whether it knows the first form of its answers alone."""

    NVMLError = pynvml.NVMLError
    nvmlMemory_v2 = pynvml.nvmlMemory_v2  # noqa: N815
    NVML_ERROR_LIBRARY_NOT_FOUND = pynvml.NVML_ERROR_LIBRARY_NOT_FOUND
    NVML_ERROR_NOT_FOUND = pynvml.NVML_ERROR_NOT_FOUND
    NVML_ERROR_INVALID_ARGUMENT = pynvml.NVML_ERROR_INVALID_ARGUMENT
    NVML_DEVICE_MIG_ENABLE = pynvml.NVML_DEVICE_MIG_ENABLE

    def nvmlInit(self) -> None:  # noqa: N802
        if self.hang is not None:
            self.hang.wait()
        if self.init_error is not None:
            raise pynvml.NVMLError(self.init_error)

    def nvmlShutdown(self) -> None:  # noqa: N802
        self.shut += 1

    def nvmlSystemGetDriverVersion(self) -> str:  # noqa: N802
        return "550.54.15"

    def nvmlSystemGetCudaDriverVersion(self) -> int:  # noqa: N802
        return 12040

    def nvmlDeviceGetCount(self) -> int:  # noqa: N802
        return len(self.cards)

    def nvmlDeviceGetHandleByIndex(self, index: int) -> Card:  # noqa: N802
        if self.cards[index].lost:
            raise pynvml.NVMLError(pynvml.NVML_ERROR_GPU_IS_LOST)
        return self.cards[index]

    def nvmlDeviceGetHandleByUUID(self, uuid: str) -> Card:  # noqa: N802
        every = [*self.cards, *(part for card in self.cards for part in card.slices)]
        for card in every:
            if card.uuid == uuid:
                return card
        raise pynvml.NVMLError(pynvml.NVML_ERROR_NOT_FOUND)

    def nvmlDeviceGetDeviceHandleFromMigDeviceHandle(self, part: Card) -> Card:  # noqa: N802
        return next(card for card in self.cards if part in card.slices)

    def nvmlDeviceGetMigMode(self, card: Card) -> tuple[int, int]:  # noqa: N802
        if not card.slices and card.capability < (8, 0):
            raise pynvml.NVMLError(pynvml.NVML_ERROR_NOT_SUPPORTED)
        return (1, 1) if card.slices else (0, 0)

    def nvmlDeviceGetMaxMigDeviceCount(self, card: Card) -> int:  # noqa: N802
        return 7

    def nvmlDeviceGetMigDeviceHandleByIndex(self, card: Card, index: int) -> Card:  # noqa: N802
        # As on a real one, not every index is taken: the first slice may well stand at another.
        if index == 0 or index > len(card.slices):
            raise pynvml.NVMLError(pynvml.NVML_ERROR_NOT_FOUND)
        return card.slices[index - 1]

    def nvmlDeviceGetMemoryInfo(  # noqa: N802
        self, card: Card, version: int | None = None
    ) -> SimpleNamespace:
        free = card.total - card.reserved - card.used
        if version is None:
            return SimpleNamespace(total=card.total, free=free, used=card.total - free)
        if self.old:
            raise pynvml.NVMLError(pynvml.NVML_ERROR_FUNCTION_NOT_FOUND)
        assert version == pynvml.nvmlMemory_v2
        return SimpleNamespace(total=card.total, reserved=card.reserved, free=free, used=card.used)

    def nvmlDeviceGetCudaComputeCapability(self, card: Card) -> tuple[int, int]:  # noqa: N802
        if card.uuid.startswith("MIG"):
            raise pynvml.NVMLError(pynvml.NVML_ERROR_INVALID_ARGUMENT)
        return card.capability

    def nvmlDeviceGetName(self, card: Card) -> bytes:  # noqa: N802
        return card.name.encode()
