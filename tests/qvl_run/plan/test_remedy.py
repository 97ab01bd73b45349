"""What would make a stage fit: alone, or together with as little else as is enough."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest

from qvl_run import plugins
from qvl_run.plan import remedy
from qvl_run.plan.bench import Bench
from qvl_run.plan.fit import fitted
from qvl_run.spec.job import StageSpec
from qvl_run.spec.load import load_job
from qvl_run.spec.resolve import provisional_settings
from tests.qvl_run.plan.fakes import Formula, gpu_with, needing

JOB = """
version: 1
name: demo
model: {name: qvl-tiny%s}
training: {max_seq_length: 2048%s}
stages:
  only: {uses: %s, data: {format: spatial_scenes}}
"""
Asked = Callable[..., tuple[StageSpec, Bench]]


@pytest.fixture
def asked(job_file: Callable[..., Path], monkeypatch: pytest.MonkeyPatch) -> Asked:
    def ask(
        room: float, formula: Formula, *, model: str = "", training: str = "", uses: str = "sft"
    ) -> tuple[StageSpec, Bench]:
        needing(monkeypatch, formula)
        job, machine = load_job(job_file(JOB % (model, training, uses))), gpu_with(room)
        return fitted(job, machine).stages[0], Bench(machine=machine)

    return ask


def alone(spec: StageSpec, bench: Bench) -> list[str]:
    found = remedy.enough(spec, bench.over, gpu=True)
    assert not any(bench.over(one.on(spec)) for one in found)
    return [one.text for one in found]


def all_of(spec: StageSpec, bench: Bench) -> list[str]:
    found = remedy.together(spec, bench.over, gpu=True)
    for one in found:
        spec = one.on(spec)
    assert not found or not bench.over(spec)
    return [one.text for one in found]


def test_rows_are_halved_until_they_fit_and_not_below_512(asked: Asked) -> None:
    packed = Formula(packed=4.0)
    assert alone(*asked(5.2, packed)) == ["max_seq_length: 1024"]
    assert alone(*asked(4.6, packed)) == ["max_seq_length: 512"]
    assert alone(*asked(4.4, packed)) == []


def test_the_image_budget_goes_down_until_it_fits(asked: Asked) -> None:
    images = Formula(packed=4.0, row=0.1, image=4.0)
    assert alone(*asked(6.5, images)) == ["image_tokens: [64, 512]"]
    assert alone(*asked(5.4, images)) == ["image_tokens: [64, 256]"]


@pytest.mark.parametrize(("room", "rank"), [(9.5, 64), (7.5, 32), (5.6, 8), (5.2, None)])
def test_smaller_ranks_of_lora_down_to_8(asked: Asked, room: float, rank: int | None) -> None:
    formula = Formula(weights=4.0, packed=4.0, row=0.5, adapters=1.0)
    spec, bench = asked(room, formula, model=", lora: {r: 128}")
    expected = [f"lora.r: {rank}"] if rank else []
    assert alone(spec, bench) == expected


def test_fewer_layers_get_adapters_where_all_have_them(asked: Asked) -> None:
    def over(spec: StageSpec) -> bool:
        return bool(spec.model.get("lora", {}).get("target_modules") == "all-linear")

    spec, _ = asked(9, Formula(), model=", lora: {target_modules: all-linear}")
    (one,) = remedy.enough(spec, over, gpu=True)
    assert (one.text, one.at) == ("lora.target_modules: language", "model.lora.target_modules")
    spec, _ = asked(9, Formula())
    assert remedy.together(spec, lambda _: True, gpu=True) == []


def test_a_full_fine_tune_is_offered_a_smaller_state_and_adapters(asked: Asked) -> None:
    full = Formula(row=0.5, state=8.0)
    assert alone(*asked(7.5, full, model=", lora: null")) == ["optim: adamw_8bit", "lora: {r: 16}"]
    assert alone(*asked(5.5, full, model=", lora: null")) == ["lora: {r: 16}"]
    assert all_of(*asked(3.0, full, model=", lora: null")) == ["lora: {r: 16}", "quantization: nf4"]


def test_fewer_rows_are_sampled_at_once_before_anything_that_changes_the_result(
    asked: Asked,
) -> None:
    by_hand = "grpo, with: {generation_micro_batch_size: 16}"
    spec, bench = asked(6.5, Formula(sampled=0.5), training=", global_batch_size: 16", uses=by_hand)
    assert alone(spec, bench)[0] == "with.generation_micro_batch_size: 4"
    assert not any("num_generations" in one for one in alone(spec, bench))


def test_a_smaller_global_batch_has_fewer_pictures_and_whole_groups(asked: Asked) -> None:
    spec, _ = asked(9, Formula(), training=", global_batch_size: 16", uses="grpo")

    def whole(one: StageSpec) -> int:
        training = one.training
        return training.per_device_train_batch_size * training.gradient_accumulation_steps

    def over(one: StageSpec) -> bool:
        return whole(one) > 4

    assert [one.text for one in remedy.enough(spec, over, gpu=True)] == ["global_batch_size: 4"]
    assert [one.text for one in remedy.together(spec, over, gpu=True)] == ["global_batch_size: 4"]
    assert remedy.enough(spec, lambda one: whole(one) > 2, gpu=True) == []
    by_hand = ", per_device_train_batch_size: 2, gradient_accumulation_steps: 8"
    spec, _ = asked(99, Formula(), training=by_hand, uses="grpo")
    (one,) = remedy.enough(spec, over, gpu=True)
    assert one.text == "gradient_accumulation_steps: 2 and per_device_train_batch_size: 2"
    spec, _ = asked(99, Formula(), training=", global_batch_size: 16")
    assert [one.text for one in remedy.enough(spec, over, gpu=True)] == ["global_batch_size: 4"]


def test_no_more_than_three_are_told_and_none_that_could_be_left_out(asked: Asked) -> None:
    two = ", per_device_train_batch_size: 2"
    assert alone(*asked(7.6, Formula(row=0.5, image=0.5), training=two)) == [
        "per_device_train_batch_size: 1 and gradient_accumulation_steps: 16",
        "quantization: nf4",
        "image_tokens: [64, 1024]",
    ]
    # Shorter rows ask for smaller images on the way, and are enough without them once they are as long as may be.
    spec, bench = asked(2.6, Formula(row=0.7, image=0.1), model=", image_tokens: [64, 768]")
    assert all_of(spec, bench) == ["quantization: nf4", "max_seq_length: 1024"]
    spec, bench = asked(2.9, Formula(row=0.5, image=1.0))
    texts = all_of(spec, bench)
    assert texts == ["quantization: nf4", "image_tokens: [64, 384]"]


def test_a_smaller_micro_batch_that_needs_more_keeps_nothing_from_being_found(asked: Asked) -> None:
    by_hand = ", per_device_train_batch_size: 2, gradient_accumulation_steps: 1"
    formula = Formula(row=0.5, gradients=3.0, packed=3.0)
    groups = "grpo, with: {num_generations: 2}"  # which a smaller global batch would break
    spec, bench = asked(4.2, formula, training=by_hand, uses=groups)
    assert all_of(spec, bench) == ["quantization: nf4", "max_seq_length: 1024"]


@pytest.mark.parametrize(
    ("completion", "shortest"), [(100, 512), (256, 1024), (512, 1024), (700, 1024)]
)
def test_rows_stay_long_enough_for_a_prompt_with_its_picture_and_a_completion(
    asked: Asked, completion: int, shortest: int
) -> None:
    uses = f"grpo, with: {{max_completion_length: {completion}}}"
    spec, _ = asked(99, Formula(), model=", image_tokens: [64, 256]", uses=uses)

    (one,) = remedy.enough(spec, partial(_longer_than, shortest), gpu=True)
    assert one.text == f"max_seq_length: {shortest}"
    assert remedy.enough(spec, partial(_longer_than, shortest // 2), gpu=True) == []


def _longer_than(length: int, spec: StageSpec) -> bool:
    return (spec.training.max_seq_length or 0) > length


def test_shorter_completions_leave_room_for_shorter_rows(asked: Asked) -> None:
    uses = "grpo, with: {max_completion_length: 700}"
    spec, _ = asked(99, Formula(), model=", image_tokens: [64, 256]", uses=uses)
    found = remedy.together(spec, partial(_longer_than, 512), gpu=True)
    assert [one.text for one in found] == [
        "with.max_completion_length: 175",
        "max_seq_length: 512",
    ]


@pytest.mark.parametrize("completion", [256, 512, 700])
def test_what_is_told_is_what_the_stage_has_nothing_against(asked: Asked, completion: int) -> None:
    uses = f"grpo, with: {{max_completion_length: {completion}}}"
    formula = Formula(row=0.7, image=0.4)
    spec, bench = asked(2.3, formula, model=", image_tokens: [64, 768]", uses=uses)
    assert all_of(spec, bench)
    for one in remedy.together(spec, bench.over, gpu=True):
        spec = one.on(spec)
    assert list(plugins.stage("grpo").check(provisional_settings(spec))) == []
