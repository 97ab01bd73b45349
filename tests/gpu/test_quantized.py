"""Adapters on a quantized base are handed over from stage to stage, and merged in 16 bit in the end.

Where bitsandbytes is installed, with a GPU or without.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from qvl_run.settings import LoraSettings, ModelSettings, Precision, StageSettings
from tests.qvl_trl.conftest import GRPO, Ran, cache, make_context, run, stage_settings

__all__ = ["cache", "make_context", "run"]

pytestmark = pytest.mark.skipif(find_spec("bitsandbytes") is None, reason="no bitsandbytes")
HALF: Precision = "fp16" if torch.cuda.is_available() else "bf16"
DTYPE = {"fp16": torch.float16, "bf16": torch.bfloat16}[HALF]


def settings(uses: str, quantization: Any, **training: Any) -> StageSettings:
    model = ModelSettings(
        name="qvl-tiny",
        lora=LoraSettings(r=4, alpha=8),
        precision=HALF,
        quantization=quantization,
    )
    changes: dict[str, Any] = dict(GRPO) if uses == "grpo" else {}
    own = {**changes.pop("training", {}), **training}
    return dataclasses.replace(stage_settings(uses, training=own, **changes), model=model)


def adapter(folder: Path) -> Mapping[str, torch.Tensor]:
    return load_file(folder / "adapter_model.safetensors")


@pytest.mark.parametrize("quantization", ["nf4", "int8"])
def test_each_stage_goes_on_with_the_adapter_of_the_one_before(
    quantization: str, run: Callable[..., Ran]
) -> None:
    sft = run(settings("sft", quantization))
    dpo = run(settings("dpo", quantization), input=sft.result.output)
    grpo = run(settings("grpo", quantization), input=dpo.result.output)
    assert dpo.ctx.metrics[0]["loss"] == pytest.approx(math.log(2), abs=1e-3)
    assert grpo.ctx.metrics[0]["kl"] == pytest.approx(0, abs=1e-4)
    for one in (sft, dpo, grpo):
        assert all(math.isfinite(metrics["loss"]) for metrics in one.ctx.metrics)
        assert {tensor.dtype for tensor in adapter(one.result.output).values()} == {torch.float32}
    assert any(
        not torch.equal(tensor, adapter(grpo.result.output)[name])
        for name, tensor in adapter(dpo.result.output).items()
    )


def test_the_merged_model_is_held_in_16_bit_and_quantized_nowhere(run: Callable[..., Ran]) -> None:
    sft = run(settings("sft", "nf4"))
    merged = run(
        dataclasses.replace(settings("merge", "nf4"), data=None, options={"dtype": "auto"}),
        input=sft.result.output,
    )
    weights = load_file(merged.result.output / "model.safetensors")
    assert {tensor.dtype for tensor in weights.values()} == {DTYPE}
    assert not any("quant" in name or "absmax" in name for name in weights)


def test_adam_in_8_bits_trains_and_is_gone_on_with(run: Callable[..., Ran]) -> None:
    chosen = settings("sft", "none", optim="adamw_8bit", save_steps=1)
    whole = run(chosen)
    resumed = run(chosen, resume_from=whole.ctx.checkpoints[2], records=dict(whole.ctx.records))
    assert len(resumed.ctx.metrics) == whole.result.steps - 2
    before, after = adapter(whole.result.output), adapter(resumed.result.output)
    assert max(float((before[n] - after[n]).abs().max()) for n in before) < 1e-3
