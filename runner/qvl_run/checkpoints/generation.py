"""How often a stage of a job was begun anew by `--from-scratch`, and which broken folders were given up with it.

Kept beside the run, in `runs/<job>/generations.json`. The generation is part of the stage's identity, so that what
an earlier one left is neither gone on with nor deleted.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from qvl_run import files


@dataclass(frozen=True, kw_only=True)
class Generation:
    """`number` counts from 0; `given_up` are names of folders of the stage."""

    number: int = 0
    given_up: frozenset[str] = frozenset()


def read(run: Path, stage: str) -> Generation:
    """The generation of `stage` in the run folder `run`. Raises OSError where that is recorded and unreadable."""
    entry = _entries(run).get(stage, {})
    return Generation(number=entry.get("number", 0), given_up=frozenset(entry.get("given_up", ())))


def begin(run: Path, stage: str, *, given_up: Iterable[str]) -> None:
    """Begin `stage` anew, giving up the folders of these names."""
    run.mkdir(parents=True, exist_ok=True)
    path = run / "generations.json"
    entries, before = _entries(run), read(run, stage)
    entries[stage] = {
        "number": before.number + 1,
        "given_up": sorted(before.given_up.union(given_up)),
    }
    files.write_json(path, entries)


def _entries(run: Path) -> dict[str, Any]:
    path = run / "generations.json"
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        return {}
    try:
        entries = json.loads(text)
        assert all(isinstance(entry["number"], int) for entry in entries.values())
    except (ValueError, TypeError, KeyError, AttributeError, AssertionError):
        # Taken for absent, it would bring back what was given up.
        raise OSError(
            f"{path} is damaged; restore it from the drive's history, or delete it"
        ) from None
    found: dict[str, Any] = entries
    return found
