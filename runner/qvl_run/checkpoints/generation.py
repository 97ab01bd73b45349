"""How often a stage was begun anew by `--from-scratch`, and which broken folders were given up with it.

Kept beside the run, in `runs/<job>/generations.json` of the store. The generation is part of the stage's identity, so
that what an earlier one left is neither gone on with nor deleted. It counts for one set of settings: others of the
same stage keep what they have.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

from qvl_run.checkpoints.store import Store

NAME = "generations.json"


@dataclass(frozen=True, kw_only=True)
class Generation:
    """`numbers` counts from 0 for each key of the settings; `given_up` are names of folders of the stage."""

    numbers: dict[str, int] = field(default_factory=dict)
    given_up: frozenset[str] = frozenset()


def read(store: Store, run: str, stage: str) -> Generation:
    """The generations of `stage` in the run folder `run`. Raises OSError where they are recorded and unreadable."""
    entry = _entries(store, run).get(stage, {})
    return Generation(
        numbers=dict(entry.get("numbers", {})), given_up=frozenset(entry.get("given_up", ()))
    )


def begin(store: Store, run: str, stage: str, *, key: str, given_up: Iterable[str]) -> None:
    """Begin `stage` anew with the settings of `key`, giving up the folders of these names."""
    entries, before = _entries(store, run), read(store, run, stage)
    entries[stage] = {
        "numbers": {**before.numbers, key: before.numbers.get(key, 0) + 1},
        "given_up": sorted(before.given_up.union(given_up)),
    }
    store.write(f"{run}/{NAME}", [(json.dumps(entries, indent=1) + "\n").encode()])


def _entries(store: Store, run: str) -> dict[str, Any]:
    try:
        text = b"".join(store.read(f"{run}/{NAME}"))
    except FileNotFoundError:
        return {}
    try:
        entries = json.loads(text)
        assert all(isinstance(entry["numbers"], dict) for entry in entries.values())
    except (ValueError, TypeError, KeyError, AttributeError, AssertionError):
        # Taken for absent, it would bring back what was given up.
        raise OSError(
            f"{store.place}/{run}/{NAME} is damaged; restore it from the drive's history, or delete it"
        ) from None
    found: dict[str, Any] = entries
    return found
