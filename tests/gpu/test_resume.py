"""On a GPU a resumed stage goes on as the uninterrupted one did, in half precision too, with the dtypes it should."""

import dataclasses
from collections.abc import Callable

import pytest
import torch
from safetensors.torch import load_file

from qvl_run.settings import LoraSettings, ModelSettings, Precision
from tests.qvl_trl.conftest import GRPO, Ran, cache, make_context, run, stage_settings

__all__ = ["cache", "make_context", "run"]

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no CUDA GPU")


@pytest.mark.parametrize("precision", ["fp32", "bf16", "fp16"])
@pytest.mark.parametrize("uses", ["sft", "dpo", "grpo"])
def test_a_resumed_stage_goes_on_as_the_whole_one(
    uses: str, precision: Precision, run: Callable[..., Ran], record_property: Callable[..., None]
) -> None:
    if precision == "bf16" and torch.cuda.get_device_capability() < (8, 0):
        pytest.skip("this GPU has no bf16 in hardware")
    model = ModelSettings(name="qvl-tiny", lora=LoraSettings(r=4, alpha=8), precision=precision)
    changes = dict(GRPO) if uses == "grpo" else {}
    training = {**changes.pop("training", {}), "save_steps": 1}
    settings = stage_settings(uses, training=training, **changes)
    settings = dataclasses.replace(settings, model=model)
    whole = run(settings)
    resumed = run(settings, resume_from=whole.ctx.checkpoints[2], records=dict(whole.ctx.records))
    before, after = whole.ctx.metrics[2:], resumed.ctx.metrics
    assert len(before) == len(after) == whole.result.steps - 2
    for one, other in zip(before, after, strict=True):
        assert other["learning_rate"] == one["learning_rate"]
        assert other["loss"] == pytest.approx(one["loss"], rel=1e-2, abs=1e-4)
    weights, again = (
        load_file(ran.result.output / "adapter_model.safetensors") for ran in (whole, resumed)
    )
    difference = max(float((weights[name] - again[name]).abs().max()) for name in weights)
    assert all(tensor.dtype == torch.float32 for tensor in weights.values())
    print(f"{uses} {precision}: final weights differ by at most {difference:.1e}")
    assert difference < 1e-3
