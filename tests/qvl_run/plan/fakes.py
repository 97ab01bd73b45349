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

IMAGES = 2048
"""Tokens of an image where nothing bounds them."""


@dataclass(frozen=True, kw_only=True)
class Formula:
    """GiB. A row of 1024 tokens needs `row` with gradient checkpointing and `row` * `without` without; each 1024 tokens
    of an image `image` more. A full fine-tune needs `state` for its optimizer, in 8 bits a quarter. `more` by stage."""

    weights: float = 4.0
    packed: float = 1.5
    row: float = 1.0
    without: float = 3.0
    image: float = 0.0
    state: float = 8.0
    more: Mapping[str, float] = field(default_factory=dict)

    def peak(self, settings: StageSettings) -> Peak:
        """What `settings` need."""
        model, training = settings.model, settings.training
        rows = training.per_device_train_batch_size
        length = (training.max_seq_length or 1024) / 1024
        tokens = model.image_tokens[1] if model.image_tokens else IMAGES
        kept = 1.0 if training.gradient_checkpointing else self.without
        state = 0.0 if model.lora else self.state / (4 if training.optim == "adamw_8bit" else 1)
        groups = settings.options.get("num_generations", 4) / 4
        parts = {
            "weights": self.weights if model.quantization == "none" else self.packed,
            "optimizer": state,
            "activations": rows * self.row * length * kept * groups,
            "images": rows * self.image * tokens / 1024,
            "more": self.more.get(settings.name, 0.0),
        }
        sizes = {name: round(size * GIB) for name, size in parts.items()}
        return Peak(phase="backward", parts={name: size for name, size in sizes.items() if size})


def needing(monkeypatch: pytest.MonkeyPatch, formula: Formula | None) -> None:
    """Have the stages need what `formula` says; None: they cannot tell."""

    def estimate(_: object, settings: StageSettings) -> Estimate:
        if formula is None:
            return Estimate(optimizer_steps=10)
        return Estimate(
            optimizer_steps=10,
            vram=formula.peak(settings),
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
