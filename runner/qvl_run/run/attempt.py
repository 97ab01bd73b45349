"""One attempt of a stage as files in a folder: what it is told, what it says, how it ended.

The runner writes `attempt.json` before it starts the child; the child writes the rest. Both sides go through this
module, so that the names stand here once.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from qvl_run import files
from qvl_run.checkpoints.manifest import NAME as MANIFEST
from qvl_run.settings import StageSettings, from_json, to_json


@dataclass(frozen=True, kw_only=True)
class Orders:
    """What the child is told. `seconds` is the time that earlier attempts put into the checkpoint it resumes from;
    `recorded` what earlier attempts measured, on what has the digest `measured_on`; `facts` go into every manifest;
    `earlier` counts the failures, by class, that the attempts right before this one ended by."""

    settings: StageSettings
    identity: Mapping[str, Any]
    key: str
    name: str
    input: str | None
    resume_from: str | None
    cache: str
    seconds: float
    measured_on: str
    recorded: Mapping[str, Mapping[str, float]]
    facts: Mapping[str, Any]
    earlier: Mapping[str, int] = field(default_factory=dict)


@dataclass(frozen=True)
class AttemptFolder:
    """The files of one attempt."""

    path: Path

    @property
    def work(self) -> Path:
        """The stage's own scratch folder."""
        return self.path / "work"

    @property
    def save_file(self) -> Path:
        """There once the stage should save; the child takes it away."""
        return self.path / "save"

    @property
    def stop_file(self) -> Path:
        """There once the stage should stop after its next save."""
        return self.path / "stop-after-save"

    @property
    def log(self) -> Path:
        """Everything the child printed."""
        return self.path / "log.txt"

    def write_orders(self, orders: Orders) -> None:
        """Make the folder and leave the orders in it."""
        self.work.mkdir(parents=True)
        files.write_json(self.path / "attempt.json", to_json(orders))

    def orders(self) -> Orders:
        """What the runner wrote."""
        data = self.read("attempt")
        assert data is not None, f"no orders in {self.path}"
        return from_json(Orders, data)

    def write(self, name: str, data: Mapping[str, Any]) -> None:
        """Leave `name`.json: `result`, `error` or `records`."""
        files.write_json(self.path / f"{name}.json", data)

    def write_progress(self, data: Mapping[str, Any]) -> None:
        """Leave the newest progress."""
        files.replace_json(self.path / "progress.json", data)

    def read(self, name: str) -> Mapping[str, Any] | None:
        """`name`.json, None where it is not there (yet) or not whole."""
        data = files.read_json(self.path / f"{name}.json")
        return data if isinstance(data, dict) else None


def next_attempt(parent: Path) -> AttemptFolder:
    """A folder below `parent` that no attempt has used."""
    numbers = [number_of(path.name) for path in parent.glob("attempt-*")]
    return AttemptFolder(parent / f"attempt-{max(numbers, default=0) + 1:04d}")


def number_of(name: str) -> int:
    """The number that an attempt's folder bears; 0 for what is none, a copy made by hand, say."""
    number = name.removeprefix("attempt-")
    return int(number) if number.isascii() and number.isdigit() else 0


def committed(parent: Path) -> list[Path]:
    """What the attempts below `parent` have committed and not handed to storage: folders with a manifest. One without
    was being written when the run died, and counts as not there."""
    works = (AttemptFolder(path).work for path in sorted(parent.glob("attempt-*")))
    return [path.parent for work in works for path in sorted(work.rglob(MANIFEST))]


def records(parent: Path, key: str, *, measured_on: str) -> dict[str, Mapping[str, float]]:
    """What the attempts below `parent` recorded for the same `key` and held-out rows, the newest last."""
    found: dict[str, Mapping[str, float]] = {}
    for path in sorted(parent.glob("attempt-*")):
        data = AttemptFolder(path).read("records")
        if data and (data.get("key"), data.get("measured_on")) == (key, measured_on):
            found.update(data.get("values") or {})
    return found
