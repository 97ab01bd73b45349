"""Each stage starts from its upstream stage's output, and its reference model is that output."""

from __future__ import annotations

import math
import os
import shutil
import subprocess
import sys
import textwrap
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from qvl_run import plugins
from qvl_run.contract import Example, StageError
from qvl_run.settings import LoraSettings, ModelSettings
from qvl_trl.evaluation.answers import greedy_answers
from qvl_trl.policy.artifact import save_artifact
from qvl_trl.policy.load import Policy
from qvl_trl.policy.lora import unrounded
from qvl_trl.training import course
from tests.qvl_trl.conftest import GRPO, FakeContext, Ran, scenes, stage_settings


def test_dpo_starts_at_ln_2_with_zero_margins(dpo: Ran) -> None:
    first, second = dpo.ctx.metrics[:2]
    assert first["loss"] == pytest.approx(math.log(2), abs=1e-6)
    assert first["rewards/margins"] == 0
    assert first["rewards/chosen"] == first["rewards/rejected"] == 0
    assert second["rewards/margins"] != 0


def test_grpo_starts_at_kl_0(grpo: Ran) -> None:
    first, *later = (metrics["kl"] for metrics in grpo.ctx.metrics)
    assert first == 0
    assert max(later) > 0


@pytest.mark.parametrize(("uses", "upstream"), [("dpo", "sft"), ("grpo", "dpo")])
def test_the_first_checkpoint_is_near_the_upstream_output(
    uses: str, upstream: str, request: pytest.FixtureRequest
) -> None:
    """Not near a fresh adapter, whose B is zero."""
    stage, before = request.getfixturevalue(uses), request.getfixturevalue(upstream)
    assert stage.ctx.input == before.result.output
    start, checkpoint = (
        load_file(folder / "adapter_model.safetensors")
        for folder in (before.result.output, stage.ctx.checkpoints[2])
    )
    b = [name for name in start if "lora_B" in name]
    assert b
    for name in b:
        moved = (checkpoint[name] - start[name]).abs().max()
        assert moved <= 2.5e-3  # two steps of Adam at learning rate 1e-3
        assert start[name].abs().max() > 0


def test_full_fine_tuning_hands_over_full_models(run: Callable[..., Ran]) -> None:
    model = ModelSettings(name="qvl-tiny", lora=None)
    quick = {"max_steps": 2, "learning_rate": 1e-4}
    sft = run(stage_settings("sft", model=model, training=quick))
    assert (sft.result.output / "model.safetensors").is_file()
    dpo = run(stage_settings("dpo", model=model, training=quick), input=sft.result.output)
    assert dpo.ctx.metrics[0]["loss"] == pytest.approx(math.log(2), abs=1e-6)
    assert dpo.ctx.metrics[1]["rewards/margins"] != 0
    settings = stage_settings(
        "grpo", model=model, **{**GRPO, "training": {**GRPO["training"], **quick}}
    )
    grpo = run(settings, input=dpo.result.output)
    assert [metrics["kl"] > 0 for metrics in grpo.ctx.metrics] == [False, True]


def test_an_adapter_of_another_rank_is_refused(
    sft: Ran, make_context: Callable[..., FakeContext]
) -> None:
    model = ModelSettings(name="qvl-tiny", lora=LoraSettings(r=8, alpha=8))
    ctx = make_context(stage_settings("dpo", model=model), input=sft.result.output)
    with pytest.raises(StageError, match=r"rank 4 and alpha 8.*lora: \{r: 4, alpha: 8\}"):
        plugins.stage("dpo").run(ctx)


def test_unknown_target_modules_are_refused(make_context: Callable[..., FakeContext]) -> None:
    lora = LoraSettings(target_modules=("no_such_layer",))
    ctx = make_context(stage_settings("sft", model=ModelSettings(name="qvl-tiny", lora=lora)))
    with pytest.raises(StageError, match=r"lora\.target_modules.*no_such_layer"):
        plugins.stage("sft").run(ctx)


def test_adapters_sit_on_the_language_model_alone(sft: Ran) -> None:
    names = load_file(sft.result.output / "adapter_model.safetensors")
    assert len(names) == 5 * 7 * 2  # layers, linear layers in each, A and B
    assert all(".language_model.layers." in name for name in names)


def test_values_of_a_quantized_models_adapter_are_kept() -> None:
    model = torch.nn.Linear(4, 4)
    before = model.weight.data.clone()
    with unrounded(model):
        for parameter in model.parameters():  # as TRL does to a quantized model
            parameter.data = parameter.data.to(torch.bfloat16)
    assert model.weight.dtype == torch.float32
    assert torch.equal(model.weight.data, before)


@pytest.fixture
def picture(tmp_path: Path, cache: Path) -> Path:
    rows = plugins.data_format("spatial_scenes").examples(
        scenes(split="test", size=4), kind="prompt", cache=cache
    )
    assert isinstance(rows[0].images[0], Path)
    path = tmp_path / "picture.png"
    shutil.copyfile(rows[0].images[0], path)
    return path


@pytest.mark.parametrize("lora", [LoraSettings(r=4, alpha=8), None], ids=["adapter", "full model"])
def test_usage_loads_the_artifact_with_plain_libraries(
    lora: LoraSettings | None,
    picture: Path,
    run: Callable[..., Ran],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """In a process without this package the printed lines see the logits of the model that was evaluated."""
    kept: list[Policy] = []
    monkeypatch.setattr(course, "save_artifact", lambda p, f: (kept.append(p), save_artifact(p, f)))
    model = ModelSettings(name="qvl-tiny", lora=lora, image_tokens=(1, 16))
    result = run(stage_settings("sft", model=model, training={"max_steps": 2})).result

    script = result.usage.replace("{path}", str(result.output)) + textwrap.dedent("""
        import sys, torch
        assert not {"qvl_run", "qvl_trl", "trl"} & set(sys.modules)
        torch.save((dict(inputs), model(**inputs).logits), "seen.pt")
    """)
    done = subprocess.run(
        [sys.executable, "-c", script],
        cwd=picture.parent,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    inputs, logits = torch.load(picture.parent / "seen.pt", weights_only=True)
    with kept[0].inference():
        expected = kept[0].model(**inputs).logits
    torch.testing.assert_close(logits, expected, rtol=0, atol=1e-5)
    example = Example(images=(picture,), question="What is in the picture?", source="")
    assert done.stdout.strip() == greedy_answers(kept[0], [example], max_new_tokens=64)[0].strip()
