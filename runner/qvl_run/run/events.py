"""The story of a run: one record an event, append-only, in segments that are closed and then never touched again.

A drive does not sync a file that stays open (colabtools #521), so the open segment lies on this machine's disk; the
mirror takes the closed ones to storage. `schemas/event.schema.json` says what a record holds. Records that recovery
counts on close their segment at once and stand in files called `*.ledger.jsonl`, so that a start need read only those.
"""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from qvl_run.checkpoints.store import Store
from qvl_run.recovery.budget import RESTART
from qvl_run.recovery.ladder import ADAPTED

OPEN = ".open"
CLOSED = ".jsonl"
LEDGER = ".ledger.jsonl"
LONGEST = 900.0
"""Seconds after which a segment is closed, so that storage is never far behind."""

Record = dict[str, Any]
_FIELDS: dict[str, dict[str, type]] = {
    RESTART: {"stage": str, "key": str, "account": dict},
    ADAPTED: {"stage": str, "settings": str, "gpu": str, "rungs": int, "changes": dict},
}


class Events:
    """Appends to segments in `folder`, which are named after `token`, this run's own. Threads may share it.

    What an earlier run left open there is closed first: the caller holds the lock of this machine.
    """

    def __init__(
        self, folder: Path, *, token: str, clock: Callable[[], float], shown: Callable[[str], str]
    ) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        for path in folder.glob(f"*{OPEN}"):
            path.rename(path.with_suffix(_suffix(list(_lines(path.read_bytes())))))
        now = clock()
        stamp = f"{time.strftime('%Y%m%d-%H%M%S', time.gmtime(now))}-{int(now % 1 * 1000):03d}"
        self._folder, self._name = folder, f"events-{stamp}-{token}"
        self._token, self._clock, self._shown = token, clock, shown
        self._lock = threading.Lock()
        self._count = self._segment = 0
        self._opened: float | None = None
        self._ledger = self._torn = False

    def add(self, event: str, **details: Any) -> None:
        """One event, on disk when this returns. Raises OSError."""
        now = self._clock()
        with self._lock:
            self._count += 1
            seconds = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(now))
            stamp = f"{seconds}.{int(now % 1 * 1000):03d}Z"
            record = {"id": f"{self._token}-{self._count}", "time": stamp, "event": event}
            # What recovery counts on must read back as it is, and holds nothing that a user wrote.
            told = details if event in (RESTART, ADAPTED) else self._masked(details)
            line = json.dumps({**record, **told}) + "\n"
            before, self._torn = "\n" * self._torn, True
            self._folder.mkdir(parents=True, exist_ok=True)  # somebody may have tidied up
            with self._path.open("a", encoding="utf-8") as file:
                file.write(before + line)
            self._torn = False
            self._opened = now if self._opened is None else self._opened
            self._ledger = self._ledger or event in (RESTART, ADAPTED)
            if now - self._opened > LONGEST or self._ledger:
                self._close()

    def close(self) -> None:
        """Close the open segment. Raises OSError."""
        with self._lock:
            self._close()

    def closed(self) -> list[Path]:
        """The segments that lie here and are closed, those of earlier runs too, the oldest first. Closes the open one
        where it is old: an attempt may say nothing for hours. Raises OSError."""
        with self._lock:
            if self._opened is not None and self._clock() - self._opened > LONGEST:
                self._close()
        return sorted(self._folder.glob(f"*{CLOSED}"))

    def _masked(self, value: Any) -> Any:
        """`value` without secrets in its texts. Its keys are ours."""
        if isinstance(value, Mapping):
            return {key: self._masked(below) for key, below in value.items()}
        if isinstance(value, (list, tuple)):
            return [self._masked(below) for below in value]
        return self._shown(value) if isinstance(value, str) else value

    @property
    def _path(self) -> Path:
        return self._folder / f"{self._name}-{self._segment + 1:04d}{OPEN}"

    def _close(self) -> None:
        if self._opened is None:
            return
        self._path.rename(self._path.with_suffix(LEDGER if self._ledger else CLOSED))
        self._segment += 1
        self._opened, self._ledger = None, False


def here(folder: Path, *, ledger: bool = False) -> list[Record]:
    """Every record on this machine, the open segment's too; with `ledger` those alone that recovery counts on. What a
    crash cut short is left out. Raises OSError."""
    found: list[Record] = []
    for path in sorted(folder.glob("events-*")) if folder.is_dir() else ():
        if path.name.endswith((OPEN, LEDGER) if ledger else (OPEN, CLOSED)):
            found += _lines(_content(path))
    return _counted(found) if ledger else found


def stored(
    store: Store, run: str, *, ledger: bool = False, newest: int | None = None
) -> list[Record]:
    """Every record in the run's folder `run` of `store`, or those of its `newest` segments. Raises OSError where it
    cannot be read."""
    found: list[Record] = []
    wanted = LEDGER if ledger else CLOSED
    names = [n for n in store.names(run) if n.startswith("events-") and n.endswith(wanted)]
    for name in names[-newest:] if newest else names:
        try:
            found += _lines(b"".join(store.read(f"{run}/{name}")))
        except FileNotFoundError:
            continue  # listed, and not there yet: a drive shows names before contents
    return _counted(found) if ledger else found


def merged(*groups: list[Record]) -> list[Record]:
    """All records once, in the order in which they happened."""
    unique = {str(record.get("id")): record for group in groups for record in group}
    return sorted(unique.values(), key=_when)


def _content(path: Path) -> bytes:
    """The bytes of a segment, which another process may just be closing. Raises OSError."""
    for name in (path, path.with_suffix(CLOSED), path.with_suffix(LEDGER)):
        try:
            return name.read_bytes()
        except FileNotFoundError:
            continue
    return b""


def _when(record: Record) -> tuple[str, str, int]:
    token, _, number = str(record.get("id", "")).rpartition("-")
    return str(record.get("time", "")), token, int(number) if number.isdigit() else 0


def _counted(records: list[Record]) -> list[Record]:
    return [record for record in records if record.get("event") in (RESTART, ADAPTED)]


def _suffix(records: list[Record]) -> str:
    return LEDGER if _counted(records) else CLOSED


def _lines(content: bytes) -> Iterator[Record]:
    for line in content.splitlines():
        try:
            record = json.loads(line)
        except ValueError:
            continue
        if isinstance(record, dict) and _whole(record):
            yield record


def _whole(record: Record) -> bool:
    """Whether a line is a record at all, and has what recovery counts on: a drive may give back anything."""
    fields = {"id": str, "time": str, "event": str, **_FIELDS.get(str(record.get("event")), {})}
    if not all(isinstance(record.get(name), kind) for name, kind in fields.items()):
        return False
    if record["event"] != RESTART:
        return True
    account = record["account"]
    counts = (account.get(name) for name in ("total", "streak", "failed_at"))
    by_rule = account.get("by_rule")
    return (
        set(account) == {"total", "streak", "failed_at", "by_rule"}
        and isinstance(by_rule, dict)
        and all(isinstance(count, int) for count in (*counts, *by_rule.values()))
    )
