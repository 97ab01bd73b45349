"""How long steps take: what is expected of a GPU, and how what was measured goes before it."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from qvl_run.checkpoints.manifest import Manifest
from qvl_run.contract import Estimate, Work
from qvl_run.hardware import PROFILES
from qvl_run.plan import pace as paces
from qvl_run.plan.pace import (
    CPU,
    DECODED,
    H100,
    H100_PUBLISHED,
    PASS,
    PUBLISHED,
    Pace,
    Timed,
    pace,
    rates,
    scaled,
    seconds,
    timed,
)
from qvl_run.plan.plan import StagePlan
from qvl_run.settings import ModelSettings, StageSettings
from qvl_run.spec.job import StageSpec

WORK = Work(flops=10**14, passes=100, decoding=0)
T4 = "Tesla T4"
FACTS: Mapping[str, Any] = {
    "gpu": T4, "work": dataclasses.asdict(WORK), "loop_seconds": 50.0, "loop_steps": 10,
}  # fmt: skip


def manifest(**facts: Any) -> Manifest:
    return Manifest(
        kind="checkpoint", stage="sft", step=10, total=20, key="k", identity={"uses": "sft"}, attempt="a", facts=facts,
        files=(),
    )  # fmt: skip


def steps_of(**changes: Any) -> Timed:
    known = {
        "stage": "sft",
        "uses": "sft",
        "key": "k",
        "gpu": T4,
        "work": WORK,
        "step": 5.0,
        "steps": 10,
    }
    return Timed(**{**known, **changes})


def of_sft(*seen: Timed, **changes: Any) -> Pace | None:
    known = {"work": WORK, "stage": "sft", "uses": "sft", "key": "k", "gpu": T4, "half": True}
    known |= changes
    return pace(known.pop("work"), **known, seen=seen)


@pytest.mark.parametrize("tier", [tier for tier in PROFILES if tier != "cpu"])
def test_something_is_known_of_every_gpu_that_has_a_profile(tier: str) -> None:
    gpu = PROFILES[tier].gpu
    assert gpu is not None
    assert rates(gpu.name) is not None


@pytest.mark.parametrize(
    "name",
    [
        None,
        "NVIDIA H100 80GB HBM3 MIG 1g.10gb",
        "NVIDIA GeForce RTX 4080",
        "NVIDIA GeForce RTX 3090 Ti",
        "NVIDIA GeForce RTX 4090 Laptop GPU",
        "NVIDIA RTX PRO 6000 Blackwell Max-Q Workstation Edition",
        "NVIDIA L40",
    ],
)
def test_of_others_nothing_is_made_up(name: str | None) -> None:
    assert rates(name) is None
    assert of_sft(gpu=name) is None


def flops_of(tier: str) -> float:
    gpu = PROFILES[tier].gpu
    assert gpu is not None
    found = rates(gpu.name)
    assert found is not None
    return found.flops


@pytest.mark.parametrize("name", PUBLISHED)
def test_a_card_lies_between_what_arithmetic_and_memory_alone_would_have_it(name: str) -> None:
    found = rates(f"NVIDIA {name}")
    assert found is not None
    shares = [one / h100 for one, h100 in zip(PUBLISHED[name], H100_PUBLISHED, strict=True)]
    assert min(shares) <= found.flops / H100.flops <= max(shares) < 1
    assert found.source.endswith("published speed, within a factor of 3")


def test_cards_stand_to_each_other_as_they_do_in_practice() -> None:
    slower = ("rtx3060-12gb", "l4", "rtx3090", "rtx4090", "a100-40gb", "h100")
    assert sorted(slower, key=flops_of) == list(slower)
    assert 1.5 < flops_of("l4") / flops_of("t4") < 4
    assert scaled(H100_PUBLISHED) == pytest.approx(H100.flops)


def test_a_step_is_arithmetic_and_starting_kernels_and_sampling() -> None:
    work = Work(flops=int(H100.flops), passes=10, decoding=100)
    assert seconds(work, H100) == pytest.approx(1 + 10 * PASS + 100 * DECODED)


@given(st.integers(0, 10**17), st.integers(0, 10**5), st.integers(0, 10**5), st.integers(1, 10**16))
def test_more_work_never_takes_less_time(flops: int, passes: int, decoding: int, more: int) -> None:
    work = Work(flops=flops, passes=passes, decoding=decoding)
    for name in ("flops", "passes", "decoding"):
        larger = dataclasses.replace(work, **{name: getattr(work, name) + more})
        assert seconds(larger, H100) >= seconds(work, H100)


def test_expected_says_where_it_comes_from_and_that_runs_correct_it() -> None:
    found = of_sft()
    assert found is not None
    known = rates(T4)
    assert known is not None
    assert (found.step, found.measured) == (seconds(WORK, known), False)
    assert "on a T4, within a factor of 3" in found.source
    assert found.source.endswith("corrected by this job's own runs")


def test_nothing_is_expected_in_single_precision_but_what_was_measured_counts() -> None:
    assert of_sft(half=False) is None
    assert of_sft(steps_of(), half=False) == of_sft(steps_of())


def test_its_own_steps_go_before_those_of_other_settings_and_those_before_other_stages() -> None:
    own, other = steps_of(step=5.0, steps=3), steps_of(key="other", step=6.0, steps=50)
    further = steps_of(stage="warm_up", step=7.0, steps=90)
    seen = (further, own, other)
    for count, step, words in (
        (3, 5.0, "measured on this GPU, over 3 steps"),
        (2, 6.0, "measured on this GPU, over 50 steps"),
        (1, 7.0, "measured on this GPU, over 90 steps of warm_up"),
    ):
        rest = sorted(seen, key=lambda one: one.step)[3 - count :]
        assert of_sft(*rest) == Pace(step=step, source=words, measured=True)


def test_of_several_the_longest_counts() -> None:
    found = of_sft(steps_of(step=9.0, steps=2), steps_of(step=5.0, steps=40), steps_of(steps=1))
    assert found is not None
    assert found.step == 5.0


@pytest.mark.parametrize("elsewhere", [{"gpu": "NVIDIA L4"}, {"gpu": None}, {"uses": "dpo"}])
def test_what_was_measured_elsewhere_or_of_another_kind_does_not_count(elsewhere: Any) -> None:
    assert of_sft(steps_of(**elsewhere)) == of_sft()


def test_with_more_to_do_what_was_measured_is_scaled() -> None:
    double = dataclasses.replace(WORK, flops=2 * WORK.flops, passes=2 * WORK.passes)
    found = of_sft(steps_of(), work=double)
    assert found is not None
    assert found.step == pytest.approx(10.0)
    unknown = of_sft(steps_of(gpu="RTX 4090"), work=double, gpu="RTX 4090")
    assert unknown is not None
    assert unknown.step == pytest.approx(10.0)


@pytest.mark.parametrize("gpu", [None, T4])
def test_more_rows_at_once_take_longer_and_more_starts_too(gpu: str | None) -> None:
    timed_one = steps_of(gpu=gpu, work=Work(flops=84 * 10**9, passes=13), step=0.08)

    def planned_for(**changes: int) -> float:
        found = of_sft(timed_one, gpu=gpu, half=False, work=Work(**changes))
        assert found is not None
        assert found.measured
        assert found.source.endswith(", scaled by the work of a step")
        return found.step

    assert (
        planned_for(flops=337 * 10**9, passes=13) > 0.08 > planned_for(flops=21 * 10**9, passes=13)
    )
    assert planned_for(flops=84 * 10**9, passes=208) > planned_for(flops=84 * 10**9, passes=52)


@pytest.mark.parametrize(
    ("flops", "passes", "measured"),
    [
        (21065523200, 13, 0.0370),
        (337048371200, 13, 0.2620),
        (84262092800, 52, 0.1303),
        (84262092800, 208, 0.3016),
    ],
)
def test_steps_measured_on_two_cores_are_met_within_a_quarter(
    flops: int, passes: int, measured: float
) -> None:
    assert seconds(Work(flops=flops, passes=passes), CPU) == pytest.approx(measured, rel=0.25)


def test_a_stage_that_cannot_tell_its_work_is_measured_all_the_same() -> None:
    found = of_sft(steps_of(work=None, gpu=None), work=None, gpu=None)
    assert found == Pace(step=5.0, source="measured without a GPU, over 10 steps", measured=True)
    assert of_sft(steps_of(work=None)) == of_sft(), "how much more there is to do is not known"
    assert of_sft(steps_of(work=Work(flops=0))) == of_sft()


def test_a_manifest_tells_its_steps() -> None:
    assert timed(manifest(**FACTS)) == steps_of()
    later = {**FACTS, "work": {"flops": 1, "tensors": 2}}
    found = timed(manifest(**later))
    assert found is not None
    assert found.work is None


@pytest.mark.parametrize(
    "changes", [{"loop_steps": 0}, {"loop_seconds": 0.0}, {"loop_steps": None}]
)
def test_a_manifest_of_no_steps_tells_nothing(changes: Mapping[str, Any]) -> None:
    assert timed(manifest(**{**FACTS, **changes})) is None
    assert timed(manifest()) is None
    assert list(paces.all_timed([None, manifest(), manifest(**FACTS)])) == [steps_of()]


def planned(**changes: Any) -> StagePlan:
    settings = StageSettings(name="sft", uses="sft", model=ModelSettings(name="none"))
    spec = StageSpec(
        name="sft", uses="sft", upstream=None, init_from=None, model={}, training=settings.training, data=None,
        eval_data=None, evaluation=None, options={},
    )  # fmt: skip
    known = {
        "spec": spec,
        "state": "run",
        "settings": settings,
        "decisions": (),
        "needs": Estimate(optimizer_steps=1),
    }
    return StagePlan(**{**known, **changes})


@given(st.floats(0.001, 1000), st.integers(0, 10**6), st.integers(0, 10**6))
def test_more_steps_never_take_less_time(step: float, few: int, more: int) -> None:
    one = Pace(step=step, source="", measured=True)
    shorter, longer = (planned(pace=one, total=count).seconds for count in (few, few + more))
    assert shorter is not None
    assert longer is not None
    assert shorter <= longer


def test_only_steps_that_are_still_to_do_count() -> None:
    one = Pace(step=2.0, source="", measured=True)
    half = planned(state="resume", manifest=manifest(), total=25, pace=one)
    assert (half.left, half.seconds) == (15, 30.0)
    done = planned(state="done", manifest=manifest(), total=10)
    assert (done.left, done.seconds) == (0, 0.0)
    assert planned(pace=one).seconds is None, "how many steps is not known"
    assert planned(total=3).seconds is None, "how long one takes is not known"
