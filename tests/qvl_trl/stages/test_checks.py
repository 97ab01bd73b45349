"""What stages say from settings alone, held against TRL's own rules."""

from __future__ import annotations

import dataclasses
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
from tests.qvl_trl.conftest import GRPO, FakeContext, Ran, replace, stage_settings

STAGES = ("sft", "dpo", "grpo")


def findings(settings: StageSettings) -> list[str]:
    return [f"{at}: {text}" for at, text in plugins.stage(settings.uses).check(settings)]


@pytest.mark.parametrize("uses", STAGES)
def test_plain_settings_are_fine(uses: str) -> None:
    assert findings(stage_settings(uses)) == []
    assert isinstance(plugins.stage(uses), Stage)


@pytest.mark.parametrize("uses", STAGES)
def test_the_head_takes_no_adapter(uses: str) -> None:
    model = ModelSettings(name="qvl-tiny", lora=LoraSettings(target_modules=("lm_head",)))
    (found,) = findings(stage_settings(uses, model=model))
    assert found.startswith("model.lora.target_modules: an adapter on lm_head")


@pytest.mark.parametrize("uses", [*STAGES, "merge"])
def test_a_folder_of_a_model_must_hold_one(
    uses: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    folder = tmp_path / "model"
    for name in ("./model", str(folder)):
        (found,) = findings(stage_settings(uses, model=ModelSettings(name=name)))
        assert found.startswith(f"model.name: there is no folder {name}")
    folder.mkdir()
    for name in ("model", "./model", str(folder)):
        (found,) = findings(stage_settings(uses, model=ModelSettings(name=name)))
        assert found.startswith(f"model.name: the folder {name} has no config.json")
    (folder / "config.json").write_text("{}")
    for name in ("model", "./model", str(folder), "owner/some.Model_2", "qvl-tiny"):
        assert findings(stage_settings(uses, model=ModelSettings(name=name))) == []


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
    (tmp_path / "model" / "config.json").write_text("{}")
    (stage,) = load_job(job_file(text)).stages
    assert stage.model["name"] == f"{tmp_path}/model"


def test_label_smoothing_needs_a_loss_that_reads_it() -> None:
    options = {"label_smoothing": 0.1, "loss_type": "ipo"}
    (found,) = findings(stage_settings("dpo", options=options))
    assert found.startswith("with.label_smoothing: the loss ipo does not read it")


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
    assert found.startswith(f"with.rewards: {expected}")


def test_a_completion_must_leave_room_for_a_prompt() -> None:
    settings = replace(stage_settings("grpo"), max_seq_length=200)
    (found,) = findings(settings)
    assert found.startswith("with.max_completion_length: leaves no room")


@pytest.mark.parametrize("uses", STAGES)
def test_the_estimate_is_the_number_of_steps(uses: str, request: pytest.FixtureRequest) -> None:
    ran: Ran = request.getfixturevalue(uses)
    assert plugins.stage(uses).estimate(ran.ctx.settings).optimizer_steps == ran.result.steps


def test_the_estimate_knows_max_samples_and_max_steps() -> None:
    settings = stage_settings("sft", data=DataSettings(format="jsonl", path="rows.jsonl"))
    stage = plugins.stage("sft")
    assert stage.estimate(settings).optimizer_steps is None
    assert stage.estimate(replace(settings, max_steps=7)).optimizer_steps == 7
    assert settings.data is not None
    some = dataclasses.replace(settings, data=dataclasses.replace(settings.data, max_samples=9))
    assert stage.estimate(replace(some, num_epochs=1)).optimizer_steps == 3


def test_too_few_prompts_for_a_step(make_context: Callable[..., FakeContext]) -> None:
    data = dataclasses.replace(GRPO["data"], max_samples=1)
    ctx = make_context(stage_settings("grpo", **{**GRPO, "data": data}))
    with pytest.raises(Exception, match=re.escape("one step takes 2 different prompts")):
        plugins.stage("grpo").run(ctx)
