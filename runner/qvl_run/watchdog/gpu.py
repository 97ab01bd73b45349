"""The GPU that the child trains on, as its driver sees it. What cannot be asked is None; nothing raises or hangs."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable
from typing import Any, TypeVar

from qvl_run.watchdog.aside import Aside

_T = TypeVar("_T")


class Gpu:
    """The first GPU that `CUDA_VISIBLE_DEVICES` leaves visible, as in `qvl_run.hardware`. `nvml` is the driver's
    library; it is opened at the first question and, after an error, anew at the next."""

    def __init__(self, nvml: Any | None = None) -> None:
        self._nvml = nvml
        self._handle: Any = None
        self._lock = threading.Lock()
        self._use = Aside(lambda: self._ask(self._read_use))
        self._memory = Aside(lambda: self._ask(self._read_memory))
        self._pids = Aside(lambda: self._ask(self._read_pids))

    def use(self) -> float | None:
        """Share of the last moments in which it computed, 0 to 1."""
        return self._use()

    def memory_used(self) -> int | None:
        """Bytes in use on it, by all processes."""
        return self._memory()

    def processes(self) -> list[int] | None:
        """Ids of the processes that compute on it. In a container they may be those of the host, or none at all."""
        return self._pids()

    def _read_use(self, nvml: Any, handle: Any) -> float:
        return float(nvml.nvmlDeviceGetUtilizationRates(handle).gpu) / 100

    def _read_memory(self, nvml: Any, handle: Any) -> int:
        return int(nvml.nvmlDeviceGetMemoryInfo(handle).used)

    def _read_pids(self, nvml: Any, handle: Any) -> list[int]:
        return [int(one.pid) for one in nvml.nvmlDeviceGetComputeRunningProcesses(handle)]

    def _ask(self, read: Callable[[Any, Any], _T]) -> _T | None:
        # Held only in threads of `Aside`: who waits here for a call that hangs is not waited for.
        with self._lock:
            visible = os.environ.get("CUDA_VISIBLE_DEVICES", "0").partition(",")[0].strip()
            if visible in ("", "-1"):
                return None
            try:
                if self._handle is None:
                    self._handle = self._open(visible)
                return read(self._nvml, self._handle)
            except Exception:
                self._close()
                raise

    def _open(self, visible: str) -> Any:
        if self._nvml is None:
            import pynvml

            self._nvml = pynvml
        self._nvml.nvmlInit()
        try:
            if visible.isdigit():
                return self._nvml.nvmlDeviceGetHandleByIndex(int(visible))
            return self._nvml.nvmlDeviceGetHandleByUUID(visible)
        except Exception:
            self._nvml.nvmlShutdown()
            raise

    def _close(self) -> None:
        if self._nvml is not None and self._handle is not None:
            self._handle = None
            self._nvml.nvmlShutdown()
