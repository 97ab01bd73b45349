"""Takes what the attempts of a run have committed to the store, in the background.

Training never waits for it, and an error of the store never reaches training: it is retried, told once, and what could
not be taken stays on this machine's disk, where the next start finds it. A store that hangs, which is no error, blocks
one thread: this machine's disk is tidied by another, the end of the run waits a bounded time, and how long it has been
so can be asked. Memory is bounded by one chunk, bandwidth by `rate`. Where a drive was gone for long, outputs go
first, then the newest checkpoints, and what they have overtaken does not go at all.
"""

from __future__ import annotations

import contextlib
import random
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

from tenacity import RetryError, Retrying, retry_if_exception_type, stop_after_attempt
from tenacity import wait_random_exponential as growing

from qvl_run.checkpoints import manifest as manifests
from qvl_run.checkpoints.index import Index
from qvl_run.checkpoints.manifest import Broken, Manifest
from qvl_run.checkpoints.pick import Entry
from qvl_run.checkpoints.store import Held, Store
from qvl_run.checkpoints.transfer import KEEP, copy, move, surplus
from qvl_run.disk import LOCAL, Disk
from qvl_run.run.bounded import within
from qvl_run.run.lease import boot
from qvl_run.run.outbox import Local, Outbox
from qvl_run.run.segments import Segments
from qvl_run.run.standing import Standing
from qvl_run.run.throttle import Throttle

__all__ = ["PATIENCE", "Local", "Mirror", "Throttle"]

INTERVAL = 0.5
"""Seconds between two looks for something new."""
TIDY = 5.0
"""Seconds between two looks at this machine's disk that do not wait for the store."""
TRIES = 3
"""Tries in a row for one folder; then others get their turn."""
SLOWEST = 60.0
"""Most seconds between two looks, while the store refuses."""
PATIENCE = 20.0
"""Seconds that the end of a run waits for a store that refuses."""
NOTICE = 5.0
"""Seconds more, after which a store that does not even refuse counts as hanging."""
LAST = 5.0
"""Seconds for the last segments of the story."""
_LOOK = 0.05
"""Seconds between two looks whether the store is being waited for."""


@dataclass(kw_only=True)
class Mirror:
    """Watches `committed` while a run goes on, and `segments`, the closed files of its story, which go into the folder
    `run` of the store. `rival` gives the mark that folders bear while another run may be writing beside this one."""

    committed: Callable[[], list[Entry]]
    store: Store
    index: Index
    tell: Callable[[str], None]
    note: Callable[..., None] = lambda *_, **__: None
    rate: float = 64 * 1024 * 1024
    rival: Callable[[], str] = lambda: ""
    segments: Callable[[], list[Path]] = lambda: []
    run: str = ""
    disk: Disk = LOCAL
    clock: Callable[[], float] = time.monotonic
    _outbox: Outbox = field(init=False)
    _story: Segments = field(init=False)
    _standing: Standing = field(init=False)
    _verified: set[str] = field(default_factory=set)
    _owed: dict[tuple[str, str], Manifest] = field(default_factory=dict)
    """The newest checkpoint taken, by stage and settings, where the older ones have not been looked at since."""
    _told: set[str] = field(default_factory=set)
    _patience: float = PATIENCE
    _waits: bool = False
    """Set while the lock may be held for long, and what was committed is here or in the index, not in between."""
    _lock: threading.Lock = field(default_factory=threading.Lock)
    _stop: threading.Event = field(default_factory=threading.Event)
    _thread: threading.Thread | None = None

    def __post_init__(self) -> None:
        self._outbox = Outbox(
            committed=lambda: self.committed(), disk=self.disk, clock=lambda: self.clock()
        )
        self._story = Segments(
            closed=lambda: self.segments(),
            store=self.store,
            run=self.run,
            disk=self.disk,
            clock=lambda: self.clock(),
        )
        self._standing = Standing(clock=lambda: self.clock())

    def start(self) -> None:
        """Begin to watch."""
        self._thread = threading.Thread(target=self._watch, name="mirror", daemon=True)
        self._thread.start()
        threading.Thread(target=self._keep_tidy, name="tidy", daemon=True).start()

    def close(
        self, *, patience: float = PATIENCE, enough: Callable[[], bool] = lambda: False
    ) -> list[Local]:
        """Take what is left; returns what could not be taken, once the store has refused for `patience` seconds, or a
        little longer not moved a byte, or `enough` says so. A call that hangs is left behind. Never raises."""
        assert self._thread is not None
        self._patience = patience
        began = self.clock()
        self._stop.set()
        while self._thread.is_alive() and not enough():
            if self.clock() - max(began, self._standing.alive) > patience + NOTICE:
                break
            self._thread.join(0.1)
        return self.pending()

    def pending(self) -> list[Local]:
        """What is not in the store and should be, the most precious first. Raises OSError where this machine's disk
        cannot be read."""
        return self._outbox.pending()

    def waiting(self) -> tuple[int, float]:
        """How many folders wait for the store, and for how many seconds the oldest of them has. Reads no disk."""
        return self._outbox.waiting()

    def refusing_for(self) -> float:
        """Seconds for which something has waited and the store has not worked, be it that it refuses or that it
        hangs; about 0 where all is well. Reads no disk."""
        waited = max(self._outbox.waiting()[1], self._story.waiting())
        return min(waited, self._standing.still())

    @property
    def slowest_upload(self) -> float | None:
        """Seconds that the longest upload of a folder took, None before the first."""
        return self._standing.slowest

    def sweep(self) -> bool:
        """Take what is new; whether all of it was taken. Never raises."""
        with self._lock:
            story, taken, tried = True, True, set[Path]()
            while True:
                story = story and self._take_story()
                self._retain()
                try:
                    waiting = [one for one in self.pending() if one.folder not in tried]
                except OSError:
                    return False  # the stage removed a folder of its own while it was being looked into
                if not waiting:
                    break
                # One at a time: what is saved while it is copied may be more precious than the rest.
                tried.add(waiting[0].folder)
                taken = self._take(waiting[0]) and taken
            self._tidy()
            return story and taken

    def settle(self) -> None:
        """Take what only needs renaming, where the store is on this machine's own disk; never copies, and waits for no
        copy. When this returns, each committed folder is where it was committed or in the index. Never raises."""
        if self.store.local("") is None:
            return
        while not self._lock.acquire(timeout=_LOOK):
            if self._waits:
                return
        try:
            with contextlib.suppress(OSError):
                for local in self.pending():
                    self._move(local)
        finally:
            self._lock.release()

    def look(self) -> None:
        """Tidy this machine's disk, and count what waits; does not wait for the store. Never raises."""
        self._tidy()
        with contextlib.suppress(OSError):
            self.pending()

    def take_segments(self) -> bool:
        """Take the last segments of the story, once the mirror is closed; whether all are there after a few seconds. A
        call that hangs is left behind. Never raises."""
        took: list[bool] = []

        def take() -> None:
            with self._lock:
                took.append(self._take_story())

        return within(LAST, take, name="segments") and took == [True]

    def _watch(self) -> None:
        delay = INTERVAL
        while not self._stop.wait(delay):
            delay = INTERVAL if self.sweep() else min(SLOWEST, delay * (1.5 + random.random()))
        refused = None
        while not self.sweep():
            refused = self.clock() if refused is None else refused
            if self.clock() - max(refused, self._standing.worked) > self._patience:
                return
            time.sleep(INTERVAL)

    def _keep_tidy(self) -> None:
        while not self._stop.wait(TIDY):
            self.look()

    def _take_story(self) -> bool:
        try:
            if self._story.take():
                self._standing.answered()
        except (OSError, Broken) as error:
            self._tell_once(
                "story",
                f"the log of events could not be taken to storage yet: {error}; it will be tried again",
            )
            return False
        self._told.discard("story")
        return True

    def _take(self, local: Local) -> bool:
        began = self.clock()
        with self._outbox.held(local) as there:
            if not there:
                return True
            try:
                held = self._there(local) or self._put(local)
            except (OSError, Broken) as error:
                self._standing.refused()
                self._tell_once(
                    "put",
                    f"{local.name} could not be taken to {self.store.place} yet: {error}; it stays on this machine's "
                    "disk, training goes on, and it will be tried again",
                )
                return False
        if "put" in self._told:
            self._told.discard("put")
            self.tell(f"checkpoints reach {self.store.place} again")
        self._took(local, held, began)
        return True

    def _move(self, local: Local) -> None:
        """Take `local` by renaming it, where that can be done. Raises OSError."""
        began = self.clock()
        with self._outbox.held(local) as there:
            known = [entry.manifest for entry in self.index.of(local.manifest.stage)]
            if not there or local.manifest in known:
                return
            held = move(local.folder, local.manifest, self.store, rival=self.rival())
        if held is not None:
            self._took(local, held, began)

    def _took(self, local: Local, held: Held, began: float) -> None:
        manifest = local.manifest
        self.index.add(held, manifest)
        self._outbox.taken(local)
        self._standing.took()
        self._verified.add(held.name)
        if manifest.kind == "checkpoint":
            self._owed[manifest.stage, manifest.key] = manifest
        with contextlib.suppress(OSError):
            self.note(
                "mirrored",
                stage=manifest.stage,
                step=manifest.step,
                folder=held.last,
                level=self.store.finished,
                bytes=manifest.size,
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
            return retrying(self._try, local)
        except RetryError as error:
            cause = error.last_attempt.exception()
            assert cause is not None
            raise cause from None

    def _try(self, local: Local) -> Held:
        """Into the store, tried once. Raises OSError, Broken."""
        began = self.clock()
        throttle = Throttle(self.rate, sleep=self._hold_back)

        def wait(count: int) -> None:
            self._standing.moved(count)
            throttle(count)

        try:
            held = move(local.folder, local.manifest, self.store, rival=self.rival())
            if held is None:
                with self._waiting():
                    held = copy(
                        local.folder,
                        local.manifest,
                        self.store,
                        disk=self.disk,
                        rival=self.rival(),
                        wait=wait,
                    )
        except (OSError, Broken):
            self._standing.refused()
            raise
        self._standing.uploaded(self.clock() - began)
        return held

    def _there(self, local: Local) -> Held | None:
        """Where an earlier start of the run has already taken `local`. Raises OSError."""
        for entry in self.index.of(local.manifest.stage):
            if entry.manifest == local.manifest:
                try:
                    with self._waiting():
                        manifests.verify(entry.held, local.manifest, wait=self._standing.moved)
                except Broken:
                    continue
                return entry.held
        return None

    def _retain(self) -> None:
        """Delete from the store what the rules allow, now that newer ones are there."""
        for place, newest in list(self._owed.items()):
            del self._owed[place]
            try:
                with self._waiting():
                    self._remove_surplus(newest)
            except OSError as error:
                self._tell_once("retain", f"older checkpoints could not be deleted: {error}")

    def _remove_surplus(self, newest: Manifest) -> None:
        self._verify_newest(newest)
        entries = self.index.of(newest.stage)
        kept = self._seen_elsewhere(entries, newest.key)
        for entry in surplus(entries, self._verified, key=newest.key):
            if entry == kept:
                continue
            self.index.drop(newest.stage, entry.held)
            self.store.remove(entry.held.name, first=manifests.NAME)
            self._standing.answered()

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
                    manifests.verify(held, manifest, wait=self._seen)
                except Broken:
                    continue
                self._verified.add(held.name)
            counted += 1
            if counted == KEEP:
                return

    def _tidy(self) -> None:
        try:
            self._outbox.tidy()
        except FileNotFoundError:
            return  # looked at while it was removed: next time
        except OSError as error:
            self._tell_once(
                "tidy", f"old checkpoints on this machine could not be deleted: {error}"
            )

    def _seen(self, _: int) -> None:
        self._standing.answered()

    def _hold_back(self, seconds: float) -> None:
        self._standing.pause(seconds)
        time.sleep(seconds)

    @contextlib.contextmanager
    def _waiting(self) -> Iterator[None]:
        self._waits = True
        try:
            yield
        finally:
            self._waits = False

    def _pause(self, seconds: float) -> None:
        """Between two tries; short once the run waits for its end."""
        self._stop.wait(seconds)

    def _tell_once(self, what: str, text: str) -> None:
        if what not in self._told:
            self._told.add(what)
            self.tell(text)
