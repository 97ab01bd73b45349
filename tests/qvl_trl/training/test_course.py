"""What a stage reports, measures and refuses while it runs."""

from __future__ import annotations

import dataclasses
import json
import random
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from transformers import set_seed

from qvl_run import plugins
from qvl_run.contract import DataError, Kind, StageError
from qvl_run.settings import DataSettings, EvaluationSettings
from qvl_trl.policy.load import load_policy
from qvl_trl.training import course
from qvl_trl.training.dpo import Dpo
from qvl_trl.training.grpo import Grpo
from qvl_trl.training.lengths import prompt_tokens
from qvl_trl.training.sft import Sft
from tests.qvl_trl.conftest import GRPO, FakeContext, Ran, scenes, stage_settings

Make = Callable[..., FakeContext]
METHODS: Mapping[str, course.Method] = {"sft": Sft(), "dpo": Dpo(), "grpo": Grpo()}


def run_stage(ctx: FakeContext) -> Any:
    return plugins.stage(ctx.settings.uses).run(ctx)


@pytest.fixture
def jsonl(tmp_path: Path) -> Callable[..., DataSettings]:
    """A data set of `rows` rows, each with a noisy JPEG of its own."""

    def write(rows: int, **changes: Any) -> DataSettings:
        lines = []
        for i in range(1, rows + 1):
            Image.effect_noise((64, 64), 50).save(tmp_path / f"{i}.jpg")
            row = {"image": f"{i}.jpg", "question": "Where?", "answer": "left", **changes}
            lines.append(json.dumps(row) + "\n")
        path = tmp_path / "rows.jsonl"
        path.write_text("".join(lines))
        return DataSettings(format="jsonl", path=str(path))

    return write


def test_sections_follow_each_other(sft: Ran, grpo: Ran) -> None:
    assert sft.ctx.sections[:4] == ["load", "eval", "first_step", "step"]
    assert sft.ctx.sections[-3:] == ["step", "eval", "save"]
    assert grpo.ctx.sections.count("rollout") == 5
    assert sft.ctx.sections.count("save") == 4  # three checkpoints and the output


def test_the_base_model_is_measured_once(sft: Ran, dpo: Ran) -> None:
    assert set(sft.ctx.records["baseline"]) == {"loss", "accuracy"}
    assert set(sft.result.measures) == {"loss", "accuracy"}
    assert None not in sft.result.measures["accuracy"]
    assert set(dpo.ctx.records["baseline"]) == {"preference_accuracy"}


def test_training_lowers_the_loss(sft: Ran) -> None:
    before, after = sft.result.measures["loss"]
    assert before is not None
    assert after is not None
    assert after < before


def test_accuracy_before_a_later_stage_is_not_measured_again(
    run: Callable[..., Ran], sft: Ran
) -> None:
    evaluation = EvaluationSettings(data=scenes(split="test", size=2))
    settings = stage_settings("dpo", evaluation=evaluation, training={"max_steps": 1})
    ran = run(settings, input=sft.result.output)
    before, after = ran.result.measures["accuracy"]
    assert (before, after is not None) == (None, True)


def test_without_held_out_rows_the_training_log_is_reported(run: Callable[..., Ran]) -> None:
    ran = run(stage_settings("sft", training={"max_steps": 2}))
    logged = tuple(metrics["loss"] for metrics in ran.ctx.metrics)
    assert ran.result.measures == {"loss": logged}


def test_evaluation_does_not_disturb_training(run: Callable[..., Ran], grpo: Ran) -> None:
    def trained(ran: Ran) -> list[dict[str, float]]:
        return [{k: v for k, v in m.items() if k != "step_time"} for m in ran.ctx.metrics]

    settings = dataclasses.replace(grpo.ctx.settings, eval_data=None)
    assert trained(run(settings, input=grpo.ctx.input)) == trained(grpo)


@pytest.mark.parametrize("uses", ["sft", "dpo", "grpo"])
def test_measures_leave_the_random_state_as_it_was(uses: str, make_context: Make) -> None:
    """Asked for directly: TRL sets the seed anew between the measures and the first step. Where an
    earlier measure left it makes no difference to a measure either."""

    def random_state() -> tuple[Any, ...]:
        return random.getstate(), np.random.get_state()[1].tolist(), torch.get_rng_state().tolist()

    changes = {**(GRPO if uses == "grpo" else {}), "eval_data": scenes(split="test", size=4)}
    evaluation = EvaluationSettings(data=scenes(split="test", size=2))
    ctx = make_context(stage_settings(uses, **changes, evaluation=evaluation))
    policy = load_policy(ctx.settings.model, start=None, seed=0)
    held_out = course.read_held_out(ctx, METHODS[uses].kind)
    found = []
    for seed in (1, 2):
        set_seed(seed)
        before = random_state()
        found.append(course._measures(ctx, policy, METHODS[uses], held_out, trained=False))
        assert random_state() == before
    assert found[0] == found[1]
    assert len(found[0]) == 2


@pytest.mark.parametrize("workers", [0, 1])
def test_an_image_that_breaks_in_training_names_its_row(
    make_context: Make, jsonl: Callable[..., DataSettings], workers: int
) -> None:
    data = jsonl(4)
    picture = Path(str(data.path)).parent / "3.jpg"
    picture.write_bytes(picture.read_bytes()[:-400])  # the header is whole: no check finds it
    assert list(plugins.data_format("jsonl").check(data, kind="sft")) == []
    training = {"dataloader_num_workers": workers}
    with pytest.raises(DataError, match=r"the image .*3\.jpg cannot be read: ") as caught:
        run_stage(make_context(stage_settings("sft", data=data, training=training)))
    assert caught.value.source == f"{data.path}:3"


def test_a_loss_that_is_no_number_ends_the_stage_unsaved(make_context: Make) -> None:
    training = {"learning_rate": 1e30, "max_grad_norm": 1e30, "save_steps": 100}
    ctx = make_context(stage_settings("sft", training=training))
    with pytest.raises(
        StageError, match=r"the (loss|gradient) is NaN or infinite at step"
    ) as caught:
        run_stage(ctx)
    assert caught.value.failure == "nan"
    assert ctx.checkpoints == {}


@pytest.mark.parametrize(
    ("uses", "kind", "room"), [("sft", "sft", 1), ("dpo", "preference", 1), ("grpo", "prompt", 6)]
)
def test_a_prompt_that_leaves_no_room_is_refused(
    uses: str, kind: Kind, room: int, make_context: Make, cache: Path
) -> None:
    changes = GRPO if uses == "grpo" else {}
    settings = stage_settings(uses, **changes)
    policy = load_policy(settings.model, start=None, seed=0)
    assert settings.data is not None
    rows = plugins.data_format("spatial_scenes").examples(settings.data, kind=kind, cache=cache)
    longest = max(prompt_tokens(row, policy.processor) for row in rows)
    limit = longest + room - 1
    training = {**changes.get("training", {}), "max_seq_length": limit}
    ctx = make_context(stage_settings(uses, **{**changes, "training": training}))
    with pytest.raises(DataError, match=f"has {longest} tokens.*max_seq_length {limit}"):
        run_stage(ctx)


def test_prompt_tokens_are_what_the_processor_makes(cache: Path) -> None:
    from qvl_trl.rows import to_row

    settings = stage_settings("sft")
    policy = load_policy(settings.model, start=None, seed=0)
    data = scenes(size=3, image_size=160)
    for row in plugins.data_format("spatial_scenes").examples(data, kind="sft", cache=cache):
        content = [{"type": "image"}, {"type": "text", "text": row.question}]
        text = policy.processor.apply_chat_template(
            [{"role": "user", "content": content}], add_generation_prompt=True
        )
        made = policy.processor(text=[text], images=to_row(row)["images"])["input_ids"]
        assert prompt_tokens(row, policy.processor) == len(made[0])


def test_an_answer_is_cut_to_max_seq_length(
    run: Callable[..., Ran], jsonl: Callable[..., DataSettings]
) -> None:
    data = jsonl(4, answer="left " * 200)
    ran = run(stage_settings("sft", data=data, training={"max_seq_length": 64, "max_steps": 1}))
    assert ran.ctx.metrics[0]["num_tokens"] == 4 * 64


def test_a_reward_needs_its_column(make_context: Make, jsonl: Callable[..., DataSettings]) -> None:
    ctx = make_context(stage_settings("grpo", **{**GRPO, "data": jsonl(4, answer=None)}))
    with pytest.raises(DataError, match=r'rows\.jsonl:1: the row lacks "answer", which the reward'):
        run_stage(ctx)


def test_held_out_rows_are_judged_before_training(
    make_context: Make, jsonl: Callable[..., DataSettings]
) -> None:
    ctx = make_context(stage_settings("grpo", **GRPO, eval_data=jsonl(1, answer=None)))
    with pytest.raises(DataError, match=r'rows\.jsonl:1: the row lacks "answer"'):
        run_stage(ctx)
    assert "step" not in ctx.sections


def test_an_evaluation_row_needs_an_answer(
    make_context: Make, jsonl: Callable[..., DataSettings]
) -> None:
    evaluation = EvaluationSettings(data=jsonl(1, answer=None))
    ctx = make_context(stage_settings("sft", evaluation=evaluation))
    with pytest.raises(DataError, match=r'rows\.jsonl:1: an evaluation row needs an "answer"'):
        run_stage(ctx)
