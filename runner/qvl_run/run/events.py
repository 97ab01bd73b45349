"""The story of a run: one JSON object a line, each event once, in the order it happened.

Written to this machine's disk, and copied whole to storage when a stage ends: a drive does not sync a file that
stays open (colabtools #521).
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from qvl_run.checkpoints.store import Store


class Events:
    """Appends to `path`; `publish` copies it to a folder that outlives the machine."""

    def __init__(self, path: Path, *, clock: Callable[[], float] = time.time) -> None:
        self._path = path
        self._clock = clock
        path.parent.mkdir(parents=True, exist_ok=True)

    def add(self, event: str, **details: Any) -> None:
        """One event, on disk when this returns."""
        stamp = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(self._clock()))
        line = json.dumps({"time": stamp, "event": event, **details})
        with self._path.open("a", encoding="utf-8") as file:
            file.write(line + "\n")

    def publish(self, store: Store, folder: str) -> None:
        """Copy the story into `folder` of `store`, under this file's name. Raises OSError."""
        store.write(f"{folder}/{self._path.name}", [self._path.read_bytes()])
