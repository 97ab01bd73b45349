"""The terms of a prediction, one by one, and what holds for all of them."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest
from hypothesis import given
from hypothesis import settings as examples
from hypothesis import strategies as st

from qvl_run import plugins
from qvl_run.contract import Peak
from qvl_run.settings import (
    DataSettings,
    EvaluationSettings,
    LoraSettings,
    ModelSettings,
    StageSettings,
    TrainingSettings,
)
from qvl_run.spec.schema import with_defaults
from qvl_trl.memory import weights
from qvl_trl.memory.predict import evaluation_peak, phases, training_peak
from qvl_trl.memory.shape import longest
from qvl_trl.models.architecture import Architecture, architecture
from qvl_trl.policy.load import load_policy

TWO = "Qwen/Qwen3-VL-2B-Instruct"


def sizes(name: str = TWO) -> Architecture:
    found = architecture(name)
    assert found is not None
    return found


def stage(uses: str = "sft", **changes: Any) -> StageSettings:
    model = {
        "name": TWO,
        "precision": "fp16",
        "image_tokens": (64, 512),
        **changes.pop("model", {}),
    }
    training = {"max_seq_length": 2048, **changes.pop("training", {})}
    options = with_defaults(changes.pop("options", {}), plugins.stage(uses).schema)
    return StageSettings(
        name=uses,
        uses=uses,
        model=ModelSettings(**model),
        training=TrainingSettings(**training),
        options=options,
        **changes,
    )


def total(settings: StageSettings) -> int:
    shape = longest(settings)
    assert shape is not None
    known = sizes(settings.model.name)
    measured = evaluation_peak(settings, known, shape)
    return max(training_peak(settings, known, shape).total, measured.total if measured else 0)


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.parametrize(
    "targets",
    [
        "language",
        "all-linear",
        ("q_proj", "linear_fc1"),
        ("layers.0.self_attn.q_proj", "attn.proj", "deepstack_merger_list.0.linear_fc2"),
        ("merger.linear_fc1", "down_proj"),
        None,
    ],
)
def test_what_is_there_whatever_the_batch_is_counted_exactly(precision: Any, targets: Any) -> None:
    lora = None if targets is None else LoraSettings(r=4, alpha=8, target_modules=targets)
    model = ModelSettings(name="qvl-tiny", precision=precision, lora=lora)
    policy = load_policy(model, start=None, seed=0)
    tiny = sizes("qvl-tiny")
    parameters = list(policy.model.parameters())
    trained = [p for p in parameters if p.requires_grad]
    assert weights.trained(tiny, lora) == sum(p.numel() for p in trained)
    base = parameters if lora is None else [p for p in parameters if not p.requires_grad]
    assert weights.base(tiny, model) == sum(p.numel() * p.element_size() for p in base)


def test_a_quantized_base_takes_what_bitsandbytes_says() -> None:
    """What was seen on a GPU: 2022178816 packed bytes of the 4B in nf4, and 393457 thousand other weights."""
    nf4 = weights.base(
        sizes("Qwen/Qwen3-VL-4B-Instruct"), ModelSettings(name="", quantization="nf4")
    )
    packed, scales, others = 2022178816, 2 * 2022178816 * (1 / 64 + 4 / 64 / 256), 393458176 * 4
    assert nf4 == pytest.approx(packed + scales + others, rel=1e-3)


def test_without_a_bound_on_the_rows_nothing_is_predicted() -> None:
    open_ended = stage(training={"max_seq_length": None})
    assert longest(open_ended) is None
    assert plugins.stage("sft").estimate(open_ended).vram is None
    unknown = plugins.stage("sft").estimate(stage(model={"name": "someone/unknown"}))
    assert (unknown.vram, unknown.download, unknown.ram) == (None, None, None)
    for needs in (plugins.stage("sft").estimate(open_ended), unknown):
        assert needs.unknown
    # Of an unbounded stage it is still known what no row changes.
    fixed = plugins.stage("sft").estimate(open_ended).at_least
    assert fixed is not None
    assert fixed > weights.base(sizes(), open_ended.model)


def test_what_no_row_changes_is_what_the_optimizers_step_takes() -> None:
    """All weights trained, with 8-bit Adam: on an H100 22.86 GiB were measured (benchmarks/measured)."""
    whole = {"lora": None, "precision": "bf16"}
    settings = stage(model=whole, training={"max_seq_length": None, "optim": "adamw_8bit"})
    fixed = plugins.stage("sft").estimate(settings).at_least
    assert fixed == pytest.approx(22.86 * 2**30, rel=0.01)


def test_what_is_measured_is_told_apart_from_training() -> None:
    small = stage(training={"max_seq_length": 600})
    data = DataSettings(format="jsonl", path="rows.jsonl")
    asked = dataclasses.replace(small, evaluation=EvaluationSettings(data=data, batch_size=64))
    scored = dataclasses.replace(small, eval_data=data)
    alone, both, held_out = (plugins.stage("sft").estimate(one) for one in (small, asked, scored))
    assert alone.vram == both.vram == held_out.vram
    assert alone.evaluation is None
    assert both.evaluation is not None
    assert both.evaluation.phase == "evaluation"
    assert held_out.evaluation is not None
    assert held_out.evaluation.phase == "held-out rows"
    assert total(asked) > total(small)


def test_a_larger_image_budget_never_needs_less() -> None:
    data = DataSettings(format="jsonl", path="rows.jsonl")
    for uses in ("sft", "dpo"):
        needs = [
            total(stage(uses, eval_data=data, model={"image_tokens": budget}))
            for budget in ((64, 128), (64, 512), (64, 1024), (64, 2048), None)
        ]
        assert needs == sorted(needs)


def test_what_is_kept_for_reference_counts_unless_there_is_none() -> None:
    both, alone = (stage("grpo", options={"beta": beta}) for beta in (0.04, 0.0))
    adapter = 4 * weights.trained(sizes(), both.model.lora)
    shape = longest(both)
    assert shape is not None
    parts = [next(phases(one, sizes(), shape)).parts["adapters"] for one in (both, alone)]
    assert parts == [2 * adapter, adapter]


def test_no_part_is_negative_and_the_parts_are_the_whole() -> None:
    for uses in ("sft", "dpo", "grpo"):
        for model in ({}, {"quantization": "nf4"}, {"quantization": "int8"}, {"lora": None}):
            settings = stage(uses, model=model)
            shape = longest(settings)
            assert shape is not None
            for one in phases(settings, sizes(), shape):
                assert all(size > 0 for size in one.parts.values())
                assert one.total == sum(one.parts.values())


@st.composite
def two(draw: st.DrawFn) -> tuple[StageSettings, StageSettings]:
    """A stage, and the same with one thing smaller."""
    uses = draw(st.sampled_from(["sft", "dpo", "grpo"]))
    micro, length = draw(st.sampled_from([2, 4, 8])), draw(st.sampled_from([1024, 2048, 4096]))
    lora = draw(st.sampled_from([LoraSettings(r=8), LoraSettings(r=64), None]))
    quantized = ["none"] if lora is None else ["none", "nf4", "int8"]
    model: dict[str, Any] = {"quantization": draw(st.sampled_from(quantized)), "lora": lora}
    training: dict[str, Any] = {
        "per_device_train_batch_size": micro,
        "gradient_accumulation_steps": 16 // micro,
        "max_seq_length": length,
        "gradient_checkpointing": draw(st.booleans()),
        "optim": draw(st.sampled_from(["adamw_torch", "adamw_8bit"])),
    }
    options: dict[str, Any] = (
        {"num_generations": 4, "max_completion_length": 256} if uses == "grpo" else {}
    )
    before = stage(uses, model=model, training=training, options=options)
    smaller = draw(
        st.sampled_from(["micro", "length", "images", "rank", "again", "completion", "sampled"])
    )
    if smaller == "micro":
        training |= {
            "per_device_train_batch_size": micro // 2,
            "gradient_accumulation_steps": 32 // micro,
        }
    elif smaller == "length":
        training["max_seq_length"] = length // 2 + 256
    elif smaller == "images":
        model["image_tokens"] = (64, 256)
    elif smaller == "rank":
        model["lora"] = LoraSettings(r=4) if lora else None
    elif smaller == "again":
        training["gradient_checkpointing"] = True
    elif smaller == "sampled" and uses == "grpo":
        options["generation_micro_batch_size"] = draw(st.integers(1, 15))
    elif uses == "grpo":
        # Where the row may stay as long, its prompt grows by as much.
        options["max_completion_length"] = 128
        training["max_seq_length"] = length - 128
    return before, stage(uses, model=model, training=training, options=options)


@examples(max_examples=150, deadline=None)
@given(two())
def test_smaller_settings_never_need_more(pair: tuple[StageSettings, StageSettings]) -> None:
    before, after = pair
    assert total(after) <= total(before)


def test_a_step_of_one_batch_keeps_no_gradients_beside_its_activations() -> None:
    """8 x 1 of a full fine-tune needs less than 4 x 2, which needs the gradients too."""
    gradients = 4 * weights.trained(sizes(), None)
    splits = ((8, 1), (4, 2), (2, 4), (1, 8))

    def need(micro: int, steps: int, *, length: int) -> int:
        training = {
            "per_device_train_batch_size": micro,
            "gradient_accumulation_steps": steps,
            "max_seq_length": length,
            "optim": "adamw_8bit",
        }
        return total(stage(model={"lora": None}, training=training))

    for length in (576, 2048):
        whole, *others = (need(micro, steps, length=length) for micro, steps in splits)
        assert whole < others[0]
        assert others == sorted(others, reverse=True)
    assert need(1, 8, length=576) > need(8, 1, length=576) + gradients // 4


def test_rows_sampled_at_once_take_memory_and_those_of_the_step_their_pictures() -> None:
    training = {"per_device_train_batch_size": 1, "gradient_accumulation_steps": 32}

    def sampling(rows: Any) -> Peak:
        settings = stage("grpo", training=training, options={"generation_micro_batch_size": rows})
        shape = longest(settings)
        assert shape is not None
        found = phases(settings, sizes(), shape)
        return next(one for one in found if one.phase == "sampling")

    whole, half, more = sampling("auto"), sampling(16), sampling(64)
    assert more == whole
    assert half.parts["batch"] == whole.parts["batch"]
    assert half.parts["weights"] == whole.parts["weights"]
    assert half.parts["cache"] * 2 == whole.parts["cache"]
    assert half.total < whole.total


def test_the_evaluation_of_a_merged_model_is_predicted_and_it_has_no_checkpoints() -> None:
    data = DataSettings(format="jsonl", path="rows.jsonl")
    asked = EvaluationSettings(data=data, batch_size=8)
    merged = stage("merge", evaluation=asked, model={"quantization": "nf4"})
    needs = plugins.stage("merge").estimate(merged)
    assert needs.evaluation is not None
    assert needs.vram is not None
    assert needs.evaluation.parts["weights"] == needs.vram.parts["weights"]
    assert not {"adapters", "optimizer", "dequantized weight"} & set(needs.evaluation.parts)
    smaller = dataclasses.replace(asked, batch_size=1)
    less = plugins.stage("merge").estimate(dataclasses.replace(merged, evaluation=smaller))
    assert less.evaluation is not None
    assert less.evaluation.total < needs.evaluation.total
    assert plugins.stage("merge").estimate(stage("merge")).evaluation is None
    assert needs.checkpoint == 0
