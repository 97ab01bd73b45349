"""What a store holds of each stage, read once and kept up by whoever changes it.

A run owns its folder, so what was read at its start stays true: a drive that dies later cannot make a checkpoint look
absent. Only manifests are read here; files are hashed when a folder is chosen.
"""

from __future__ import annotations

import threading
from collections.abc import Iterable

from qvl_run.checkpoints.manifest import Manifest
from qvl_run.checkpoints.pick import Entry, entry_of
from qvl_run.checkpoints.store import Held, Store, held


def look(store: Store, stage: str) -> list[Entry]:
    """Everything of `stage` in `store`. Raises OSError where it cannot be read."""
    return [entry_of(place, stage=stage) for place in held(store, stage)]


class Index:
    """Entries by stage. Threads may share it."""

    def __init__(self, store: Store, stages: Iterable[str]) -> None:
        """Read `store`. Raises OSError where it cannot be read."""
        self._lock = threading.Lock()
        self._stages = {
            stage: {entry.held.name: entry for entry in look(store, stage)} for stage in stages
        }

    def of(self, stage: str) -> list[Entry]:
        """What there is of `stage`."""
        with self._lock:
            return list(self._stages.get(stage, {}).values())

    def add(self, place: Held, manifest: Manifest) -> None:
        """`place` has come to hold what `manifest` says."""
        with self._lock:
            entries = self._stages.setdefault(manifest.stage, {})
            entries[place.name] = Entry(held=place, manifest=manifest)

    def mark(self, stage: str, entry: Entry) -> None:
        """What there is of `stage` under that name is `entry`."""
        with self._lock:
            self._stages.setdefault(stage, {})[entry.held.name] = entry

    def drop(self, stage: str, place: Held) -> None:
        """`place` is being removed."""
        with self._lock:
            self._stages.get(stage, {}).pop(place.name, None)
