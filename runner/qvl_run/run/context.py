"""The child's side of the contract: what a stage calls while it runs."""

from __future__ import annotations

import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from qvl_run.checkpoints import manifest as manifests
from qvl_run.checkpoints.manifest import Manifest
from qvl_run.contract import Section, StageError, StageStopped
from qvl_run.disk import LOCAL, files_below
from qvl_run.faults import crash_point
from qvl_run.run.attempt import AttemptFolder, Orders
from qvl_run.settings import StageSettings, to_json
from qvl_run.units import show_size

ROOM = 64 * 1024 * 1024
"""Bytes that must stay free on this machine's disk beside a checkpoint."""
ROOM_PATIENCE = 15.0
"""Seconds to wait for that room: the runner deletes old checkpoints every few."""

_IN_TRAINING: frozenset[Section] = frozenset({"first_step", "step", "rollout", "save"})


class ChildContext:
    """A `StageContext` on the files of one attempt. `stop` is set from a signal handler."""

    def __init__(self, folder: AttemptFolder, orders: Orders) -> None:
        self.stop = False
        self._folder = folder
        self._orders = orders
        self._started = time.monotonic()
        self._recorded: dict[str, Mapping[str, float]] = dict(orders.recorded)
        self._total: int | None = None
        self._beat = 0
        self._metrics: dict[str, float] = {}
        self._loop_began: float | None = None
        self._loop_ended = 0.0
        self._loop_from = self._reached = 0
        self._save_began: float | None = None
        self._saves = 0
        self._save_seconds = 0.0

    @property
    def settings(self) -> StageSettings:
        """See `StageContext`."""
        return self._orders.settings

    @property
    def input(self) -> Path | None:
        """See `StageContext`."""
        return Path(self._orders.input) if self._orders.input else None

    @property
    def scratch(self) -> Path:
        """See `StageContext`."""
        return self._folder.work

    @property
    def cache(self) -> Path:
        """See `StageContext`."""
        return Path(self._orders.cache)

    @property
    def resume_from(self) -> Path | None:
        """See `StageContext`."""
        return Path(self._orders.resume_from) if self._orders.resume_from else None

    @property
    def seconds(self) -> float:
        """Seconds that went into the stage, earlier attempts counted as far as this one builds on them."""
        return self._orders.seconds + time.monotonic() - self._started

    def progress(
        self,
        section: Section,
        *,
        step: int | None = None,
        total: int | None = None,
        metrics: Mapping[str, float] | None = None,
    ) -> None:
        """See `StageContext`."""
        if section not in _IN_TRAINING and (self.stop or self._folder.stop_file.exists()):
            raise StageStopped  # nothing is lost by that here
        if section == "first_step" or (step == 0 and section == "step"):
            crash_point("stage.before_train")
        if step is not None and section in _IN_TRAINING:
            self._clock_loop(section, step)
            self._reached = max(self._reached, step)
            self._total = total or self._total
        self._beat += 1
        if metrics:
            self._metrics = {name: float(value) for name, value in metrics.items()}
        self._folder.write_progress(
            {
                "section": section,
                "step": step,
                "reached": self._reached,
                "total": self._total if section in _IN_TRAINING else total,
                "metrics": self._metrics,
                "seconds": self.seconds,
                **self._loop(),
                "beat": self._beat,
            }
        )

    def commit_checkpoint(self, folder: Path, *, step: int) -> None:
        """See `StageContext`."""
        began = self._save_began or time.monotonic()
        size = sum(size for _, _, size in files_below(folder))
        manifests.write(folder, self._manifest(folder, "checkpoint", step=step, facts=self._loop()))
        self._saves += 1
        self._save_seconds += time.monotonic() - began
        self._save_began = None
        if self._folder.stop_file.exists():
            self.stop = True
        # Now that this one is whole: a stop here loses nothing, a full disk in the next save would.
        self._check_room(self.scratch, size)

    def commit_output(self, folder: Path, *, step: int, facts: Mapping[str, Any]) -> None:
        """Write the manifest of the stage's output."""
        cost = {
            "measured_on": self._orders.measured_on,
            "saves": self._saves,
            "save_seconds": round(self._save_seconds, 3),
            **self._loop(),
        }
        manifests.write(
            folder, self._manifest(folder, "output", step=step, facts={**cost, **facts})
        )

    def stop_requested(self) -> bool:
        """See `StageContext`."""
        return self.stop

    def save_requested(self) -> bool:
        """See `StageContext`."""
        try:
            self._folder.save_file.unlink()
        except FileNotFoundError:
            return False
        return True

    def earlier(self, failure: str) -> int:
        """See `StageContext`."""
        return int(self._orders.earlier.get(failure, 0))

    def record(self, name: str, values: Mapping[str, float]) -> None:
        """See `StageContext`."""
        self._recorded[name] = dict(values)
        self._folder.write(
            "records",
            {
                "key": self._orders.key,
                "measured_on": self._orders.measured_on,
                "values": to_json(self._recorded),
            },
        )

    def recorded(self, name: str) -> Mapping[str, float] | None:
        """See `StageContext`."""
        return self._recorded.get(name)

    def _loop(self) -> dict[str, float]:
        """What this attempt's training loop has taken so far, its saves included."""
        began = self._loop_ended if self._loop_began is None else self._loop_began
        return {
            "loop_seconds": round(self._loop_ended - began, 3),
            "loop_steps": self._reached - self._loop_from,
        }

    def _clock_loop(self, section: Section, step: int) -> None:
        """Note how long the training loop takes, and when a save began in it."""
        now = time.monotonic()
        if self._loop_began is None:
            self._loop_began, self._loop_from = now, step
        self._loop_ended = now
        if section == "save" and self._save_began is None:
            self._save_began = now
            if not self._saves:
                self._check_room(self.scratch, 0)

    def _check_room(self, folder: Path, size: int) -> None:
        """Raise StageError where a checkpoint of `size` bytes would fill this machine's disk, also once the runner has
        had the time to delete what this one has overtaken."""
        until = time.monotonic() + ROOM_PATIENCE
        while (free := LOCAL.free(folder)) < size + ROOM:
            if time.monotonic() < until:
                time.sleep(0.2)
                continue
            raise StageError(
                f"the disk of {folder} has {show_size(free)} left, and a checkpoint takes "
                f"{show_size(size) if size else 'more'}: "
                "free some space, or set storage.scratch to another disk, and run the same command again",
                failure="disk",
            )

    def _manifest(
        self, folder: Path, kind: Any, *, step: int, facts: Mapping[str, Any]
    ) -> Manifest:
        return Manifest(
            kind=kind,
            stage=self.settings.name,
            step=step,
            total=self._total,
            key=self._orders.key,
            identity=self._orders.identity,
            attempt=self._orders.name,
            facts={**self._orders.facts, "seconds": round(self.seconds, 1), **facts},
            files=manifests.entries(folder),
        )
