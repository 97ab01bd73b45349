from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from qvl_run.contract import StageError
from qvl_run.settings import LoraSettings, ModelSettings
from qvl_trl.policy.load import load_policy
from tests.qvl_trl.conftest import Ran, stage_settings

TINY = ModelSettings(name="qvl-tiny", lora=LoraSettings(r=4, alpha=8))


@pytest.mark.parametrize(
    ("settings", "base", "trained"),
    [
        (TINY, torch.float32, torch.float32),
        (dataclasses.replace(TINY, precision="bf16"), torch.bfloat16, torch.float32),
        (dataclasses.replace(TINY, precision="fp16"), torch.float16, torch.float32),
        (dataclasses.replace(TINY, precision="fp16", lora=None), torch.float32, torch.float32),
    ],
)
def test_dtypes(settings: ModelSettings, base: torch.dtype, trained: torch.dtype) -> None:
    parameters = dict(load_policy(settings, start=None, seed=0).model.named_parameters())
    assert {p.dtype for p in parameters.values() if p.requires_grad} == {trained}
    assert {p.dtype for name, p in parameters.items() if "lora_" not in name} == {base}


def test_the_seed_decides_the_fresh_adapter() -> None:
    def a(seed: int) -> torch.Tensor:
        parameters = load_policy(TINY, start=None, seed=seed).model.named_parameters()
        return next(p for name, p in parameters if "lora_A" in name)

    assert torch.equal(a(1), a(1))
    assert not torch.equal(a(1), a(2))


def test_a_model_that_is_not_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    for name, failure in ((str(tmp_path), "config"), ("nobody/no-such-model", "download")):
        with pytest.raises(StageError, match=r"cannot be (loaded|downloaded)") as caught:
            load_policy(ModelSettings(name=name), start=None, seed=0)
        assert caught.value.failure == failure


@pytest.mark.parametrize("family", ["llama", "qwen2_5_vl", "qwen3_vl_moe"])
def test_a_model_of_another_family(tmp_path: Path, family: str) -> None:
    (tmp_path / "config.json").write_text(json.dumps({"model_type": family}))
    with pytest.raises(StageError, match=f"is a {family}, not a dense Qwen3-VL"):
        load_policy(ModelSettings(name=str(tmp_path)), start=None, seed=0)


@pytest.mark.parametrize("quantization", ["nf4", "int8"])
def test_a_quantized_base_keeps_a_float32_adapter(
    quantization: str, run: Callable[..., Ran]
) -> None:
    """TRL rounds it to bfloat16: DPO would not start at ln 2, and a T4 has no bfloat16."""
    pytest.importorskip("bitsandbytes")
    model = dataclasses.replace(TINY, quantization=quantization)
    quick = {"max_steps": 2}
    sft = run(stage_settings("sft", model=model, training=quick))
    dpo = run(stage_settings("dpo", model=model, training=quick), input=sft.result.output)
    saved = load_file(dpo.result.output / "adapter_model.safetensors")
    assert {tensor.dtype for tensor in saved.values()} == {torch.float32}
    assert dpo.ctx.metrics[0]["loss"] == pytest.approx(math.log(2), abs=1e-6)
    assert dpo.ctx.metrics[0]["rewards/margins"] == 0
