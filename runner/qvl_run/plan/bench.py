"""One machine to try settings on: what a stage would need of its GPU, and whether that is there. Pure."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace

from qvl_run import plugins
from qvl_run.contract import Estimate, Peak
from qvl_run.hardware import Machine
from qvl_run.plan import decide, vram
from qvl_run.recovery import ladder
from qvl_run.recovery.ladder import Changes
from qvl_run.spec.batch import MICRO, STEPS
from qvl_run.spec.job import StageSpec

CHECKPOINTING = "training.gradient_checkpointing"
_MICRO, _STEPS = f"training.{MICRO}", f"training.{STEPS}"


@dataclass(frozen=True, kw_only=True)
class Bench:
    """`machine` to try stages on."""

    machine: Machine

    @property
    def room(self) -> int | None:
        """Bytes that are there; None without a GPU."""
        return None if self.machine.gpu is None else vram.room(self.machine.gpu)

    def estimate(self, spec: StageSpec) -> Estimate:
        """What `spec` needs of the machine."""
        settings = decide.resolve(spec, self.machine, wandb=False)
        return plugins.stage(spec.uses).estimate(settings)

    def peak(self, spec: StageSpec) -> Peak | None:
        """What training of `spec` needs; None without a GPU, where the stage can do without it, or where it cannot be
        told before something is downloaded or read."""
        if self.machine.gpu is None:
            return None
        needs = self.estimate(spec)
        return None if needs.movable else needs.vram

    def measuring(self, spec: StageSpec) -> Peak | None:
        """What is measured beside it needs; None where there is no GPU or it lies in RAM, where it cannot be told, or
        where nothing is measured."""
        if self.room is None:
            return None
        needs = self.estimate(spec)
        return None if in_ram(needs, self.room) else needs.evaluation

    def need(self, spec: StageSpec) -> int | None:
        """Bytes of `peak`."""
        peak = self.peak(spec)
        return None if peak is None else peak.total

    def lowest(self, spec: StageSpec) -> int | None:
        """Bytes of `peak` at the split that needs least, where it is open: rows one by one, or all of a step at once,
        between whose batches no gradients stay."""
        open_to = {_MICRO, _STEPS} <= spec.auto
        return self._lowest(_extremes(spec) if open_to else [spec])

    def floor(self, spec: StageSpec) -> int | None:
        """Bytes of `peak` with batches as small as they get and gradient checkpointing on, whatever the job says of
        them: where recovery ends that leaves the result as it is."""
        return self._lowest(_extremes(filled(spec, {CHECKPOINTING: True})))

    def _lowest(self, specs: Iterable[StageSpec]) -> int | None:
        return min((n for one in specs if (n := self.need(one)) is not None), default=None)

    def measured_need(self, spec: StageSpec) -> int | None:
        """Bytes of `measuring`."""
        peak = self.measuring(spec)
        return None if peak is None else peak.total

    def least(self, spec: StageSpec) -> int | None:
        """Bytes that `spec` needs at least: of `peak`, or what no row changes where that is not known."""
        if self.machine.gpu is None:
            return None
        needs = self.estimate(spec)
        if needs.movable:
            return None
        return needs.at_least if needs.vram is None else needs.vram.total

    def over(self, spec: StageSpec) -> bool:
        """Whether it is known that the training of `spec` does not fit."""
        least, room = self.least(spec), self.room
        return least is not None and room is not None and least > room

    def over_measuring(self, spec: StageSpec) -> bool:
        """Whether it is known that what `spec` measures does not fit."""
        peak, room = self.measuring(spec), self.room
        return peak is not None and room is not None and peak.total > room


def _extremes(spec: StageSpec) -> list[StageSpec]:
    """`spec` with rows one by one, and with all of a step at once."""
    training = spec.training
    whole = training.per_device_train_batch_size * training.gradient_accumulation_steps
    return [filled(spec, {_MICRO: n, _STEPS: whole // n}) for n in {1, whole}]


def in_ram(needs: Estimate, room: int) -> bool:
    """Whether what may lie in RAM does, since the GPU has no room for it."""
    return needs.movable and needs.vram is not None and needs.vram.total > room


def filled(spec: StageSpec, changes: Changes) -> StageSpec:
    """`spec` with values in the place of `auto`; what was `auto` stays known."""
    return replace(ladder.apply(spec, changes), auto=spec.auto)
