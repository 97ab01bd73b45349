"""A merged model is its base with the adapter added in float32 and rounded once, and answers as both did."""

from __future__ import annotations

import dataclasses
import json
import math
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModelForImageTextToText

from qvl_run import plugins
from qvl_run.contract import StageError
from qvl_run.settings import LoraSettings, ModelSettings, StageSettings
from qvl_trl.memory.estimate import PROCESS, merged_precision
from qvl_trl.policy.load import Policy, load_policy
from qvl_trl.stages.merge import stage
from qvl_trl.training import merge
from tests.conftest import Command
from tests.qvl_trl.conftest import Ran, stage_settings

GIB = 1024**3
TINY = plugins.load("qvl.models", "qvl-tiny").folder()
QUICK = {"max_steps": 2, "learning_rate": 1e-4}


def settings(dtype: str = "auto", **changes: Any) -> StageSettings:
    found = stage_settings("merge", options={"dtype": dtype}, data=None)
    return dataclasses.replace(found, **changes)


def adapted(base: dict[str, torch.Tensor], adapter: Path) -> dict[str, torch.Tensor]:
    """What the merged weights must be, from the files alone."""
    config = json.loads((adapter / "adapter_config.json").read_text())
    parts = load_file(adapter / "adapter_model.safetensors")
    found = dict(base)
    for name in [n for n in parts if n.endswith("lora_A.weight")]:
        target = name.removeprefix("base_model.model.").replace(".lora_A", "")
        product = parts[name.replace("lora_A", "lora_B")] @ parts[name]
        weight = base[target]
        sum_ = weight.float() + product * (config["lora_alpha"] / config["r"])
        found[target] = sum_.to(weight.dtype)
    return found


@pytest.mark.parametrize(("name", "dtype"), [("bf16", torch.bfloat16), ("fp16", torch.float16)])
def test_each_weight_is_the_sum_rounded_once(
    name: str, dtype: torch.dtype, sft: Ran, run: Callable[..., Ran]
) -> None:
    done = run(settings(name), input=sft.result.output)
    model, report = AutoModelForImageTextToText.from_pretrained(
        done.result.output, output_loading_info=True, dtype="auto"
    )
    assert not report["missing_keys"]
    assert not report["unexpected_keys"]
    assert model.dtype == dtype
    plain = AutoModelForImageTextToText.from_pretrained(TINY, dtype=dtype).state_dict()
    wanted = adapted(plain, sft.result.output)
    changed = [key for key in plain if not torch.equal(plain[key], wanted[key])]
    assert len(changed) == 5 * 7  # every linear layer of the language model
    for key, value in model.state_dict().items():
        assert torch.equal(value, wanted[key]), key


@pytest.mark.parametrize(("name", "share"), [("bf16", 1 / 3), ("fp16", 1 / 20)])
def test_it_answers_as_the_adapter_on_its_base(
    name: Any, share: float, sft: Ran, run: Callable[..., Ran]
) -> None:
    """Logits differ, in float32, by a small share of what the adapter changes."""
    done = run(settings(name), input=sft.result.output)
    lora = sft.ctx.settings.model
    full = ModelSettings(name=str(done.result.output), lora=None)
    exact, base, merged = (
        logits(load_policy(model, start=start, seed=0))
        for model, start in ((lora, sft.result.output), (lora, None), (full, None))
    )
    moved = (base - exact).abs().max()
    assert 0 < (merged - exact).abs().max() < moved * share


def logits(policy: Policy) -> torch.Tensor:
    inputs = policy.processor.tokenizer("What is left of the red star?", return_tensors="pt")
    with policy.inference():
        found: torch.Tensor = policy.model(**inputs).logits.float()
    return found


def test_what_rounding_loses_is_told(sft: Ran, run: Callable[..., Ran]) -> None:
    plain = AutoModelForImageTextToText.from_pretrained(TINY, dtype=torch.float32).state_dict()
    exact = adapted(plain, sft.result.output)
    change = math.sqrt(sum(float((exact[n] - plain[n]).square().sum()) for n in plain))
    found = {}
    for name in ("bf16", "fp16"):
        done = run(settings(name), input=sft.result.output)
        mine = load_file(done.result.output / "model.safetensors")
        lost = sum(float((mine[n].float() - exact[n]).square().sum()) for n in mine)
        (_, found[name]) = done.result.measures["rounding_loss"]
        assert found[name] == pytest.approx(math.sqrt(lost) / change, rel=1e-3)
    assert 0 < found["fp16"] < found["bf16"] / 6  # three bits more


@pytest.mark.parametrize(
    ("dtype", "precision", "found"),
    [
        ("auto", "fp32", "bf16"),
        ("auto", "bf16", "bf16"),
        ("auto", "fp16", "fp16"),
        ("bf16", "fp16", "bf16"),
        ("fp16", "bf16", "fp16"),
    ],
)
def test_auto_is_the_jobs_own_16_bits(dtype: str, precision: Any, found: str) -> None:
    model = ModelSettings(name="qvl-tiny", precision=precision)
    assert merged_precision(settings(dtype, model=model)) == found


def test_a_base_is_never_loaded_quantized(sft: Ran, run: Callable[..., Ran]) -> None:
    """Here it could not be: that needs a GPU."""
    model = dataclasses.replace(sft.ctx.settings.model, quantization="nf4")
    done = run(settings(model=model), input=sft.result.output)
    assert "quantization_config" not in json.loads((done.result.output / "config.json").read_text())


def test_what_is_no_adapter_is_refused(sft: Ran, run: Callable[..., Ran]) -> None:
    with pytest.raises(StageError, match=r"nothing to merge: .* of the stage before it"):
        run(settings())
    with pytest.raises(StageError, match=f"{TINY} is a full model already"):
        run(settings(), input=TINY)
    full = settings(model=ModelSettings(name="qvl-tiny", lora=None))
    assert [found.path for found in stage.check(full)] == ["model.lora"]
    assert list(stage.check(settings())) == []


def test_a_broken_adapter_is_told(sft: Ran, run: Callable[..., Ran], tmp_path: Path) -> None:
    broken = shutil.copytree(sft.result.output, tmp_path / "broken")
    file = broken / "adapter_model.safetensors"
    weights = load_file(file)
    next(w for name, w in weights.items() if "lora_B" in name)[0, 0] = 1e30
    save_file(weights, file)
    with pytest.raises(StageError, match=r"_proj.weight is not finite .* bf16") as error:
        run(settings("fp16"), input=broken)
    assert error.value.failure == "nan"


def test_the_device_is_the_one_that_it_fits_on() -> None:
    assert merge.place(9 * GIB, gpu=14 * GIB, ram=10 * GIB) == "cuda:0"
    assert merge.place(4 * GIB, gpu=4 * GIB, ram=10 * GIB) == "cpu"
    assert merge.place(4 * GIB, gpu=0, ram=10 * GIB) == "cpu"
    assert merge.place(4 * GIB, gpu=0, ram=4 * GIB + PROCESS) == "cpu", "as the plan counts"
    with pytest.raises(
        StageError,
        match=r"17.0 GiB of a GPU, of which 14.0 GiB are free .* 19.0 GiB of RAM, .* have 10.0 GiB",
    ):
        merge.place(16 * GIB, gpu=14 * GIB, ram=10 * GIB)


def test_a_disk_without_room_is_told_before_it_is_written_to(
    sft: Ran, run: Callable[..., Ran], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("qvl_run.disk.Disk.free", lambda *_: 1024)
    with pytest.raises(StageError, match="the merged model takes") as error:
        run(settings(), input=sft.result.output)
    assert error.value.failure == "disk"


def test_later_stages_go_on_from_the_merged_model(sft: Ran, run: Callable[..., Ran]) -> None:
    """Also the one after the next, which is handed an adapter on it, and not on the job's model."""
    lora = ModelSettings(name="qvl-tiny", lora=LoraSettings(r=4, alpha=8))
    one = run(settings(), input=sft.result.output).result.output
    dpo = run(stage_settings("dpo", model=lora, training=QUICK), input=one)
    assert dpo.ctx.metrics[0]["rewards/margins"] == 0
    after = load_policy(lora, start=dpo.result.output, seed=0)
    assert after.source == str(one)
    two = run(settings(), input=dpo.result.output).result.output
    mine = {f.name: load_file(f) for f in two.glob("*.safetensors")}["model.safetensors"]
    base = load_file(one / "model.safetensors")
    wanted = adapted(base, dpo.result.output)
    assert all(torch.equal(mine[name], wanted[name]) for name in base)


def test_an_adapter_whose_base_is_gone_is_refused(sft: Ran, tmp_path: Path) -> None:
    adapter = shutil.copytree(sft.result.output, tmp_path / "adapter")
    config = json.loads((adapter / "adapter_config.json").read_text())
    config["base_model_name_or_path"] = str(tmp_path / "gone")
    (adapter / "adapter_config.json").write_text(json.dumps(config))
    hub = dataclasses.replace(sft.ctx.settings.model, name="owner/model")
    with pytest.raises(StageError, match=r"trained on the model in .*gone, which is not here"):
        load_policy(hub, start=adapter, seed=0)
    local = load_policy(sft.ctx.settings.model, start=adapter, seed=0)
    assert local.source == str(TINY), "the job's own model has moved"


def test_a_job_ends_with_a_merged_model(
    job_file: Callable[..., Path], qvl_run: Command, tmp_path: Path
) -> None:
    job = job_file("""
        version: 1
        name: tiny
        model: {name: qvl-tiny, lora: {r: 4, alpha: 8}}
        training: {max_steps: 1, gradient_accumulation_steps: 1, save_steps: 1}
        evaluation: {data: {format: spatial_scenes, with: {split: test, size: 4}}}
        stages:
          sft: {uses: sft, data: {format: spatial_scenes, with: {size: 4}}}
          merged: {uses: merge}
        """)
    assert "learning rate" not in qvl_run("plan", job).stdout.partition("merged (merge): run")[2]
    done = qvl_run(job, env={"OMP_NUM_THREADS": "1"})
    assert done.returncode == 0, done.stdout + done.stderr
    final = tmp_path / "qvl-runs" / "tiny" / "checkpoints" / "merged" / "final"
    assert f"The result is in {final}" in done.stdout
    assert "rounding loss 0." in done.stdout
    assert not (final / "adapter_config.json").exists()
    model = AutoModelForImageTextToText.from_pretrained(final, dtype="auto")
    assert model.dtype == torch.bfloat16
    assert "merged: done\n" in qvl_run(job).stdout
