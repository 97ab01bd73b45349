"""The child's side of the contract: what a stage calls while it runs."""

from __future__ import annotations

import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from qvl_run.checkpoints import manifest as manifests
from qvl_run.checkpoints.manifest import Manifest
from qvl_run.contract import Section, StageStopped
from qvl_run.faults import crash_point
from qvl_run.run.attempt import AttemptFolder, Orders
from qvl_run.settings import StageSettings, to_json

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
        self._metrics: dict[str, float] = {}

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
        if self.stop and section not in _IN_TRAINING:
            raise StageStopped
        if section == "first_step" or (step == 0 and section == "step"):
            crash_point("stage.before_train")
        self._total = total or self._total
        if metrics:
            self._metrics = dict(metrics)
        self._folder.write_progress(
            {
                "section": section,
                "step": step,
                "total": self._total,
                "metrics": self._metrics,
                "seconds": self.seconds,
                "time": time.time(),
            }
        )

    def commit_checkpoint(self, folder: Path, *, step: int) -> None:
        """See `StageContext`."""
        manifests.write(folder, self._manifest(folder, "checkpoint", step=step, facts={}))

    def commit_output(self, folder: Path, *, step: int, facts: Mapping[str, Any]) -> None:
        """Write the manifest of the stage's output."""
        manifests.write(folder, self._manifest(folder, "output", step=step, facts=facts))

    def stop_requested(self) -> bool:
        """See `StageContext`."""
        return self.stop

    def record(self, name: str, values: Mapping[str, float]) -> None:
        """See `StageContext`."""
        self._recorded[name] = dict(values)
        self._folder.write("records", {"key": self._orders.key, "values": to_json(self._recorded)})

    def recorded(self, name: str) -> Mapping[str, float] | None:
        """See `StageContext`."""
        return self._recorded.get(name)

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
