"""`sft`: supervised fine-tuning on questions with answers."""

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


class SftStage:
    """Trains on TRL's SFTTrainer; see `qvl_trl.training.sft`."""

    name = "sft"
    data_kind: Kind | None = "sft"
    schema: Mapping[str, Any] = {
        "title": "sft",
        "description": "Takes no options of its own: see training and model.",
        "type": "object",
        "additionalProperties": False,
        "properties": {},
    }

    def estimate(self, settings: StageSettings) -> Estimate:
        """Steps for at most `max_samples` rows."""
        steps = optimizer_steps(settings, rows_per_step=step_rows(settings), partial=True)
        return estimate(settings, optimizer_steps=steps)

    def check(self, settings: StageSettings) -> Iterable[Finding]:
        """See `check_common`; and the largest picture must leave room for a token of the answer."""
        yield from check_common(settings)
        yield from check_budget(settings, room=1)

    def check_row(self, settings: StageSettings, example: Example) -> Iterable[DataError]:
        """Its pictures must leave room for a token of the answer."""
        return check_pictures(settings, example, room=1)

    def run(self, ctx: StageContext) -> StageResult:
        """Train. Raises StageStopped and StageError."""
        from qvl_trl.training.course import run_stage
        from qvl_trl.training.sft import Sft

        return run_stage(ctx, Sft())


stage = SftStage()
