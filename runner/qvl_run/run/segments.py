"""Takes the closed segments of a run's story to the store: small files that nobody changes once they are closed.

Each goes there under its own name, the oldest first, is read back, and is then left alone for ever. One that the store
has in another size was cut short on its way and goes again: the name is its own, and the content the same.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from qvl_run.checkpoints.manifest import Broken
from qvl_run.checkpoints.store import Store
from qvl_run.disk import LOCAL, Disk


@dataclass(kw_only=True)
class Segments:
    """What `closed` names and the folder `run` of `store` does not have. One thread at a time may use it."""

    closed: Callable[[], list[Path]]
    store: Store
    run: str
    disk: Disk = LOCAL
    clock: Callable[[], float] = time.monotonic
    _there: dict[str, int] | None = None
    _since: float | None = None

    def take(self) -> bool:
        """Take what is new; whether there was anything. Raises OSError; Broken where the store gives back other bytes
        than it was given."""
        there = self._there
        new = [path for path in sorted(self.closed(), key=_name) if not self._has(path, there)]
        if not new:
            self._since = None
            return False
        self._since = self.clock() if self._since is None else self._since
        if there is None:
            # Once: names are this run's own, so nobody else writes them later.
            there = self._there = self.store.sizes(self.run)
        for path in new:
            content = b"".join(self.disk.read(path))
            if there.get(path.name) == len(content):
                continue
            name = f"{self.run}/{path.name}"
            self.store.write(name, [content])
            if b"".join(self.store.read(name)) != content:
                raise Broken(f"{path.name} reads back other than it was written")
            there[path.name] = len(content)
        self._since = None
        return True

    def waiting(self) -> float:
        """Seconds for which something has waited, 0 where nothing does. Reads no disk."""
        since = self._since
        return 0.0 if since is None else self.clock() - since

    def _has(self, path: Path, there: dict[str, int] | None) -> bool:
        return there is not None and there.get(path.name) == self.disk.kind(path)[1]


def _name(path: Path) -> str:
    return path.name
