"""One machine to try settings on: what a stage would need of its GPU, and whether that is there. Pure."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace

from qvl_run import plugins
from qvl_run.contract import Peak
from qvl_run.hardware import Machine
from qvl_run.plan import decide, vram
from qvl_run.recovery import ladder
from qvl_run.recovery.ladder import Changes
from qvl_run.spec.job import StageSpec


@dataclass(frozen=True, kw_only=True)
class Bench:
    """`machine` to try stages on."""

    machine: Machine

    @property
    def room(self) -> int | None:
        """Bytes that are there; None without a GPU."""
        return None if self.machine.gpu is None else vram.room(self.machine.gpu)

    def peak(self, spec: StageSpec) -> Peak | None:
        """What `spec` needs; None without a GPU, or where it cannot be told before something is downloaded."""
        if self.machine.gpu is None:
            return None
        settings = decide.resolve(spec, self.machine, wandb=False)
        return plugins.stage(spec.uses).estimate(settings).vram

    def need(self, spec: StageSpec) -> int | None:
        """Bytes of `peak`."""
        peak = self.peak(spec)
        return None if peak is None else peak.total

    def over(self, spec: StageSpec) -> bool:
        """Whether it is known that `spec` does not fit."""
        need, room = self.need(spec), self.room
        return need is not None and room is not None and need > room

    def fit(self, specs: Iterable[StageSpec]) -> bool:
        """Whether none of `specs` is known not to fit."""
        return not any(self.over(spec) for spec in specs)


def filled(spec: StageSpec, changes: Changes) -> StageSpec:
    """`spec` with values in the place of `auto`; what was `auto` stays known."""
    return replace(ladder.apply(spec, changes), auto=spec.auto)
