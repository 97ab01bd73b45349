"""How many rows an optimizer step has, and how many of them are sampled at once. Pure."""

from __future__ import annotations

from qvl_run.settings import StageSettings
from qvl_run.spec.batch import AUTO, SAMPLED


def step_rows(settings: StageSettings) -> int:
    """Rows of one optimizer step: pairs for DPO, completions for GRPO."""
    training = settings.training
    return training.per_device_train_batch_size * training.gradient_accumulation_steps


def sampled_at_once(settings: StageSettings) -> int:
    """Of a stage that samples; all rows of a step where that is left open."""
    asked, rows = settings.options[SAMPLED], step_rows(settings)
    return rows if asked == AUTO else min(int(asked), rows)
