"""Built-in stages whose need of GPU memory is a formula that a test can do in its head."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

import pytest

from qvl_run.contract import Estimate, Peak
from qvl_run.hardware import GIB, Gpu, Machine
from qvl_run.plan.vram import FRAGMENTED, OUTSIDE
from qvl_run.settings import StageSettings
from qvl_trl.stages.dpo import DpoStage
from qvl_trl.stages.grpo import GrpoStage
from qvl_trl.stages.sft import SftStage
from qvl_trl.step import sampled_at_once

UNBOUNDED = "its rows have no bound"
IMAGES = 2048
"""Tokens of an image where nothing bounds them."""


@dataclass(frozen=True, kw_only=True)
class Formula:
    """GiB. A row of 1024 tokens needs `row` with gradient checkpointing and `row` * `without` without; over packed
    weights `row` * `kept_packed`, where that is set. Each 1024 tokens of an image need `image` more. A full fine-tune
    needs `state` for its optimizer, in 8 bits a quarter; adapters of rank 16 `adapters`. `more` by stage. Between the
    batches of a step `gradients` stay. A row that is sampled needs `sampled` beside the weights, an answer of the
    evaluation `answer`, a held-out row `held_out`.
    With `bounded` False nothing is known but what no row changes."""

    weights: float = 4.0
    packed: float = 1.5
    row: float = 1.0
    without: float = 3.0
    kept_packed: float = 0.0
    image: float = 0.0
    state: float = 8.0
    adapters: float = 0.0
    gradients: float = 0.0
    sampled: float = 0.0
    answer: float = 0.0
    held_out: float = 0.0
    bounded: bool = True
    more: Mapping[str, float] = field(default_factory=dict)

    def peak(self, settings: StageSettings) -> Peak:
        """What `settings` need."""
        model, training = settings.model, settings.training
        rows = training.per_device_train_batch_size
        length = (training.max_seq_length or 1024) / 1024
        tokens = model.image_tokens[1] if model.image_tokens else IMAGES
        packed = self.kept_packed if model.quantization != "none" else 0.0
        kept = 1.0 if training.gradient_checkpointing else packed or self.without
        state = self.state / (4 if training.optim == "adamw_8bit" else 1)
        if model.lora:
            state = self.adapters * model.lora.r / 16
        parts = {
            "weights": self._weights(settings),
            "optimizer": state,
            "activations": rows * self.row * length * kept,
            "images": rows * self.image * tokens / 1024,
            "more": self.more.get(settings.name, 0.0),
            "gradients": self.gradients if training.gradient_accumulation_steps > 1 else 0.0,
        }
        peaks = [_peak("backward", parts)]
        if self.sampled and settings.uses == "grpo":
            cache = self.sampled * sampled_at_once(settings)
            peaks.append(_peak("sampling", {"weights": self._weights(settings), "cache": cache}))
        return max(peaks, key=lambda one: one.total)

    def evaluation(self, settings: StageSettings) -> Peak | None:
        """What is measured beside the training."""
        if settings.evaluation is None:
            return None
        answers = self.answer * settings.evaluation.batch_size
        rows = self.held_out * settings.training.per_device_train_batch_size
        parts = {"weights": self._weights(settings), "cache": max(answers, rows)}
        return _peak("evaluation" if answers > rows else "held-out rows", parts)

    def least(self, settings: StageSettings) -> int:
        """What no row changes."""
        return round(self._weights(settings) * GIB)

    def _weights(self, settings: StageSettings) -> float:
        return self.weights if settings.model.quantization == "none" else self.packed


def _peak(phase: str, parts: Mapping[str, float]) -> Peak:
    sizes = {name: round(size * GIB) for name, size in parts.items()}
    return Peak(phase=phase, parts={name: size for name, size in sizes.items() if size})


def needing(monkeypatch: pytest.MonkeyPatch, formula: Formula | None) -> None:
    """Have the stages need what `formula` says; None: they cannot tell."""

    def estimate(_: object, settings: StageSettings) -> Estimate:
        if formula is None:
            return Estimate(optimizer_steps=10)
        return Estimate(
            optimizer_steps=10,
            vram=formula.peak(settings) if formula.bounded else None,
            evaluation=formula.evaluation(settings) if formula.bounded else None,
            at_least=formula.least(settings),
            unknown="" if formula.bounded else UNBOUNDED,
            ram=3 * GIB,
            download=4 * GIB,
            checkpoint=GIB // 2,
            output=GIB // 4,
        )

    method: Callable[[object, StageSettings], Estimate] = estimate
    for stage in (SftStage, DpoStage, GrpoStage):
        monkeypatch.setattr(stage, "estimate", method)


def gpu_with(
    room: float, *, capability: tuple[int, int] = (7, 5), free: float | None = None
) -> Machine:
    """A machine with a GPU on which a stage may plan with `room` GiB."""
    vram = round(room * GIB / (1 - FRAGMENTED)) + OUTSIDE + 1
    gpu = Gpu(
        name="GPU",
        vram=vram,
        capability=capability,
        free=None if free is None else round(free * GIB),
    )
    return Machine(gpu=gpu, ram=12 * GIB, cores=2)
