"""Takes what the attempts of a run have committed to the store, in the background.

Training never waits for it, and an error of the store never reaches training: it is retried, told once, and what could
not be taken stays on this machine's disk, where the next start finds it. Memory is bounded by one chunk, bandwidth by
`rate`. Where a drive was gone for long, outputs go first, then the newest checkpoints, and what they have overtaken
does not go at all.
"""

from __future__ import annotations

import contextlib
import random
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from tenacity import RetryError, Retrying, retry_if_exception_type, stop_after_attempt
from tenacity import wait_random_exponential as growing

from qvl_run.checkpoints import manifest as manifests
from qvl_run.checkpoints.index import Index
from qvl_run.checkpoints.manifest import Broken, Manifest
from qvl_run.checkpoints.pick import Entry
from qvl_run.checkpoints.store import Held, Store
from qvl_run.checkpoints.transfer import KEEP, put, surplus
from qvl_run.disk import LOCAL, Disk, remove_all
from qvl_run.run.lease import boot

INTERVAL = 0.5
"""Seconds between two looks for something new."""
TRIES = 3
"""Tries in a row for one folder; then others get their turn."""
LOOKS = 5
"""Looks at this machine's disk: folders may be deleted while they are looked into."""
SLOWEST = 60.0
"""Most seconds between two looks, while the store refuses."""
PATIENCE = 20.0
"""Seconds that the end of a run waits for a store that refuses."""


@dataclass(frozen=True, kw_only=True)
class Local:
    """A committed folder of this machine, not yet, or no longer only, in the store."""

    folder: Path
    manifest: Manifest

    @property
    def name(self) -> str:
        """For people."""
        return f"{self.manifest.stage}/{self.folder.name}"


@dataclass
class Throttle:
    """Slows a copy to `rate` bytes a second on average."""

    rate: float
    clock: Callable[[], float] = time.monotonic
    sleep: Callable[[float], object] = time.sleep
    _due: float = 0.0

    def __call__(self, count: int) -> None:
        """Wait until `count` more bytes are due."""
        now = self.clock()
        self._due = max(self._due, now) + count / self.rate
        if self._due > now:
            self.sleep(self._due - now)


@dataclass(kw_only=True)
class Mirror:
    """Watches `committed` while a run goes on. `rival` gives the mark that folders bear while another run may be
    writing beside this one."""

    committed: Callable[[], list[Entry]]
    store: Store
    index: Index
    tell: Callable[[str], None]
    note: Callable[..., None] = lambda *_, **__: None
    rate: float = 64 * 1024 * 1024
    rival: Callable[[], str] = lambda: ""
    disk: Disk = LOCAL
    clock: Callable[[], float] = time.monotonic
    _done: dict[Path, Held] = field(default_factory=dict)
    _verified: set[str] = field(default_factory=set)
    _told: set[str] = field(default_factory=set)
    _patience: float = PATIENCE
    _lock: threading.Lock = field(default_factory=threading.Lock)
    _stop: threading.Event = field(default_factory=threading.Event)
    _thread: threading.Thread | None = None

    def start(self) -> None:
        """Begin to watch."""
        self._thread = threading.Thread(target=self._watch, name="mirror", daemon=True)
        self._thread.start()

    def close(
        self, *, patience: float = PATIENCE, enough: Callable[[], bool] = lambda: False
    ) -> list[Local]:
        """Take what is left; returns what could not be taken, once the store has refused for `patience` seconds or
        `enough` says so. Never raises."""
        assert self._thread is not None
        self._patience = patience
        self._stop.set()
        while self._thread.is_alive() and not enough():
            self._thread.join(0.1)
        return self.pending()

    def pending(self) -> list[Local]:
        """What is not in the store and should be, the most precious first. Raises OSError where this machine's disk
        cannot be read."""
        for _ in range(LOOKS - 1):
            with contextlib.suppress(FileNotFoundError):
                return self._pending()
        return self._pending()

    def _pending(self) -> list[Local]:
        found = self._locals()
        newest = {
            id(local)
            for local in found
            if local.manifest.kind == "output" or local in _newest(found, local.manifest)
        }
        waiting = [
            local for local in found if local.folder not in self._done and id(local) in newest
        ]
        return sorted(waiting, key=_precious)

    def _locals(self) -> list[Local]:
        return [
            Local(folder=path, manifest=entry.manifest)
            for entry in self.committed()
            if entry.manifest and (path := entry.held.path)
        ]

    def _watch(self) -> None:
        delay = INTERVAL
        while not self._stop.wait(delay):
            delay = INTERVAL if self.sweep() else min(SLOWEST, delay * (1.5 + random.random()))
        refused = None
        while not self.sweep():
            refused = refused or self.clock()
            if self.clock() - refused > self._patience:
                return
            time.sleep(INTERVAL)

    def sweep(self) -> bool:
        """Take what is new; whether all of it was taken. Never raises."""
        with self._lock:
            try:
                waiting = self.pending()
            except OSError:
                return False  # the stage removed a folder of its own while it was being looked into
            taken = [self._take(local) for local in waiting]
            self._tidy()
            return all(taken)

    def _take(self, local: Local) -> bool:
        began = self.clock()
        try:
            held = self._there(local) or self._put(local)
        except (OSError, Broken) as error:
            self._tell_once(
                "put",
                f"{local.name} could not be taken to {self.store.place} yet: {error}; it stays on this machine's "
                "disk, training goes on, and it will be tried again",
            )
            return False
        if "put" in self._told:
            self._told.discard("put")
            self.tell(f"checkpoints reach {self.store.place} again")
        self._done[local.folder] = held
        self._verified.add(held.name)
        self.index.add(held, local.manifest)
        with contextlib.suppress(OSError):
            self._note_taken(local, held, began)
        self._retain(local.manifest)
        return True

    def _note_taken(self, local: Local, held: Held, began: float) -> None:
        self.note(
            "mirrored",
            stage=local.manifest.stage,
            step=local.manifest.step,
            folder=held.last,
            level=self.store.finished,
            bytes=local.manifest.size,
            seconds=round(self.clock() - began, 3),
        )

    def _put(self, local: Local) -> Held:
        """Into the store, tried a few times."""
        retrying = Retrying(
            stop=stop_after_attempt(TRIES),
            wait=growing(multiplier=0.2, max=5),
            retry=retry_if_exception_type((OSError, Broken)),
            sleep=self._pause,
        )
        try:
            return retrying(
                put,
                local.folder,
                local.manifest,
                self.store,
                disk=self.disk,
                rival=self.rival(),
                wait=Throttle(self.rate),
            )
        except RetryError as error:
            cause = error.last_attempt.exception()
            assert cause is not None
            raise cause from None

    def _there(self, local: Local) -> Held | None:
        """Where an earlier start of the run has already taken `local`. Raises OSError."""
        for entry in self.index.of(local.manifest.stage):
            if entry.manifest == local.manifest:
                try:
                    manifests.verify(entry.held, local.manifest)
                except Broken:
                    continue
                return entry.held
        return None

    def _retain(self, newest: Manifest) -> None:
        """Delete from the store what the rules allow, now that `newest` is there."""
        if newest.kind == "output":
            return
        try:
            self._verify_newest(newest)
            entries = self.index.of(newest.stage)
            kept = self._seen_elsewhere(entries, newest.key)
            for entry in surplus(entries, self._verified, key=newest.key):
                if entry == kept:
                    continue
                self.index.drop(newest.stage, entry.held)
                self.store.remove(entry.held.name, first=manifests.NAME)
        except OSError as error:
            self._tell_once("retain", f"older checkpoints could not be deleted: {error}")

    def _seen_elsewhere(self, entries: list[Entry], key: str) -> Entry | None:
        """On a drive whose uploads cannot be watched, the newest that another machine wrote: it alone is sure to be
        uploaded, so it outlives those that this machine has only copied."""
        if self.store.finished == "durable":
            return None
        found = [
            (entry.manifest.step, entry)
            for entry in entries
            if entry.manifest
            and (entry.manifest.kind, entry.manifest.key) == ("checkpoint", key)
            and entry.manifest.facts.get("machine") not in (None, boot())
        ]
        return max(found, key=lambda pair: pair[0])[1] if found else None

    def _verify_newest(self, newest: Manifest) -> None:
        """Verify what earlier runs left, as far as it is to be counted on: once."""
        entries = [e for e in self.index.of(newest.stage) if e.held.last.startswith("checkpoint-")]
        ours = [
            (e.held, e.manifest) for e in entries if e.manifest and e.manifest.key == newest.key
        ]
        counted = 0
        for held, manifest in sorted(ours, key=lambda e: e[1].step, reverse=True):
            if held.name not in self._verified:
                try:
                    manifests.verify(held, manifest)
                except Broken:
                    continue
                self._verified.add(held.name)
            counted += 1
            if counted == KEEP:
                return

    def _tidy(self) -> None:
        """Delete old checkpoints from this machine's disk, in the store or not. The newest stay here too: what is on
        a mounted drive is not uploaded yet."""
        try:
            found = self._locals()
            for local in found:
                if local.manifest.kind == "checkpoint" and local not in _newest(
                    found, local.manifest
                ):
                    remove_all(local.folder, self.disk, first=manifests.NAME)
                    self._done.pop(local.folder, None)
        except OSError as error:
            self._tell_once(
                "tidy", f"old checkpoints on this machine could not be deleted: {error}"
            )

    def _pause(self, seconds: float) -> None:
        """Between two tries; short once the run waits for its end."""
        self._stop.wait(seconds)

    def _tell_once(self, what: str, text: str) -> None:
        if what not in self._told:
            self._told.add(what)
            self.tell(text)


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
