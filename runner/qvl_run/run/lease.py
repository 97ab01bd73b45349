"""Who is at work on a run: a small file in the store, rewritten while the run goes on.

It keeps two machines from working on one run by mistake. It is no lock: a drive shows a write to others late, or after
a disconnect never. So it only decides who waits; that two runners which both believe they own a run harm nothing rests
on names that are never shared and on verifying what is read. Runners of one machine are told apart by process.

With each sign of life it looks for requests that a user has left beside the file, from a phone perhaps.
"""

from __future__ import annotations

import contextlib
import errno
import json
import os
import platform
import secrets
import threading
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path

import psutil

from qvl_run.checkpoints.store import Store
from qvl_run.run.bounded import within
from qvl_run.run.requests import NAMES
from qvl_run.units import show_duration

RENEW = 60.0
"""Seconds between two signs of life."""
EXPIRES = 300.0
"""Seconds without a sign of life after which a runner counts as gone."""
LOOK = 5.0
"""Seconds between two looks at another's."""
LAST = 5.0
"""Seconds that the last sign of life may take."""
NAME = "owner.json"


class Owned(Exception):
    """Another runner is at work; the message says where, and what to do."""


class Interrupted(Exception):
    """Waiting for another runner was ended by the user."""


@dataclass(frozen=True, kw_only=True)
class Owner:
    """A runner. `token` is its own; `boot` and `started` tell processes of one number apart; `beat` counts its signs
    of life; `time` is that of the last one, in seconds since the epoch."""

    token: str
    host: str
    boot: str
    pid: int
    started: float
    beat: int = 0
    time: float = 0.0
    ended: bool = False


_KINDS: dict[str, type | tuple[type, ...]] = {
    "token": str, "host": str, "boot": str, "pid": int, "started": (int, float), "beat": int,
    "time": (int, float), "ended": bool,
}  # fmt: skip
_NEEDED = {"token", "host", "boot", "pid", "started"}


def myself() -> Owner:
    """This process."""
    return Owner(
        token=secrets.token_hex(3),
        host=platform.node(),
        boot=boot(),
        pid=os.getpid(),
        started=psutil.Process().create_time(),
    )


@dataclass(kw_only=True)
class Lease:
    """The file in the run's folder `run` of `store`. `memory` is a file of this machine's disk that says that it has
    owned the run. `pause` waits for some seconds and says whether to go on."""

    store: Store
    run: str
    memory: Path
    me: Owner = field(default_factory=myself)
    clock: Callable[[], float] = time.time
    pause: Callable[[float], bool]
    tell: Callable[[str], None] = print
    rival: str = ""
    """The mark that this run's folders bear, where another runner may still be writing; else empty."""
    _lost: threading.Event = field(default_factory=threading.Event)
    _over: threading.Event = field(default_factory=threading.Event)
    _lock: threading.Lock = field(default_factory=threading.Lock)
    """Held while the file is written, so that the last word stays the last."""
    _requests: set[str] = field(default_factory=set)
    _heeded: set[str] = field(default_factory=set)
    """Files seen, as they are called in the store: until they are gone they say nothing new."""

    @property
    def lost(self) -> bool:
        """Whether another runner has taken the run over."""
        return self._lost.is_set()

    def acquire(self, *, take_over: bool = False) -> None:
        """Own the run, or raise Owned. Another machine's runner that has not been heard of for a while is waited for
        until it counts as gone; `take_over` does not wait. Raises OSError where the store cannot be reached."""
        other = self._read()
        mine = other is not None and other.token == self.me.token
        if other is not None and not mine and not other.ended and not gone(other):
            if take_over:
                self.rival = self.me.token
            else:
                self._outlast(other)
        try:
            self._write()
        except OSError as error:
            if error.errno not in (errno.ENOSPC, errno.EDQUOT):
                raise
            # What is there can still be read, and training needs no room there.
            self.rival = self.me.token
            self.tell(f"warning: {self.store.place} is full: free some space there ({error})")

    def keep(self) -> None:
        """Give signs of life from now on, and look for requests, in the background."""
        threading.Thread(target=self._beats, name="lease", daemon=True).start()

    def renew(self) -> None:
        """One sign of life. Raises OSError."""
        other = self._read()
        if other is not None and other.token != self.me.token:
            self.rival = self.me.token
            self._lost.set()
            return
        with self._lock:
            if not self._over.is_set():
                self._write()

    def requests(self) -> frozenset[str]:
        """What was asked for in the store since this was last called: names of `qvl_run.run.requests`. Reads no
        disk."""
        found = frozenset(self._requests)
        self._requests -= found
        return found

    def look(self, *, heed: bool = True) -> None:
        """Look for requests, and take them away; without `heed` they were meant for an earlier run. One that cannot be
        taken away counts once. Raises OSError."""
        found = self._asked()
        self._heeded &= found
        new = found - self._heeded
        if not new:
            return
        self._heeded |= new
        if heed:
            self._requests |= {_request(name) for name in new}
        for name in new:
            with contextlib.suppress(OSError):
                self.store.remove(f"{self.run}/{name}", first="")
        # What is gone may be asked for anew; what a drive still lists may not.
        self._heeded &= self._asked()

    def release(self) -> None:
        """Say that this runner is at its end. Never raises, and waits a few seconds at most for a store that hangs: a
        lease that is not released expires."""
        self._over.set()
        if not self.lost:
            within(LAST, self._end, name="release")

    def _end(self) -> None:
        with self._lock, contextlib.suppress(OSError):
            self.me = replace(self.me, ended=True)
            self._write()

    def _asked(self) -> set[str]:
        """The files that ask for something, whatever a phone has added to their names."""
        return {name for name in self.store.names(self.run) if _request(name) in NAMES}

    def _outlast(self, other: Owner) -> None:
        """Wait until `other` counts as gone. Raises Owned as soon as it gives a sign of life."""
        if here(other):
            raise Owned(_text(other, "is at work on this job"))
        age = max(0.0, self.clock() - other.time)
        if age > EXPIRES:
            return
        left = EXPIRES - age
        self.tell(
            f"{_text(other, 'was at work on this job')} {show_duration(age)} ago; waiting up to "
            f"{show_duration(left)} for a sign that it still is (--take-over does not wait)"
        )
        while left > 0:
            if not self.pause(LOOK):
                raise Interrupted
            left -= LOOK
            now = self._read()
            if now is None or now.ended:
                return
            if (now.token, now.beat) != (other.token, other.beat):
                raise Owned(_text(now, "is at work on this job"))

    def _beats(self) -> None:
        with contextlib.suppress(OSError):
            self.look(heed=False)
        while not self._over.wait(RENEW) and not self.lost:
            with contextlib.suppress(OSError):
                self.renew()
                if not self.lost:
                    self.look()

    def _read(self) -> Owner | None:
        try:
            return read_owner(self.store, self.run)
        except ValueError:
            # Cut short on its way. If this machine was not the last to write it, nothing is shared with who was.
            if not self.memory.exists():
                self.rival = self.me.token
            return None

    def _write(self) -> None:
        self.me = replace(self.me, beat=self.me.beat + 1, time=self.clock())
        self.memory.parent.mkdir(parents=True, exist_ok=True)
        self.memory.touch()
        self.store.write(f"{self.run}/{NAME}", [json.dumps(asdict(self.me)).encode()])


def _request(name: str) -> str:
    """What the file called `name` asks for: `save-now.txt` is `save-now`."""
    return name.partition(".")[0]


def read_owner(store: Store, run: str) -> Owner | None:
    """Who is, or was last, at work on `run`; None where nobody ever was. Raises OSError; ValueError where what is there
    is not whole."""
    try:
        text = b"".join(store.read(f"{run}/{NAME}"))
    except FileNotFoundError:
        return None
    data = json.loads(text)
    if not isinstance(data, dict) or not _NEEDED <= set(data) <= set(_KINDS):
        raise ValueError(f"{NAME} is not what a runner writes")
    if not all(isinstance(value, _KINDS[name]) for name, value in data.items()):
        raise ValueError(f"{NAME} is not what a runner writes")
    return Owner(**data)


def here(other: Owner) -> bool:
    """Whether `other` is, or was, a process of this machine since it was last started."""
    return (other.host, other.boot) == (platform.node(), boot())


def gone(other: Owner) -> bool:
    """Whether `other` is surely over: a process of this machine that is no more."""
    if not here(other):
        return False
    try:
        return abs(psutil.Process(other.pid).create_time() - other.started) > 1
    except psutil.NoSuchProcess:
        return True
    except psutil.Error:
        return False


def _text(other: Owner, what: str) -> str:
    return f"another qvl-run (process {other.pid} on {other.host or 'another machine'}) {what}"


def boot() -> str:
    """What this machine is called until it is started anew."""
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    except OSError:
        return str(round(psutil.boot_time()))
