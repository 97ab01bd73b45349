"""How many rows and prompts an optimizer step has, and how many rows are sampled at once. Pure."""

from __future__ import annotations

from qvl_run.settings import StageSettings
from qvl_run.spec.batch import AUTO, SAMPLED


def step_rows(settings: StageSettings) -> int:
    """Rows of one optimizer step: pairs for DPO, completions for GRPO."""
    training = settings.training
    return training.per_device_train_batch_size * training.gradient_accumulation_steps


def step_prompts(settings: StageSettings) -> int:
    """Different prompts of one optimizer step of a stage that samples groups: each has as many rows as its group."""
    return step_rows(settings) // int(settings.options["num_generations"])


def too_few_prompts(settings: StageSettings, rows: int) -> tuple[str, str] | None:
    """That `rows` rows of data do not fill one step of a stage that samples groups, and what to do; None where they
    do."""
    prompts, group = step_prompts(settings), int(settings.options["num_generations"])
    if rows >= prompts:
        return None
    are = "1 row is" if rows == 1 else f"{rows} rows are"
    return (
        f"{are} too few: one step takes {prompts} different prompts, a global batch of {step_rows(settings)} "
        f"in groups of {group}",
        f"{prompts} rows or more, or a global batch of at most {max(rows, 1) * group}",
    )


def sampled_at_once(settings: StageSettings) -> int:
    """Of a stage that samples; all rows of a step where that is left open."""
    asked, rows = settings.options[SAMPLED], step_rows(settings)
    return rows if asked == AUTO else min(int(asked), rows)
