"""What the attempts on this machine have committed: which of it waits for the store, and which may leave this disk.

Of each stage and settings the two newest checkpoints and every output stay here too: what is on a mounted drive is not
uploaded yet. The folder that is being copied is never deleted. Nothing here touches the store.
"""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

from qvl_run.checkpoints.manifest import NAME, Manifest
from qvl_run.checkpoints.pick import Entry
from qvl_run.checkpoints.transfer import KEEP
from qvl_run.disk import LOCAL, Disk, remove_all

LOOKS = 5
"""Looks at this machine's disk: folders may be deleted while they are looked into."""


@dataclass(frozen=True, kw_only=True)
class Local:
    """A committed folder of this machine, not yet, or no longer only, in the store."""

    folder: Path
    manifest: Manifest

    @property
    def name(self) -> str:
        """For people."""
        return f"{self.manifest.stage}/{self.folder.name}"


@dataclass(kw_only=True)
class Outbox:
    """What `committed` finds, less what has been taken. Threads may share it."""

    committed: Callable[[], list[Entry]]
    disk: Disk = LOCAL
    clock: Callable[[], float] = time.monotonic
    _taken: set[Path] = field(default_factory=set)
    _waiting: dict[Path, float] = field(default_factory=dict)
    _busy: Path | None = None
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def pending(self) -> list[Local]:
        """What is not in the store and should be, the most precious first. Raises OSError where this machine's disk
        cannot be read."""
        found = self._found()
        with self._lock:
            waiting = [
                local
                for local in found
                if local.folder not in self._taken
                and (local.manifest.kind == "output" or local in _newest(found, local.manifest))
            ]
            now = self.clock()
            self._waiting = {one.folder: self._waiting.get(one.folder, now) for one in waiting}
        return sorted(waiting, key=_precious)

    def waiting(self) -> tuple[int, float]:
        """How many folders waited when `pending` last looked, and for how many seconds the oldest has. Reads no
        disk."""
        since = list(self._waiting.values())
        return len(since), self.clock() - min(since) if since else 0.0

    @contextlib.contextmanager
    def held(self, local: Local) -> Iterator[bool]:
        """Keeps `local` from being deleted, and says whether it is still there."""
        with self._lock:
            there = (local.folder / NAME).is_file()
            self._busy = local.folder if there else None
        try:
            yield there
        finally:
            with self._lock:
                self._busy = None

    def taken(self, local: Local) -> None:
        """`local` is in the store."""
        with self._lock:
            self._taken.add(local.folder)
            self._waiting.pop(local.folder, None)

    def tidy(self) -> None:
        """Delete old checkpoints from this machine's disk, in the store or not. Raises OSError."""
        found = self._found()
        for local in found:
            if local.manifest.kind == "checkpoint" and local not in _newest(found, local.manifest):
                with self._lock:
                    if local.folder == self._busy:
                        continue
                    with contextlib.suppress(FileNotFoundError):
                        remove_all(local.folder, self.disk, first=NAME)
                    self._taken.discard(local.folder)

    def _found(self) -> list[Local]:
        for _ in range(LOOKS - 1):
            with contextlib.suppress(FileNotFoundError):
                return self._look()
        return self._look()

    def _look(self) -> list[Local]:
        return [
            Local(folder=path, manifest=entry.manifest)
            for entry in self.committed()
            if entry.manifest and (path := entry.held.path)
        ]


def _precious(local: Local) -> tuple[bool, int]:
    """Sorts outputs before checkpoints, and the newest first."""
    return local.manifest.kind != "output", -local.manifest.step


def _newest(found: list[Local], like: Manifest) -> list[Local]:
    """The `KEEP` checkpoints of the highest steps, of the stage and settings of `like`."""
    same = [
        local
        for local in found
        if local.manifest.kind == "checkpoint"
        and (local.manifest.stage, local.manifest.key) == (like.stage, like.key)
    ]
    return sorted(same, key=lambda local: local.manifest.step, reverse=True)[:KEEP]
