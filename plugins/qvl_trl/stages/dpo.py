"""`dpo`: direct preference optimization on pairs of answers."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from qvl_run.contract import (
    DataError,
    Estimate,
    Example,
    Finding,
    Kind,
    StageContext,
    StageResult,
)
from qvl_run.settings import StageSettings
from qvl_trl.memory.estimate import estimate
from qvl_trl.stages.common import check_common, optimizer_steps
from qvl_trl.stages.pictures import check_budget, check_pictures
from qvl_trl.step import step_rows


class DpoStage:
    """Trains on TRL's DPOTrainer; see `qvl_trl.training.dpo`."""

    name = "dpo"
    data_kind: Kind | None = "preference"
    schema: Mapping[str, Any] = {
        "title": "dpo",
        "description": "How preferences are learnt.",
        "type": "object",
        "additionalProperties": False,
        "properties": {
            "beta": {
                "title": "Beta",
                "description": "How strongly the model is held to the one it starts from; less lets it move further.",
                "type": "number",
                "exclusiveMinimum": 0,
                "default": 0.1,
                "examples": [0.1],
            },
            "loss_type": {
                "title": "Loss",
                "description": "sigmoid is DPO's own; hinge, ipo, apo_zero, apo_down and sigmoid_norm are variants "
                "of it, as TRL names them.",
                "enum": ["sigmoid", "hinge", "ipo", "apo_zero", "apo_down", "sigmoid_norm"],
                "default": "sigmoid",
                "examples": ["sigmoid"],
            },
            "label_smoothing": {
                "title": "Label smoothing",
                "description": "Share of pairs assumed to be labelled the wrong way round; read by the loss sigmoid.",
                "type": "number",
                "minimum": 0,
                "exclusiveMaximum": 0.5,
                "default": 0.0,
                "examples": [0.1],
            },
            "sft_weight": {
                "title": "SFT weight",
                "description": "Weight of the chosen answers' own loss, added to the preference loss (Pang et al. "
                "2024, arXiv:2404.19733). Above 0 it keeps DPO from making both answers of a pair unlikely.",
                "type": "number",
                "minimum": 0,
                "default": 0.0,
                "examples": [1.0],
            },
        },
    }

    def estimate(self, settings: StageSettings) -> Estimate:
        """Steps for at most `max_samples` pairs."""
        steps = optimizer_steps(settings, rows_per_step=step_rows(settings), partial=True)
        return estimate(settings, optimizer_steps=steps)

    def check(self, settings: StageSettings) -> Iterable[Finding]:
        """As of `sft`; and label smoothing needs the loss that reads it."""
        yield from check_common(settings)
        yield from check_budget(settings, room=1)
        if settings.options["label_smoothing"] and settings.options["loss_type"] != "sigmoid":
            yield Finding(
                "with.label_smoothing",
                f"the loss {settings.options['loss_type']} does not read it: only sigmoid does",
            )

    def check_row(self, settings: StageSettings, example: Example) -> Iterable[DataError]:
        """Its pictures must leave room for a token of the answer."""
        return check_pictures(settings, example, room=1)

    def run(self, ctx: StageContext) -> StageResult:
        """Train. Raises StageStopped and StageError."""
        from qvl_trl.training.course import run_stage
        from qvl_trl.training.dpo import Dpo

        return run_stage(ctx, Dpo())


stage = DpoStage()
