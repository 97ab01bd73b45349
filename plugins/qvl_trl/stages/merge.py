"""`merge`: the adapter of the stage before it, made part of its base model."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from qvl_run.contract import Estimate, Kind, StageContext, StageResult
from qvl_run.settings import StageSettings
from qvl_trl.stages.common import Finding, check_common


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

    def estimate(self, settings: StageSettings) -> Estimate:  # noqa: ARG002
        """It has no steps."""
        return Estimate(optimizer_steps=None)

    def check(self, settings: StageSettings) -> Iterable[Finding]:
        """See `check_common`; and there must be an adapter."""
        yield from check_common(settings)
        if settings.model.lora is None:
            yield "model.lora", "with lora: null there is no adapter, so nothing to merge"

    def columns(self, settings: StageSettings) -> frozenset[str]:  # noqa: ARG002
        """It trains on no rows."""
        return frozenset()

    def run(self, ctx: StageContext) -> StageResult:
        """Merge. Raises StageStopped and StageError."""
        from qvl_trl.training.merge import merge

        return merge(ctx)


stage = MergeStage()
