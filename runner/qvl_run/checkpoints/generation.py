"""How often a stage was begun anew by `--from-scratch`, and which broken folders were given up with it.

Kept beside the run, in `runs/<job>/generations-0001.json`, `-0002` and so on of the store. None is ever written over:
each holds all that the ones before it said, and the newest that is whole counts. One that is cut short is a write that
was not finished, so what it was to say never came to count: nothing was begun before it had been read back equal. What
is not promised: that a drive has uploaded it before the machine is lost.

The generation is part of the stage's identity, so that what an earlier one left is neither gone on with nor deleted. It
counts for one set of settings: others of the same stage keep what they have.
"""

from __future__ import annotations

import errno
import json
import re
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

from qvl_run.checkpoints.store import Store
from qvl_run.disk import sha256

OLD = "generations.json"
"""The one file of earlier versions: read where there is no other."""
_NAME = re.compile(r"generations-([0-9]{4,9})\.json")


@dataclass(frozen=True, kw_only=True)
class Generation:
    """`numbers` counts from 0 for each key of the settings. `given_up` are names of folders of the stage that are not
    whole: they speak against nothing any more. A name stays given up, also for another folder that comes to bear it,
    which happens only once the first was deleted by hand; one that is whole is used all the same."""

    numbers: dict[str, int] = field(default_factory=dict)
    given_up: frozenset[str] = frozenset()


def read(store: Store, run: str, stage: str) -> Generation:
    """The generations of `stage` in the run folder `run`. Raises OSError where they are recorded and unreadable."""
    return _generation(_entries(store, run), stage)


def begin(store: Store, run: str, stage: str, *, key: str, given_up: Iterable[str]) -> None:
    """Begin `stage` anew with the settings of `key`, giving up the folders of these names. When this returns, that has
    been read back. Raises OSError: then it may count or not, and may be asked for again."""
    entries = _entries(store, run)
    before = _generation(entries, stage)
    entries[stage] = {
        "numbers": {**before.numbers, key: before.numbers.get(key, 0) + 1},
        "given_up": sorted(before.given_up.union(given_up)),
    }
    number = max(_numbers(store, run), default=0) + 1
    name, text = f"{run}/{_name(number)}", _text(entries).encode()
    store.write(name, [text])
    if b"".join(store.read(name)) != text:
        why = "it reads back other than it was written"
        raise OSError(errno.EIO, why, f"{store.place}/{name}")


def _generation(entries: dict[str, Any], stage: str) -> Generation:
    entry = entries.get(stage, {})
    return Generation(
        numbers=dict(entry.get("numbers", {})), given_up=frozenset(entry.get("given_up", ()))
    )


def _entries(store: Store, run: str) -> dict[str, Any]:
    """What the newest whole file says, by stage. Raises OSError."""
    for number in sorted(_numbers(store, run), reverse=True):
        try:
            text = b"".join(store.read(f"{run}/{_name(number)}"))
        except FileNotFoundError:
            continue
        if (entries := _parse(text)) is not None:
            return entries
    return _old(store, run)


def _numbers(store: Store, run: str) -> list[int]:
    found = (_NAME.fullmatch(name) for name in store.names(run))
    return [int(match[1]) for match in found if match]


def _name(number: int) -> str:
    return f"generations-{number:04d}.json"


def _text(entries: dict[str, Any]) -> str:
    return json.dumps({"stages": entries, "digest": _digest(entries)}, indent=1) + "\n"


def _parse(text: bytes) -> dict[str, Any] | None:
    """The entries, None where `text` is not whole."""
    try:
        body = json.loads(text)
        entries: dict[str, Any] = body["stages"]
        return entries if body["digest"] == _digest(entries) else None
    except (ValueError, TypeError, KeyError):
        return None


def _digest(entries: dict[str, Any]) -> str:
    return sha256([json.dumps(entries, sort_keys=True).encode()])


def _old(store: Store, run: str) -> dict[str, Any]:
    try:
        text = b"".join(store.read(f"{run}/{OLD}"))
    except FileNotFoundError:
        return {}
    try:
        entries = json.loads(text)
        assert all(isinstance(entry["numbers"], dict) for entry in entries.values())
    except (ValueError, TypeError, KeyError, AttributeError, AssertionError):
        # It was written in place. Taken for absent, it would bring back what was given up.
        raise OSError(
            f"{store.place}/{run}/{OLD} is damaged; restore it from the drive's history, or delete it"
        ) from None
    found: dict[str, Any] = entries
    return found
