"""How often a stage of a job was begun anew by `--from-scratch`, and which broken folders were given up with it.

Kept beside the run, in `runs/<job>/generations.json`. The generation is part of the stage's identity, so that what
an earlier one left is neither gone on with nor deleted.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from qvl_run import files


@dataclass(frozen=True, kw_only=True)
class Generation:
    """`number` counts from 0; `given_up` are names of folders of the stage."""

    number: int = 0
    given_up: frozenset[str] = frozenset()


def read(run: Path, stage: str) -> Generation:
    """The generation of `stage` in the run folder `run`."""
    entry = (files.read_json(run / "generations.json") or {}).get(stage, {})
    return Generation(
        number=int(entry.get("number", 0)), given_up=frozenset(entry.get("given_up", ()))
    )


def begin(run: Path, stage: str, *, given_up: Iterable[str]) -> None:
    """Begin `stage` anew, giving up the folders of these names."""
    run.mkdir(parents=True, exist_ok=True)
    path = run / "generations.json"
    entries = files.read_json(path) or {}
    number = read(run, stage).number + 1
    entries[stage] = {"number": number, "given_up": sorted(given_up)}
    files.write_json(path, entries)
