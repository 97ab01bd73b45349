"""What stages say from settings alone, held against TRL's own rules."""

from __future__ import annotations

import dataclasses
import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from qvl_run import plugins
from qvl_run.contract import Stage
from qvl_run.settings import DataSettings, LoraSettings, ModelSettings, StageSettings
from qvl_run.spec.diagnostic import JobError
from qvl_run.spec.load import load_job
from qvl_trl.models.architecture import KNOWN
from tests.qvl_trl.conftest import GRPO, FakeContext, Ran, replace, stage_settings

STAGES = ("sft", "dpo", "grpo")


@pytest.fixture
def no_hub_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path / "none"))


def findings(settings: StageSettings) -> list[str]:
    found = plugins.stage(settings.uses).check(settings)
    return [f"{one.severity} {one.path}: {one.message} ({one.hint})" for one in found]


@pytest.mark.parametrize("uses", STAGES)
def test_plain_settings_are_fine(uses: str) -> None:
    assert findings(stage_settings(uses)) == []
    assert isinstance(plugins.stage(uses), Stage)


@pytest.mark.parametrize("uses", STAGES)
def test_the_head_takes_no_adapter(uses: str) -> None:
    model = ModelSettings(name="qvl-tiny", lora=LoraSettings(target_modules=("lm_head",)))
    (found,) = findings(stage_settings(uses, model=model))
    assert found.startswith("error model.lora.target_modules.0: an adapter on lm_head")


@pytest.mark.parametrize("uses", [*STAGES, "merge"])
def test_a_folder_of_a_model_must_hold_one(
    uses: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    folder = tmp_path / "model"
    for name in ("./model", str(folder)):
        (found,) = findings(stage_settings(uses, model=ModelSettings(name=name)))
        assert found.startswith(f"error model.name: there is no folder {name}")
    folder.mkdir()
    for name in ("model", "./model", str(folder)):
        (found,) = findings(stage_settings(uses, model=ModelSettings(name=name)))
        assert found.startswith(f"error model.name: the folder {name} has no config.json")
    (folder / "config.json").write_text('{"model_type": "qwen3_vl"}')
    for name in ("model", "./model", str(folder), "owner/some.Model_2", "qvl-tiny"):
        assert findings(stage_settings(uses, model=ModelSettings(name=name))) == []


@pytest.mark.parametrize(
    ("config", "words"),
    [
        ({"model_type": "qwen2_5_vl"}, "is a qwen2_5_vl: only a dense Qwen3-VL"),
        ({"model_type": "qwen3_vl_moe"}, "is a qwen3_vl_moe: only a dense Qwen3-VL"),
        ({}, "says in its config.json no model_type"),
    ],
)
def test_a_folder_of_another_model_is_refused(
    config: dict[str, str], words: str, tmp_path: Path
) -> None:
    (tmp_path / "config.json").write_text(json.dumps(config))
    (found,) = findings(stage_settings("sft", model=ModelSettings(name=str(tmp_path))))
    assert found.startswith("error model.name: ")
    assert words in found


@pytest.mark.parametrize(
    ("name", "severity", "words"),
    [
        ("Qwen/Qwen3-VL-30B-A3B-Instruct", "error", "is a mixture of experts"),
        ("Qwen/Qwen3-VL-235B-A22B-Thinking", "error", "is a mixture of experts"),
        ("Qwen/Qwen3-VL-7B-Instruct", "warning", "(known: Qwen/Qwen3-VL-2B, "),
        ("Qwen/Qwen3-VL-2B-Instuct", "warning", 'did you mean "Qwen/Qwen3-VL-2B-Instruct"?'),
        ("Qwen3-VL-2B-Instruct", "error", 'did you mean "Qwen/Qwen3-VL-2B-Instruct"?'),
        ("qwen3-vl-8b-thinking", "error", 'did you mean "Qwen/Qwen3-VL-8B-Thinking"?'),
        ("qvl_tiny", "error", 'did you mean "qvl-tiny"?'),
    ],
)
def test_names_that_no_dense_model_has(
    name: str, severity: str, words: str, no_hub_cache: None
) -> None:
    (found,) = findings(stage_settings("sft", model=ModelSettings(name=name)))
    assert found.startswith(f"{severity} model.name: ")
    assert words in found


@pytest.mark.parametrize("name", [*KNOWN, "someone/Qwen3-VL-2B-tuned", "qvl-tiny"])
def test_names_that_may_be_a_dense_model(name: str, no_hub_cache: None) -> None:
    assert findings(stage_settings("sft", model=ModelSettings(name=name))) == []


def test_what_the_hubs_cache_says_of_a_model_counts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path))
    repo = tmp_path / "models--someone--model"
    (repo / "refs").mkdir(parents=True)
    (repo / "refs" / "main").write_text("c0" * 20)
    snapshot = repo / "snapshots" / ("c0" * 20)
    snapshot.mkdir(parents=True)
    (snapshot / "config.json").write_text('{"model_type": "qwen3_vl_moe"}')
    (found,) = findings(stage_settings("sft", model=ModelSettings(name="someone/model")))
    assert "someone/model is a qwen3_vl_moe" in found


@pytest.mark.parametrize(
    ("targets", "words"),
    [
        (["q_prj"], 'no layer of the model is called q_prj (did you mean "q_proj"?)'),
        (["q_proj", "k_porj"], 'no layer of the model is called k_porj (did you mean "k_proj"?)'),
        (["layers.28.self_attn.q_proj"], "no layer of the model is called layers.28"),
        (["mlp.q_proj"], "no layer of the model is called mlp.q_proj"),
        (["embed_tokens"], "embed_tokens is no linear layer"),
        (["patch_embed.proj"], "patch_embed.proj is no linear layer"),
        (["proj"], 'proj means model.visual.patch_embed.proj too, which is no linear layer (write "attn.proj")'),
    ],
)  # fmt: skip
def test_targets_that_mean_no_linear_layer(targets: list[str], words: str) -> None:
    model = ModelSettings(
        name="Qwen/Qwen3-VL-2B-Instruct", lora=LoraSettings(target_modules=tuple(targets))
    )
    (found,) = findings(stage_settings("sft", model=model))
    assert found.startswith("error model.lora.target_modules.")
    assert words in found


@pytest.mark.parametrize(
    "target", ["q_proj", "layers.27.self_attn.q_proj", "attn.proj", "merger.linear_fc1", "blocks.0.attn.qkv"]
)  # fmt: skip
def test_targets_that_mean_linear_layers(target: str) -> None:
    lora = LoraSettings(target_modules=(target,))
    model = ModelSettings(name="Qwen/Qwen3-VL-2B-Instruct", lora=lora)
    assert findings(stage_settings("sft", model=model)) == []


def test_a_model_may_lie_below_the_home_folder(
    job_file: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    text = """
    version: 1
    name: demo
    model: {name: ~/model}
    stages: {sft: {uses: sft, data: {format: spatial_scenes}}}
    """
    with pytest.raises(JobError, match=f"there is no folder {tmp_path}/model"):
        load_job(job_file(text))
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "config.json").write_text('{"model_type": "qwen3_vl"}')
    (stage,) = load_job(job_file(text)).stages
    assert stage.model["name"] == f"{tmp_path}/model"


def test_label_smoothing_needs_a_loss_that_reads_it() -> None:
    options = {"label_smoothing": 0.1, "loss_type": "ipo"}
    (found,) = findings(stage_settings("dpo", options=options))
    assert found.startswith("error with.label_smoothing: the loss ipo does not read it")


@pytest.mark.parametrize("size", [1, 2, 3, 4])
@pytest.mark.parametrize("accumulation", [1, 2, 4])
@pytest.mark.parametrize("group", [2, 3, 4])
def test_group_sizes_are_judged_as_trl_judges_them(
    size: int, accumulation: int, group: int
) -> None:
    from trl import GRPOConfig

    batch = {"per_device_train_batch_size": size, "gradient_accumulation_steps": accumulation}
    found = findings(stage_settings("grpo", training=batch, options={"num_generations": group}))
    try:
        GRPOConfig("out", **batch, num_generations=group, use_cpu=True, bf16=False)
    except ValueError:
        assert len(found) == 1
        assert f"do not fill a step of {size * accumulation}" in found[0]
    else:
        assert found == []


@pytest.mark.parametrize(
    ("rewards", "expected"),
    [
        (["exact_anwser"], 'there is no reward called "exact_anwser"; there are '),
        ([{"name": "brevity", "with": {"words": 3}}], "brevity: Additional properties"),
        ([{"name": "brevity", "with": {"max_words": 0}}], "brevity: 0 is less than the minimum"),
    ],
)
def test_rewards_must_exist_and_understand_their_options(rewards: list[Any], expected: str) -> None:
    (found,) = findings(stage_settings("grpo", options={"rewards": rewards}))
    assert found.startswith(f"error with.rewards: {expected}")


def test_a_completion_must_leave_room_for_a_prompt() -> None:
    settings = replace(stage_settings("grpo"), max_seq_length=200)
    (found,) = findings(settings)
    assert found.startswith("error with.max_completion_length: leaves no room")


@pytest.mark.parametrize("uses", STAGES)
def test_the_estimate_is_the_number_of_steps(uses: str, request: pytest.FixtureRequest) -> None:
    ran: Ran = request.getfixturevalue(uses)
    assert plugins.stage(uses).estimate(ran.ctx.settings).optimizer_steps == ran.result.steps


def test_the_estimate_knows_max_samples_and_max_steps() -> None:
    settings = stage_settings("sft", data=DataSettings(format="jsonl", path="rows.jsonl"))
    stage = plugins.stage("sft")
    assert stage.estimate(settings).optimizer_steps is None  # there is no such file
    assert stage.estimate(replace(settings, max_steps=7)).optimizer_steps == 7
    assert settings.data is not None
    some = dataclasses.replace(settings, data=dataclasses.replace(settings.data, max_samples=9))
    assert stage.estimate(replace(some, num_epochs=1)).optimizer_steps == 3


def test_rows_of_a_file_are_counted(tmp_path: Path) -> None:
    """Steps of 4 rows."""
    path = tmp_path / "rows.jsonl"

    def steps(**more: Any) -> int | None:
        data = DataSettings(format="jsonl", path=str(path), **more)
        settings = replace(stage_settings("sft", data=data), num_epochs=1)
        return plugins.stage("sft").estimate(settings).optimizer_steps

    path.write_text("{}\n\n" * 10)
    assert (steps(), steps(max_samples=1000), steps(max_samples=5)) == (3, 3, 2)
    path.write_text("{}\n" * 16)
    assert steps(max_samples=1000) == 4


def test_rows_that_do_not_fill_a_step_are_refused_beforehand(tmp_path: Path) -> None:
    """Steps of 16 rows in groups of 4."""
    path = tmp_path / "rows.jsonl"
    batch = {"per_device_train_batch_size": 4, "gradient_accumulation_steps": 4}

    def found(rows: int, **more: Any) -> list[str]:
        path.write_text("{}\n" * rows)
        data = DataSettings(format="jsonl", path=str(path), **more)
        return findings(stage_settings("grpo", data=data, training=batch))

    told = (
        "3 rows are too few: one step takes 4 different prompts, a global batch of 16 in groups of 4 "
        "(4 rows or more, or a global batch of at most 12)"
    )
    assert found(3) == [f"error data.path data: {told}"]
    assert found(3, max_samples=9) == [f"error data.path data: {told}"]
    assert found(9, max_samples=3) == [f"error data.max_samples: {told}"]
    assert found(1)[0].startswith("error data.path data: 1 row is too few: ")
    assert found(4) == []
    assert found(0) == []  # that the file has no rows is told where they are read
    unseen = DataSettings(format="hub", path="owner/name", max_samples=3)
    assert findings(stage_settings("grpo", data=unseen, training=batch)) == [
        f"error data.max_samples: {told}"
    ]
    unseen = dataclasses.replace(unseen, max_samples=None)
    assert findings(stage_settings("grpo", data=unseen, training=batch)) == []


def test_too_few_prompts_for_a_step(make_context: Callable[..., FakeContext]) -> None:
    data = dataclasses.replace(GRPO["data"], max_samples=1)
    ctx = make_context(stage_settings("grpo", **{**GRPO, "data": data}))
    with pytest.raises(Exception, match=re.escape("one step takes 2 different prompts")):
        plugins.stage("grpo").run(ctx)
