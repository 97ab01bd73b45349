"""Sees an attempt: its progress file, its process and what that started, GPU, memory, disk. What fails is None."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from contextlib import suppress
from dataclasses import asdict

import psutil

from qvl_run.run.attempt import AttemptFolder
from qvl_run.watchdog.aside import Aside
from qvl_run.watchdog.gpu import Gpu
from qvl_run.watchdog.snapshot import FIRST, Around, Child, Known, ProcessState, report

_STATES: dict[str, ProcessState | None] = {
    psutil.STATUS_STOPPED: "stopped",
    psutil.STATUS_ZOMBIE: "gone",
    psutil.STATUS_DEAD: "gone",
    # Under a debugger: what somebody looks at is not judged.
    psutil.STATUS_TRACING_STOP: None,
}


def process_state(pid: int | None) -> ProcessState | None:
    """The state of the process `pid`; None where it is not known."""
    if pid is None:
        return None
    try:
        return _STATES.get(psutil.Process(pid).status(), "running")
    except psutil.NoSuchProcess:
        return "gone"
    except Exception:
        return None


class Observer:
    """The eyes of a `Watch`. `folder` lies on this machine's own disk; `pid` is the child's, None where it is not
    known; `known` gives what the runner knows itself. Nothing here raises, and what may hang is asked aside."""

    def __init__(
        self,
        folder: AttemptFolder,
        *,
        pid: int | None,
        gpu: Gpu | None = None,
        known: Callable[[], Known] = Known,
    ) -> None:
        self._folder = folder
        self._pid = pid
        self._use = gpu.use if gpu else lambda: None
        self._known = Aside(known)
        self._memory = Aside(psutil.virtual_memory)
        self._rss = Aside(self._tree_rss)
        self._disk = Aside(lambda: shutil.disk_usage(folder.path))

    def child(self) -> Child:
        """See `Eyes`."""
        process = process_state(self._pid)
        try:
            progress = self._folder.read("progress")
            if progress is not None:
                return Child(report=report(progress), process=process, progress=progress)
            starting = (
                self._folder.path.is_dir() and not (self._folder.path / "progress.json").exists()
            )
            return Child(report=FIRST if starting else None, process=process)
        except Exception:
            return Child(process=process)

    def around(self) -> Around:
        """See `Eyes`."""
        memory, disk = self._memory(), self._disk()
        return Around(
            **asdict(self._known() or Known()),
            gpu_use=self._use(),
            disk_free=disk.free if disk else None,
            ram_available=memory.available if memory else None,
            ram_total=memory.total if memory else None,
            tree_rss=self._rss(),
        )

    def _tree_rss(self) -> int | None:
        """Bytes of the child and all below it; pages that they share count for each."""
        if self._pid is None:
            return None
        process = psutil.Process(self._pid)
        total = process.memory_info().rss
        for below in process.children(recursive=True):
            with suppress(psutil.Error):
                total += below.memory_info().rss
        return int(total)
