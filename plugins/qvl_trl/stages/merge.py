"""`merge`: the adapter of the stage before it, made part of its base model."""

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
from qvl_trl.memory.estimate import estimate_merge
from qvl_trl.stages.common import check_common


class MergeStage:
    """Leaves a full model in 16 bit; see `qvl_trl.training.merge`."""

    name = "merge"
    data_kind: Kind | None = None
    schema: Mapping[str, Any] = {
        "title": "merge",
        "description": "How the merged model is held.",
        "type": "object",
        "additionalProperties": False,
        "properties": {
            "dtype": {
                "title": "Dtype",
                "description": "Of the merged weights, whatever the adapter was trained on (nf4 and int8 too). `auto` "
                "takes fp16 where the job computes in fp16, else bf16.",
                "enum": ["auto", "bf16", "fp16"],
                "default": "auto",
                "examples": ["bf16"],
            },
        },
    }

    def estimate(self, settings: StageSettings) -> Estimate:
        """It has no steps."""
        return estimate_merge(settings)

    def check(self, settings: StageSettings) -> Iterable[Finding]:
        """See `check_common`; and there must be an adapter."""
        yield from check_common(settings)
        if settings.model.lora is None:
            yield Finding("model.lora", "with lora: null there is no adapter, so nothing to merge")

    def check_row(self, settings: StageSettings, example: Example) -> Iterable[DataError]:  # noqa: ARG002
        """It trains on no rows."""
        return ()

    def run(self, ctx: StageContext) -> StageResult:
        """Merge. Raises StageStopped and StageError."""
        from qvl_trl.training.merge import merge

        return merge(ctx)


stage = MergeStage()
