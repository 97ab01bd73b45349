"""What `auto` becomes on a machine: always something that fits where anything does, the better result first."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from qvl_run.hardware import GIB, PROFILES, Machine
from qvl_run.plan import identity, vram
from qvl_run.plan.bench import Bench, filled
from qvl_run.plan.chain import BUDGETS, NO_GPU, UNKNOWN, bounds, candidates
from qvl_run.plan.fit import Fitted, divisors, fit
from qvl_run.spec.batch import MICRO, SAMPLED, STEPS
from qvl_run.spec.job import Job
from qvl_run.spec.load import load_job
from tests.qvl_run.plan.fakes import UNBOUNDED, Formula, gpu_with, needing

JOB = """
version: 1
name: demo
model: {name: qvl-tiny%s}
training: {max_seq_length: 1024%s}
stages:
  sft: {uses: sft, data: {format: spatial_scenes}%s}
  dpo: {uses: dpo, data: {format: spatial_scenes}}
"""
ALL_MODEL = ", quantization: auto, image_tokens: auto"
ALL_TRAINING = ", global_batch_size: 8, gradient_checkpointing: auto, optim: auto"
Made = Callable[..., Job]


@pytest.fixture
def made(job_file: Callable[..., Path]) -> Made:
    def make(model: str = ALL_MODEL, training: str = ALL_TRAINING, sft: str = "") -> Job:
        return load_job(job_file(JOB % (model, training, sft)))

    return make


def chosen(fitted: Fitted) -> dict[str, str]:
    return {decision.name: decision.value for decision in fitted.decisions}


def rule(fitted: Fitted, name: str) -> str:
    return next(d.rule for d in fitted.decisions if d.name == name)


def test_with_room_for_all_nothing_is_given_up(made: Made, monkeypatch: pytest.MonkeyPatch) -> None:
    needing(monkeypatch, Formula(image=0.5))
    for fitted in fit(made(), gpu_with(100)).values():
        assert chosen(fitted) == {
            "precision": "fp16",
            "attention": "sdpa",
            "quantization": "none",
            "image_tokens": "64 to 512",  # half of max_seq_length
            "gradient_checkpointing": "off",
            MICRO: "8",
            STEPS: "1",
            "optim": "adamw_torch",
        }
        assert fitted.spec.model["image_tokens"] == [64, 512]
        assert fitted.spec.training.gradient_checkpointing is False


# 4 GiB of weights, 1 a row, 3 without checkpointing, 0.25 for 256 tokens of an image: each GiB less takes one thing.
@pytest.mark.parametrize(
    ("room", "quantization", "images", "checkpointing", "micro"),
    [
        (4 + 8 * 3.5, "none", 512, "off", 8),
        (4 + 4 * 3.5, "none", 512, "off", 4),
        (4 + 3.5, "none", 512, "off", 1),
        (4 + 3.4, "none", 512, "on", 2),
        (4 + 1.5, "none", 512, "on", 1),
        (4 + 1.4, "none", 384, "on", 1),
        (4 + 1.25, "none", 256, "on", 1),
        (4 + 1.2, "nf4", 512, "off", 1),
        (1.5 + 3.4, "nf4", 512, "on", 2),
        (1.5 + 1.25, "nf4", 256, "on", 1),
        (2, "nf4", 256, "on", 1),  # nothing fits
    ],
)
def test_the_order_in_which_things_are_given_up(
    made: Made,
    monkeypatch: pytest.MonkeyPatch,
    room: float,
    quantization: str,
    images: int,
    checkpointing: str,
    micro: int,
) -> None:
    needing(monkeypatch, Formula(image=1.0))
    found = chosen(fit(made(), gpu_with(room))["sft"])
    assert found["quantization"] == quantization
    assert found["image_tokens"] == f"64 to {images}"
    assert found["gradient_checkpointing"] == checkpointing
    assert (found[MICRO], found[STEPS]) == (str(micro), str(8 // micro))


def test_a_rule_has_the_numbers_that_took_it(made: Made, monkeypatch: pytest.MonkeyPatch) -> None:
    needing(monkeypatch, Formula(weights=15.1, row=0.0))
    fitted = fit(made(), PROFILES["t4"])["sft"]
    assert rule(fitted, "quantization") == "unquantized, sft needs 15.1 GiB, 13.6 GiB are there"
    needing(monkeypatch, Formula(row=3.0))
    fitted = fit(made(), PROFILES["t4"])["sft"]
    assert rule(fitted, MICRO) == "13.0 of 13.6 GiB; 2 would need 22.0 GiB"


def test_the_reserve_leaves_a_t4_what_its_allocator_can_hold() -> None:
    gpu = PROFILES["t4"].gpu
    assert gpu is not None
    assert 13.4 * GIB < vram.room(gpu) < 14.0 * GIB


def test_a_cap_bounds_what_may_be_planned_with() -> None:
    gpu = PROFILES["a100-80gb"].gpu
    assert gpu is not None
    assert vram.room(replace(gpu, cap=8 * GIB)) == round(8 * GIB * (1 - vram.FRAGMENTED))
    assert vram.room(replace(gpu, cap=900 * GIB)) == vram.room(gpu)


def test_what_is_free_at_the_moment_decides_nothing(
    made: Made, monkeypatch: pytest.MonkeyPatch
) -> None:
    needing(monkeypatch, Formula())
    assert fit(made(), gpu_with(9, free=1)) == fit(made(), gpu_with(9))


def test_what_is_written_by_hand_stays_and_the_rest_fits_around_it(
    made: Made, monkeypatch: pytest.MonkeyPatch
) -> None:
    needing(monkeypatch, Formula())
    written = ", global_batch_size: 8, per_device_train_batch_size: 4, gradient_checkpointing: auto"
    fitted = fit(made(", quantization: auto", written), gpu_with(9))["sft"]
    assert "per_device_train_batch_size" not in chosen(fitted)
    assert fitted.spec.training.per_device_train_batch_size == 4
    assert chosen(fitted)["gradient_checkpointing"] == "on"
    assert chosen(fitted)["quantization"] == "none"
    assert chosen(fitted)[STEPS] == "2"
    nothing = fit(made("", ""), gpu_with(9))["sft"]
    assert set(chosen(nothing)) == {"precision", "attention"}
    assert nothing.spec == made("", "").stages[0]
    fixed = fit(made(", precision: fp16, attention: eager", ""), gpu_with(9))["sft"]
    assert fixed.decisions == ()


def test_a_chain_has_one_of_each_and_the_stage_that_needs_most_decides(
    made: Made, monkeypatch: pytest.MonkeyPatch
) -> None:
    needing(monkeypatch, Formula(more={"dpo": 4.0}))
    fits = fit(made(), gpu_with(8))
    assert [f.spec.model["quantization"] for f in fits.values()] == ["nf4", "nf4"]
    assert "dpo needs" in rule(fits["sft"], "quantization")
    apart = made(sft=", needs: null")
    apart = replace(apart, stages=tuple(replace(s, upstream=None) for s in apart.stages))
    fits = fit(apart, gpu_with(8))
    assert [f.spec.model["quantization"] for f in fits.values()] == ["none", "nf4"]


def test_a_stage_that_says_it_by_hand_decides_for_its_chain(
    made: Made, monkeypatch: pytest.MonkeyPatch
) -> None:
    needing(monkeypatch, Formula())
    by_hand = ", model: {quantization: nf4, image_tokens: [32, 100]}"
    fits = fit(made(sft=by_hand), gpu_with(100))
    assert fits["dpo"].spec.model["quantization"] == "nf4"
    assert fits["dpo"].spec.model["image_tokens"] == [32, 100]
    assert "quantization" not in chosen(fits["sft"])


# Beside the weights there are 8.6 GiB: for 8 rows with checkpointing, for 2 of 3 GiB without.
@pytest.mark.parametrize(
    ("without", "split", "checkpointing", "micro"),
    [
        (2.0, "global_batch_size: 8", "off", "4"),
        (3.0, "global_batch_size: 8", "on", "8"),
        (3.0, "global_batch_size: 4", "off", "2"),
        (3.0, "global_batch_size: 8, per_device_train_batch_size: 2", "off", ""),
        (9.0, "global_batch_size: 8, per_device_train_batch_size: 1", "on", ""),
    ],
)
def test_checkpointing_is_left_off_where_it_costs_at_most_half_of_the_micro_batch(
    made: Made,
    monkeypatch: pytest.MonkeyPatch,
    without: float,
    split: str,
    checkpointing: str,
    micro: str,
) -> None:
    needing(monkeypatch, Formula(without=without))
    job = made("", f", gradient_checkpointing: auto, {split}")
    found = fit(job, gpu_with(12.6))["sft"]
    assert chosen(found)["gradient_checkpointing"] == checkpointing
    assert chosen(found).get(MICRO, "") == micro
    if (without, checkpointing) == (3.0, "on"):
        assert rule(found, "gradient_checkpointing") == "micro-batch 8 fits with it, 2 without"


def test_the_stage_says_why_nothing_is_known_and_weights_are_packed_where_they_alone_are_too_large(
    made: Made, monkeypatch: pytest.MonkeyPatch
) -> None:
    needing(monkeypatch, Formula(bounded=False))
    fitted = fit(made(), gpu_with(9))["sft"]
    assert rule(fitted, "quantization") == rule(fitted, MICRO) == f"{UNKNOWN}: {UNBOUNDED}"
    assert chosen(fitted)["quantization"] == "none"
    fitted = fit(made(), gpu_with(3))["sft"]
    assert chosen(fitted)["quantization"] == "nf4"
    assert "unquantized, sft needs 4.0 GiB, 3.0 GiB are there" in rule(fitted, "quantization")


@pytest.mark.parametrize("machine", [PROFILES["cpu"], PROFILES["t4"]], ids=["cpu", "t4"])
def test_where_nothing_can_be_told_auto_is_the_default(
    made: Made, monkeypatch: pytest.MonkeyPatch, machine: Machine
) -> None:
    needing(monkeypatch, None if machine.gpu else Formula())
    why = UNKNOWN if machine.gpu else NO_GPU
    plain = made("", ", gradient_accumulation_steps: 8").stages[0]
    fitted = fit(made(), machine)["sft"]
    assert fitted.spec.training == plain.training
    assert fitted.spec.model["quantization"] == "none"
    assert fitted.spec.model["image_tokens"] is None
    for name in ("image_tokens", "gradient_checkpointing", MICRO):
        assert rule(fitted, name) == why


@pytest.mark.parametrize(
    ("tier", "lora", "optim"),
    [
        ("t4", "{r: 8}", "adamw_torch"),
        ("cpu", "{r: 8}", "adamw_torch"),
        ("t4", "null", "adamw_8bit"),
        ("h100", "null", "adamw_8bit"),
        ("cpu", "null", "adamw_torch"),
    ],
)
def test_the_optimizer_follows_what_is_trained(
    made: Made, monkeypatch: pytest.MonkeyPatch, tier: str, lora: str, optim: str
) -> None:
    needing(monkeypatch, Formula())
    fitted = fit(made(f", quantization: auto, lora: {lora}"), PROFILES[tier])["sft"]
    assert fitted.spec.training.optim == chosen(fitted)["optim"] == optim
    assert chosen(fitted)["quantization"] == "none"


def test_a_full_fine_tune_is_fitted_with_the_state_of_its_own_optimizer(
    made: Made, monkeypatch: pytest.MonkeyPatch
) -> None:
    needing(monkeypatch, Formula(state=8.0))
    fitted = fit(made(", lora: null"), gpu_with(4 + 2 + 2))["sft"]
    assert chosen(fitted)[MICRO] == "2"


def test_nf4_is_not_taken_where_it_saves_nothing(
    made: Made, monkeypatch: pytest.MonkeyPatch
) -> None:
    needing(monkeypatch, Formula(weights=4.0, packed=4.5))
    fitted = fit(made(), gpu_with(3))["sft"]
    assert chosen(fitted)["quantization"] == "none"
    assert "nf4 would need no less" in rule(fitted, "quantization")


@pytest.mark.parametrize("lora", ["{r: 8}", "null"])
def test_the_identity_is_the_same_on_every_gpu(
    made: Made, monkeypatch: pytest.MonkeyPatch, lora: str
) -> None:
    needing(monkeypatch, Formula(weights=12, image=2.0))
    job = made(f"{ALL_MODEL}, lora: {lora}")
    tiers = [tier for tier, machine in PROFILES.items() if machine.gpu or lora != "null"]
    specs = [fit(job, PROFILES[tier])["sft"].spec for tier in tiers]
    keys = {identity.key(identity.identity(spec, upstream=None, init_from=None)) for spec in specs}
    assert len(keys) == 1
    assert len({str(spec) for spec in specs}) > 1, "the machines should differ in what they take"


def test_a_full_fine_tune_on_a_cpu_is_another_stage_and_the_plan_can_say_why(
    made: Made, monkeypatch: pytest.MonkeyPatch
) -> None:
    needing(monkeypatch, Formula())
    job = made(", lora: null")
    old, new = (
        identity.identity(fit(job, PROFILES[tier])["sft"].spec, upstream=None, init_from=None)
        for tier in ("t4", "cpu")
    )
    assert list(identity.differences(old, new)) == ['training.optim: "adamw_8bit" -> "adamw_torch"']


def test_auto_and_the_same_by_hand_are_told_apart_where_the_result_differs(made: Made) -> None:
    def key(job: Job) -> str:
        spec = fit(job, PROFILES["cpu"])["sft"].spec
        return identity.key(identity.identity(spec, upstream=None, init_from=None))

    assert key(made(", quantization: auto", "")) != key(made("", ""))
    assert key(made(", image_tokens: auto", "")) != key(made("", ""))
    neutral = ", global_batch_size: 8, gradient_checkpointing: auto, optim: auto"
    assert key(made("", neutral)) == key(made("", ""))
    assert key(made("", ", global_batch_size: 16")) != key(made("", ""))


def grpo(job_file: Callable[..., Path], split: str, options: str = "") -> Job:
    return load_job(
        job_file(f"""
        version: 1
        name: demo
        model: {{name: qvl-tiny, quantization: auto, image_tokens: auto}}
        training: {{max_seq_length: 1024, {split}}}
        stages:
          grpo: {{uses: grpo, data: {{format: spatial_scenes}}, with: {{{options}}}}}
        """)
    )


# 4 GiB of weights and 1 a row, 0.5 a row that is sampled.
@pytest.mark.parametrize(
    ("room", "sampled", "why"),
    [
        (20.0, "32", "20.0 of 20.0 GiB; all of a step"),
        (19.9, "16", "12.0 of 19.9 GiB; 32 would need 20.0 GiB"),
        (9.0, "8", "8.0 of 9.0 GiB; 16 would need 12.0 GiB"),
    ],
)
def test_as_many_rows_are_sampled_at_once_as_fit_and_they_cost_nothing_else(
    job_file: Callable[..., Path],
    monkeypatch: pytest.MonkeyPatch,
    room: float,
    sampled: str,
    why: str,
) -> None:
    needing(monkeypatch, Formula(sampled=0.5))
    fitted = fit(grpo(job_file, "global_batch_size: 32"), gpu_with(room))["grpo"]
    assert chosen(fitted)[SAMPLED] == sampled == str(fitted.spec.options[SAMPLED])
    assert rule(fitted, SAMPLED) == why
    needing(monkeypatch, Formula())
    without = fit(grpo(job_file, "global_batch_size: 32"), gpu_with(room))["grpo"]
    assert {**chosen(fitted), SAMPLED: ""} == {**chosen(without), SAMPLED: ""}
    assert chosen(fitted)["quantization"] == "none"


def test_how_many_are_sampled_at_once_stays_as_written_and_is_no_part_of_the_result(
    job_file: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    needing(monkeypatch, Formula(sampled=0.5))
    split = "global_batch_size: 32"
    by_hand = fit(grpo(job_file, split, f"{SAMPLED}: 3"), gpu_with(9))["grpo"]
    assert by_hand.spec.options[SAMPLED] == 3
    assert SAMPLED not in chosen(by_hand)
    nowhere = fit(grpo(job_file, split), PROFILES["cpu"])["grpo"]
    assert (chosen(nowhere)[SAMPLED], rule(nowhere, SAMPLED)) == ("32", NO_GPU)
    found = {
        identity.key(identity.identity(one.spec, upstream=None, init_from=None))
        for one in (by_hand, nowhere, fit(grpo(job_file, split), gpu_with(9))["grpo"])
    }
    assert len(found) == 1


@pytest.mark.parametrize("room", [20.0, 9.0, 6.6])
def test_more_rows_at_once_than_fit_cost_nothing_else_where_they_are_written(
    job_file: Callable[..., Path], monkeypatch: pytest.MonkeyPatch, room: float
) -> None:
    """The stage samples fewer by itself."""
    needing(monkeypatch, Formula(sampled=0.5, image=0.5))
    split = "global_batch_size: 64, gradient_checkpointing: auto"
    by_hand = fit(grpo(job_file, split, f"{SAMPLED}: 64"), gpu_with(room))["grpo"]
    left_open = fit(grpo(job_file, split), gpu_with(room))["grpo"]
    assert by_hand.spec.options[SAMPLED] == 64
    assert by_hand.spec.training == left_open.spec.training
    assert by_hand.spec.model == left_open.spec.model
    others = [one for one in left_open.decisions if one.name != SAMPLED]
    assert list(by_hand.decisions) == others
    assert int(chosen(by_hand)[MICRO]) > 1


@pytest.mark.parametrize(
    ("length", "completion", "budgets"),
    [
        (1024, 200, (512, 384, 256)), (1024, 600, (384, 256)), (1024, 700, (256,)), (512, 256, (128,)),
        (512, 500, (256,)),
    ],
)  # fmt: skip
def test_images_leave_room_for_a_completion(
    job_file: Callable[..., Path], length: int, completion: int, budgets: tuple[int, ...]
) -> None:
    job = grpo(job_file, "global_batch_size: 8", f"max_completion_length: {completion}")
    (spec,) = job.stages
    spec = replace(spec, training=replace(spec.training, max_seq_length=length))
    assert candidates([spec]) == budgets


# 4 GiB of weights and 8 rows at 3 GiB each; in 4 bits 1.5.
@pytest.mark.parametrize(
    ("formula", "room", "value", "why"),
    [
        (
            Formula(), 8, "nf4",
            "; even with nf4, sft does not fit: it needs 25.5 GiB, 2.5 GiB with the smallest batches and gradient "
            "checkpointing",
        ),
        (
            Formula(kept_packed=4.0), 8, "nf4",
            "; even with nf4, sft does not fit: it needs 33.5 GiB, 2.5 GiB with the smallest batches and gradient "
            "checkpointing",
        ),
        (
            Formula(packed=4.0), 8, "none",
            ", but nf4 would need no less with the smallest batches and gradient checkpointing",
        ),
        (
            Formula(more={"sft": -1.0, "dpo": 30.0}, kept_packed=9.0), 27.5, "none",
            ", but fewer stages would fit with nf4",
        ),
    ],
)  # fmt: skip
def test_weights_are_packed_by_what_batches_come_to_where_those_written_are_too_large(
    made: Made, monkeypatch: pytest.MonkeyPatch, formula: Formula, room: float, value: str, why: str
) -> None:
    needing(monkeypatch, formula)
    written = ", per_device_train_batch_size: 8, gradient_accumulation_steps: 1, gradient_checkpointing: false"
    fitted = fit(made(", quantization: auto", written), gpu_with(room))["sft"]
    assert chosen(fitted)["quantization"] == value
    assert rule(fitted, "quantization").endswith(f" GiB are there{why}")


# 4 GiB of weights, 1 a row, 5 of gradients between the batches of a step.
@pytest.mark.parametrize(
    ("room", "micro", "why"),
    [
        (12.1, "8", "12.0 of 12.1 GiB; the whole global batch"),
        (11.9, "2", "11.0 of 11.9 GiB; 4 would need 13.0 GiB"),
        (9.9, "1", "does not fit: it needs 10.0 GiB, 9.9 GiB are there, and no other split needs less"),
    ],
)  # fmt: skip
def test_gradients_that_stay_between_batches_count(
    made: Made, monkeypatch: pytest.MonkeyPatch, room: float, micro: str, why: str
) -> None:
    needing(monkeypatch, Formula(gradients=5.0))
    fitted = fit(made("", ", global_batch_size: 8"), gpu_with(room))["sft"]
    assert chosen(fitted)[MICRO] == micro
    assert rule(fitted, MICRO) == why


def test_the_split_that_needs_least_is_taken_where_none_fits(
    made: Made, monkeypatch: pytest.MonkeyPatch
) -> None:
    needing(monkeypatch, Formula(gradients=9.0))
    fitted = fit(made("", ", global_batch_size: 8"), gpu_with(5))["sft"]
    assert chosen(fitted)[MICRO] == "8"
    assert rule(fitted, MICRO).startswith("does not fit: it needs 12.0 GiB, 5.0 GiB are there")


def test_weights_are_packed_where_that_makes_more_stages_fit(
    made: Made, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What one stage needs whatever its weights must not keep the other from fitting."""
    needing(monkeypatch, Formula(packed=4.1, more={"sft": -1.0, "dpo": 30.0}))
    assert chosen(fit(made(), gpu_with(3.8))["sft"])["quantization"] == "none"
    needing(monkeypatch, Formula(more={"dpo": 30.0}))
    fitted = fit(made(), gpu_with(4.5))["sft"]
    assert chosen(fitted)["quantization"] == "nf4"
    assert rule(fitted, "quantization") == (
        "unquantized, dpo needs 35.0 GiB, 4.5 GiB are there; even with nf4, dpo does not fit: it needs 32.5 GiB"
    )


def test_what_does_not_fit_is_said_not_to(made: Made, monkeypatch: pytest.MonkeyPatch) -> None:
    needing(monkeypatch, Formula(image=1.0))
    fitted = fit(made(), gpu_with(2))["sft"]
    assert rule(fitted, "image_tokens") == (
        "does not fit: even 256 tokens need 2.8 GiB, 2.0 GiB are there"
    )


@given(st.integers(1, 400))
def test_divisors(whole: int) -> None:
    assert list(divisors(whole)) == [n for n in range(whole, 0, -1) if whole % n == 0]


FORMULAS = st.builds(
    lambda weights, share, row, without, image, more, gradients: Formula(
        weights=weights, packed=weights * share, row=row, without=without, image=image, more={"dpo": more},
        gradients=gradients,
    ),
    st.floats(0.5, 20), st.floats(0.2, 1.2), st.floats(0.1, 5), st.floats(1, 6), st.floats(0, 4), st.floats(0, 5),
    st.sampled_from([0.0, 2.0, 9.0]),
)  # fmt: skip
MODELS = st.sampled_from(
    ["", ", quantization: auto", ", image_tokens: auto", ALL_MODEL, ", image_tokens: [64, 300], quantization: auto"]
)  # fmt: skip
TRAININGS = st.sampled_from(
    [
        "", ALL_TRAINING, ", per_device_train_batch_size: auto", ", global_batch_size: 12",
        ", gradient_checkpointing: auto, per_device_train_batch_size: 2",
        ", global_batch_size: 12, gradient_accumulation_steps: 3, gradient_checkpointing: auto",
        ", per_device_train_batch_size: auto, gradient_accumulation_steps: 6, gradient_checkpointing: false",
    ]
)  # fmt: skip


def choices(job: Job) -> Iterator[list[Any]]:
    """Every way of deciding what `job` leaves open, as the stages then are."""
    shared: dict[str, list[Any]] = {}
    if "model.quantization" in job.stages[0].auto:
        shared["model.quantization"] = ["none", "nf4"]
    if "model.image_tokens" in job.stages[0].auto:
        shared["model.image_tokens"] = [bounds(n) for n in candidates(job.stages)]
    for values in itertools.product(*shared.values()):
        both = [filled(spec, dict(zip(shared, values, strict=True))) for spec in job.stages]
        yield [list(own_choices(spec)) for spec in both]


def own_choices(spec: Any) -> Iterator[Any]:
    whole = spec.training.per_device_train_batch_size * spec.training.gradient_accumulation_steps
    both_open = {f"training.{MICRO}", f"training.{STEPS}"} <= spec.auto
    sizes = list(divisors(whole)) if both_open else [spec.training.per_device_train_batch_size]
    open_to = (
        [True, False]
        if "training.gradient_checkpointing" in spec.auto
        else [spec.training.gradient_checkpointing]
    )
    for size, on in itertools.product(sizes, open_to):
        split = {f"training.{MICRO}": size, f"training.{STEPS}": whole // size}
        yield filled(spec, {**split, "training.gradient_checkpointing": on})


@settings(
    max_examples=60,
    deadline=None,
    derandomize=True,
    database=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
@given(FORMULAS, MODELS, TRAININGS, st.floats(1, 60))
def test_what_is_chosen_fits_whenever_anything_does(
    made: Made, formula: Formula, model: str, training: str, room: float
) -> None:
    with pytest.MonkeyPatch.context() as patch:
        needing(patch, formula)
        job, machine = made(model, training), gpu_with(room)
        fits, bench = fit(job, machine), Bench(machine=machine)
        for written in job.stages:
            spec, asked = fits[written.name].spec, written.training
            assert (
                spec.training.per_device_train_batch_size
                * (spec.training.gradient_accumulation_steps)
                == asked.per_device_train_batch_size * asked.gradient_accumulation_steps
            )
            told = {decision.name for decision in fits[written.name].decisions}
            assert told == {
                "precision", "attention", *(path.partition(".")[2] for path in written.auto),
            }  # fmt: skip
            assert all(decision.rule for decision in fits[written.name].decisions)
            most = spec.model.get("image_tokens")
            assert most is None or most[1] in (*BUDGETS, 300)
        possible = any(
            all(any(not bench.over(spec) for spec in own) for own in stages)
            for stages in choices(job)
        )
        assert possible != any(bench.over(fitted.spec) for fitted in fits.values())
        assert fit(job, machine) == fits


def test_what_does_not_train_has_no_batch_to_decide(
    job_file: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    needing(monkeypatch, Formula())
    job = load_job(
        job_file("""
        version: 1
        name: demo
        model: {name: qvl-tiny, quantization: auto}
        training: {global_batch_size: 8, gradient_checkpointing: auto, optim: auto}
        stages:
          sft: {uses: sft, data: {format: spatial_scenes}}
          merged: {uses: merge}
          count: {uses: count, needs: null, with: {to: 3}}
        """)
    )
    fits = fit(job, gpu_with(13.6))
    told = {name: [d.name for d in fitted.decisions] for name, fitted in fits.items()}
    assert told["merged"] == ["precision", "attention", "quantization"]
    for name in ("sft", "count"):  # a stage that makes its own rows has steps, and so a batch
        assert told[name][3:] == ["gradient_checkpointing", MICRO, STEPS, "optim"]
