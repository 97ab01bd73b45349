"""The work of a step: the rules of thumb that it must come to, and the measurements that its rates were fitted to."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from qvl_run import plugins
from qvl_run.contract import Work
from qvl_run.hardware import profile
from qvl_run.plan import decide
from qvl_run.plan.fit import fit
from qvl_run.plan.pace import H100, UNSURE, rates, seconds
from qvl_run.resources import shipped_jobs
from qvl_run.settings import LoraSettings, ModelSettings, StageSettings, TrainingSettings
from qvl_run.spec.load import load_job
from qvl_trl.memory.shape import Shape
from qvl_trl.models.architecture import KNOWN
from qvl_trl.work import usual, work

TWO = KNOWN["Qwen/Qwen3-VL-2B-Instruct"]
TEXT = Shape(prompt=0, answer=512, image_tokens=0)
ROW = Shape(prompt=364, answer=100, image_tokens=300)
GRPO = {
    "num_generations": 4,
    "max_completion_length": 200,
    "generation_micro_batch_size": "auto",
    "beta": 0.04,
}


def settings(uses: str = "sft", **changes: Any) -> StageSettings:
    training = {
        "per_device_train_batch_size": 4,
        "gradient_accumulation_steps": 2,
        "gradient_checkpointing": False,
    }
    lora = changes.pop("lora", LoraSettings())
    options = changes.pop("options", GRPO if uses == "grpo" else {})
    return StageSettings(
        name=uses,
        uses=uses,
        model=ModelSettings(name="x", lora=lora, image_tokens=changes.pop("image_tokens", None)),
        training=TrainingSettings(**{**training, **changes}),
        options=options,
    )


def test_all_weights_of_text_alone_take_six_operations_a_parameter_and_token() -> None:
    found = work(settings(lora=None), TWO, TEXT)
    tokens = 8 * TEXT.tokens
    assert found.flops == pytest.approx(6 * TWO.text.parameters * tokens, rel=0.1)


def test_an_adapter_takes_four_and_recomputation_two_more() -> None:
    base = 2 * TWO.text.parameters * 8 * TEXT.tokens
    assert work(settings(), TWO, TEXT).flops == pytest.approx(2 * base, rel=0.1)
    again = work(settings(gradient_checkpointing=True), TWO, TEXT)
    assert again.flops == pytest.approx(3 * base, rel=0.1)


def test_answers_that_are_sampled_in_parts_take_as_many_times_as_long() -> None:
    found = [
        work(settings("grpo", options={**GRPO, "generation_micro_batch_size": rows}), TWO, ROW)
        for rows in (8, 4, 3, 1)
    ]
    assert [one.decoding // found[0].decoding for one in found] == [1, 2, 3, 8]
    assert len({one.flops for one in found}) == 1


def test_a_reference_goes_forward_once_more_and_a_pair_is_two_rows() -> None:
    sft, dpo = work(settings(), TWO, TEXT), work(settings("dpo"), TWO, TEXT)
    assert dpo.flops == 2 * sft.flops * 3 // 2
    without = work(settings("grpo", options={**GRPO, "beta": 0}), TWO, TEXT)
    with_one = work(settings("grpo"), TWO, TEXT)
    assert 2 * (with_one.flops - without.flops) == sft.flops
    assert with_one.passes > without.passes


@pytest.mark.parametrize("uses", ["sft", "dpo", "grpo"])
def test_twice_the_rows_are_twice_the_work(uses: str) -> None:
    once = work(settings(uses), TWO, ROW)
    wider = work(settings(uses, per_device_train_batch_size=8), TWO, ROW)
    longer = work(settings(uses, gradient_accumulation_steps=4), TWO, ROW)
    assert wider.flops == longer.flops == 2 * once.flops
    assert (wider.passes, longer.passes) == (once.passes, 2 * once.passes)
    assert wider.decoding == longer.decoding == once.decoding


def test_the_vision_tower_only_goes_forward_unless_it_is_trained() -> None:
    def seen(**changes: Any) -> Work:
        blind, row = (work(settings(**changes), TWO, shape) for shape in (
            replace(ROW, image_tokens=0), ROW
        ))  # fmt: skip
        return Work(flops=row.flops - blind.flops, passes=row.passes - blind.passes)

    frozen = seen()
    assert frozen.passes == 2 * TWO.vision.depth
    parameters = TWO.vision.depth * TWO.vision.block_linear
    assert frozen.flops == pytest.approx(2 * parameters * ROW.patches * 8, rel=0.4)
    adapted = seen(lora=LoraSettings(target_modules="all-linear"))
    assert adapted == Work(flops=2 * frozen.flops, passes=2 * frozen.passes)
    assert seen(lora=None).flops == 3 * frozen.flops
    again = seen(lora=None, gradient_checkpointing=True)
    assert again == Work(flops=4 * frozen.flops, passes=3 * frozen.passes)


def test_sampling_goes_through_every_layer_for_every_token() -> None:
    assert work(settings(), TWO, ROW).decoding == 0
    row = usual(settings("grpo"))
    assert work(settings("grpo"), TWO, row).decoding == 200 * TWO.text.num_hidden_layers


def test_the_usual_row_keeps_to_the_bounds() -> None:
    assert usual(settings()) == Shape(prompt=364, answer=100, image_tokens=300)
    assert usual(settings(image_tokens=(64, 128))).image_tokens == 128
    assert usual(settings(image_tokens=(512, 1024))).image_tokens == 512
    assert usual(settings(max_seq_length=256)).tokens == 256
    assert usual(settings("grpo")).answer == 200
    for limit in (1, 2, 100, 101, 201, 400):
        for uses in ("sft", "grpo"):
            row = usual(settings(uses, max_seq_length=limit))
            assert row.tokens <= limit
            assert row.image_tokens <= row.prompt
            assert min(row.prompt, row.answer, row.image_tokens) >= 0


@pytest.mark.parametrize(
    ("found", "measured"),
    [
        (settings(), 8 / 11.5),
        (settings(gradient_checkpointing=True), 8 / 5.7),
        (settings(per_device_train_batch_size=1, gradient_accumulation_steps=8, gradient_checkpointing=True), 8 / 1.7),
        (settings("dpo", gradient_checkpointing=True), 8 / 3.8),
        (settings("grpo", gradient_checkpointing=True), 15.0),
    ],
)  # fmt: skip
def test_steps_measured_on_an_h100_are_met_within_a_third(
    found: StageSettings, measured: float
) -> None:
    assert seconds(work(found, TWO, usual(found)), H100) == pytest.approx(measured, rel=0.33)


# A step of 8 packed rows of 2048 tokens of Gemma-2B, layers computed again: 18 layers, 2.5e9 parameters. A step of 16
# rows of 128 tokens of ChatGLM-6B, one at a time: 28 layers, 6.2e9 parameters. See `pace` for where they are from.
@pytest.mark.parametrize(
    ("found", "took"),
    [
        (Work(flops=round(2 * 3 * 2.5e9 * 8 * 2048), passes=18 * 3 * 4), 1.64 * 2119 / 120),
        (Work(flops=round(2 * 2 * 6.2e9 * 16 * 128), passes=28 * 2 * 16), 7 * 3600 / 3000),
    ],
)
def test_what_others_took_on_a_t4_is_met_within_the_factor_that_is_told(
    found: Work, took: float
) -> None:
    known = rates("Tesla T4")
    assert known is not None
    assert took / UNSURE < seconds(found, known) < took * UNSURE


def test_on_a_t4_the_three_stages_take_together_no_longer_than_the_guide_says() -> None:
    job, t4 = load_job(shipped_jobs()["t4_full_pipeline"]), profile("t4")
    known = rates("Tesla T4")
    assert known is not None
    hours = {}
    for name, fitted in fit(job, t4).items():
        settings = decide.resolve(fitted.spec, t4, wandb=False)
        needs = plugins.stage(settings.uses).estimate(settings)
        assert needs.work is not None
        assert needs.optimizer_steps is not None
        hours[name] = seconds(needs.work, known) * needs.optimizer_steps / 3600
    for name, guide in (("sft", 4), ("dpo", 2), ("grpo", 3)):
        assert 0 < hours[name] < guide
