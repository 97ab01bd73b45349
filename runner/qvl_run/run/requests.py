"""What a user asks of a run from outside, by files: save now, and stop after the next save.

They lie in the job's scratch folder, where `qvl-run stop JOB` puts them, or in the run's folder of the store, where
anything that can write there can. Each is honoured once.
"""

from __future__ import annotations

from pathlib import Path

SAVE = "save-now"
STOP = "stop-after-save"
NAMES: tuple[str, ...] = (STOP, SAVE)
"""In the order in which both are left: a look between the two must not take the save for all of it."""


def ask(scratch: Path, *names: str) -> None:
    """Leave requests for the run that works in `scratch`. Raises OSError."""
    for name in names:
        (scratch / name).touch()


def forget(scratch: Path) -> None:
    """Drop requests that were meant for an earlier run."""
    take(scratch)


def take(scratch: Path) -> frozenset[str]:
    """The requests that lie in `scratch`; they are taken away. What cannot be taken away is none."""
    found = set()
    for name in NAMES:
        try:
            (scratch / name).unlink()
        except OSError:
            continue
        found.add(name)
    return frozenset(found)


def waits(scratch: Path) -> bool:
    """Whether a stop is asked for in `scratch`. It stays there."""
    return (scratch / STOP).is_file()
