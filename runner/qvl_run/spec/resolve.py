"""A stage as settings, once it is said what `auto` stands for."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from qvl_run.settings import LoraSettings, ModelSettings, StageSettings, from_json
from qvl_run.spec.job import StageSpec


def provisional_settings(stage: StageSpec) -> StageSettings:
    """`stage` as settings before a machine is known: `auto` stands for fp32, SDPA and the defaults. For checks."""
    return StageSettings(
        name=stage.name,
        uses=stage.uses,
        model=model_settings(stage.model, precision="fp32", attention="sdpa"),
        training=stage.training,
        data=stage.data,
        eval_data=stage.eval_data,
        evaluation=stage.evaluation,
        options=stage.options,
        downloads=stage.downloads,
    )


def model_settings(model: Mapping[str, Any], *, precision: str, attention: str) -> ModelSettings:
    """The job's `model` with what `auto` stands for; the default for keys that `plan.fit` has not decided."""
    values = dict(model)
    values.pop("lora", None)
    if values.get("precision", "auto") == "auto":
        values["precision"] = precision
    if values.get("attention", "auto") == "auto":
        values["attention"] = attention
    for key in ("quantization", "image_tokens"):
        if values.get(key) == "auto":
            del values[key]
    lora = model.get("lora", {})
    values["lora"] = None if lora is None else from_json(LoraSettings, lora)
    return from_json(ModelSettings, values)
