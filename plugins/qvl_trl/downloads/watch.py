"""What a download tells the runner: bytes, as they arrive, and nothing while none arrive.

The runner ends a process that stays silent in the section "download"; so a report without a new byte would hide a
stall. Nothing here guesses how long is too long.
"""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from qvl_run.contract import StageContext, StageStopped

INTERVAL = 1.0
"""Seconds between two reports, at least."""


@dataclass
class Watch:
    """Counts the bytes of one download after another. Without `ctx` nobody is told."""

    ctx: StageContext | None = None
    clock: Callable[[], float] = time.monotonic
    _bytes: int = 0
    _total: int = 0
    _told: float = 0.0

    @property
    def tries(self) -> int:
        """How many attempts right before this one ended with a download."""
        return self.ctx.earlier("download") if self.ctx else 0

    def begin(self, *, have: int, total: int) -> None:
        """A download of `total` bytes (0: unknown) begins, `have` of which are here. Raises StageStopped."""
        self._bytes, self._total = have, total
        self._tell()

    def arrived(self, count: int) -> None:
        """`count` more bytes are here; negative where some were thrown away. Raises StageStopped."""
        self._bytes += count
        if count > 0 and self.clock() - self._told >= INTERVAL:
            self._tell()

    def finished(self) -> None:
        """All of it is here. Raises StageStopped."""
        self._tell()

    def over(self) -> None:
        """Nothing more is downloaded: what follows may take its time without a byte. Raises StageStopped."""
        if self.ctx is not None:
            self.ctx.progress("load")

    def checked(self) -> None:
        """Bytes that are here were read and compared: the disk answers. Raises StageStopped."""
        if self.clock() - self._told >= INTERVAL:
            self._tell()

    def _tell(self) -> None:
        self._told = self.clock()
        if self.ctx is not None:
            total = {"total_bytes": float(self._total)} if self._total else {}
            self.ctx.progress("download", metrics={"bytes": float(self._bytes), **total})


_current = Watch()


def current() -> Watch:
    """The watch of the innermost `watched` block, else one that tells nobody."""
    return _current


@contextmanager
def watched(ctx: StageContext | None) -> Iterator[Watch]:
    """Downloads in this block report to `ctx`, also those that take no context: a data format's, say."""
    global _current
    outer, _current = _current, Watch(ctx)
    try:
        yield _current
    finally:
        _current = outer


@contextmanager
def growing(
    watch: Watch, folders: Iterable[Path], *, wait: Callable[[threading.Event], bool] | None = None
) -> Iterator[None]:
    """While another library downloads or builds below `folders`, report each time that they have grown.

    `wait` returns True once the block is left, False when it is time to look again.
    """
    folders = tuple(folders)
    over = threading.Event()
    pause = wait or (lambda event: event.wait(INTERVAL))
    before = _size(folders)

    def look() -> None:
        most = before
        while not pause(over):
            now = _size(folders)
            if over.is_set():
                return  # looking took long: what comes next has been told already
            if now > most:
                try:
                    watch.begin(have=now - before, total=0)
                except StageStopped:
                    return  # the stage's own next report raises it where it can be caught
                most = now

    thread = threading.Thread(target=look, daemon=True, name="download-watch")
    if watch.ctx is not None:
        thread.start()
    try:
        yield
    finally:
        over.set()
        if watch.ctx is not None:
            thread.join(INTERVAL)


def _size(folders: Iterable[Path]) -> int:
    """Bytes of the files below `folders`, links not followed; what vanishes meanwhile counts nothing."""
    total = 0
    for top in folders:
        for folder, _, names in os.walk(top):
            for name in names:
                with suppress(OSError):
                    total += os.lstat(os.path.join(folder, name)).st_size  # noqa: PTH118
    return total
