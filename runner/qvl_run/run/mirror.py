"""Takes what an attempt has committed to the store, in the background.

Training never waits for it, and an error of the store never reaches training: it is retried, told once, and what
could not be taken stays on this machine's disk, where the next start finds it.
"""

from __future__ import annotations

import shutil
import threading
import time
from collections.abc import Callable
from pathlib import Path

from qvl_run.checkpoints import manifest as manifests
from qvl_run.checkpoints.manifest import NAME, Broken, Manifest
from qvl_run.checkpoints.store import FolderStore

KEEP = 2
LAST_TRIES = 10
"""Sweeps after the stage has ended, for what could not be taken before."""
INTERVAL = 0.5
"""Seconds between two looks for new checkpoints."""


class Mirror:
    """Watches `work` while a stage runs. Use as a context manager: leaving it takes what is left."""

    def __init__(self, work: Path, store: FolderStore, *, tell: Callable[[str], None]) -> None:
        self._work = work
        self._store = store
        self._tell = tell
        self._told = False
        self._done: set[Path] = set()
        self._taken: list[Path] = []
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._watch, name="mirror", daemon=True)

    def __enter__(self) -> Mirror:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()

    def _watch(self) -> None:
        while not self._stop.wait(INTERVAL):
            self._sweep()
        for _ in range(LAST_TRIES):
            if self._sweep():
                return
            time.sleep(INTERVAL)

    def _sweep(self) -> bool:
        """Take what is new; whether all of it was taken. What was not is tried again at the next sweep."""
        try:
            found = sorted(self._work.glob(f"**/checkpoint-*/{NAME}"), key=_step)
        except OSError:
            # The stage removed a folder of its own while it was being looked into.
            return False
        new = [path.parent for path in found if path.parent not in self._done]
        self._done |= {folder for folder in new if self._take(folder)}
        return all(folder in self._done for folder in new)

    def _take(self, folder: Path) -> bool:
        try:
            manifest = manifests.read(folder)
            self._store.put(folder, manifest)
        except (OSError, Broken) as error:
            if not self._told:
                self._told = True
                self._tell(
                    f"a checkpoint could not be taken to {self._store.root} yet: {error}; "
                    "training goes on, and it will be tried again"
                )
            return False
        if self._told:
            self._told = False
            self._tell(f"checkpoints reach {self._store.root} again")
        try:
            retain(self._store, manifest)
        except OSError as error:
            self._tell(f"older checkpoints could not be deleted: {error}")
        self._taken.append(folder)
        if len(self._taken) > KEEP:
            # Taken is not uploaded: on a mounted drive the newest stay on this disk too.
            shutil.rmtree(self._taken.pop(0), ignore_errors=True)
        return True


def retain(store: FolderStore, newest: Manifest) -> None:
    """Delete checkpoints of the same stage and settings, all but the `KEEP` highest steps that verify."""
    found: list[tuple[int, Path, Manifest]] = []
    for folder in store.folders(newest.stage):
        try:
            manifest = manifests.read(folder)
        except Broken:
            continue
        if manifest.kind == "checkpoint" and manifest.key == newest.key:
            found.append((manifest.step, folder, manifest))
    kept = 0
    for _, folder, manifest in sorted(found, key=lambda f: f[0], reverse=True):
        if kept >= KEEP:
            store.remove(folder)
            continue
        try:
            manifests.verify(folder, manifest)
            kept += 1
        except Broken:
            continue


def _step(path: Path) -> int:
    number = path.parent.name.removeprefix("checkpoint-").partition(".")[0]
    return int(number) if number.isdigit() else 0
