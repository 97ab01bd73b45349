"""Less memory, rung by rung: it ends, the global batch stays, and what is remembered holds where it should."""

import random
from dataclasses import replace
from pathlib import Path
from typing import Any, get_args

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from qvl_run.plan import identity
from qvl_run.recovery import ladder
from qvl_run.recovery.rules import NEUTRAL, Rung
from qvl_run.settings import DataSettings, EvaluationSettings, TrainingSettings
from qvl_run.spec.job import StageSpec
from qvl_run.spec.load import load_job

RUNGS: tuple[Rung, ...] = get_args(Rung)
MODEL: dict[str, Any] = {"name": "qvl-tiny", "image_tokens": [16, 1000]}
Record = dict[str, Any]


EVALUATION = EvaluationSettings(data=DataSettings(format="spatial_scenes"), batch_size=16)


def stage(
    name: str = "sft",
    *,
    upstream: str | None = None,
    model: dict[str, Any] = MODEL,
    **training: Any,
) -> StageSpec:
    return StageSpec(
        name=name,
        uses="sft",
        upstream=upstream,
        init_from=None,
        model=model,
        training=TrainingSettings(**training),
        data=None,
        eval_data=None,
        evaluation=EVALUATION,
        options={},
    )


def climb(
    spec: StageSpec, allowed: tuple[Rung, ...], *, section: str = "eval"
) -> list[tuple[ladder.Step, StageSpec]]:
    """All rungs from `spec`, each with what it leads to."""
    found = []
    while (step := ladder.next_step(spec, allowed, section=section)) is not None:
        spec = ladder.apply(spec, step.changes)
        found.append((step, spec))
        assert len(found) < 100, "it does not end"
    return found


def record(spec: StageSpec, changes: ladder.Changes, *, rungs: int, gpu: str = "T4") -> Record:
    return {
        "event": ladder.ADAPTED,
        "stage": spec.name,
        "settings": ladder.digest(spec),
        "gpu": gpu,
        "rungs": rungs,
        "changes": dict(changes),
    }


@settings(max_examples=200, deadline=None, derandomize=True, database=None)
@given(st.integers(1, 300), st.integers(1, 300))
def test_the_micro_batch_shrinks_down_to_one_and_the_global_batch_stays(
    micro: int, accumulation: int
) -> None:
    spec = stage(per_device_train_batch_size=micro, gradient_accumulation_steps=accumulation)
    for step, after in climb(spec, ("micro_batch",)):
        smaller = after.training.per_device_train_batch_size
        assert smaller <= micro // 2
        assert smaller * after.training.gradient_accumulation_steps == (
            spec.training.per_device_train_batch_size * spec.training.gradient_accumulation_steps
        )
        assert f"micro-batch {micro} -> {smaller}," in step.text
        micro = smaller
    assert micro == 1


@pytest.mark.parametrize(
    ("micro", "accumulation", "all_micro"),
    [(1, 8, []), (7, 1, [1]), (6, 1, [3, 1]), (9, 2, [3, 1]), (12, 1, [6, 3, 1]), (7, 2, [2, 1])],
)
def test_odd_and_prime_batches_are_divided_evenly(
    micro: int, accumulation: int, all_micro: list[int]
) -> None:
    spec = stage(per_device_train_batch_size=micro, gradient_accumulation_steps=accumulation)
    found = [s.training.per_device_train_batch_size for _, s in climb(spec, ("micro_batch",))]
    assert found == all_micro


@settings(max_examples=100, deadline=None, derandomize=True, database=None)
@given(
    st.permutations(RUNGS).flatmap(lambda order: st.integers(0, 6).map(lambda n: tuple(order[:n]))),
    st.integers(1, 64),
    st.booleans(),
    st.integers(0, 4),
    st.none() | st.integers(64, 9000),
    st.none() | st.tuples(st.integers(4, 700), st.integers(4, 2000)).map(sorted),
    st.sampled_from([None, {}, {"r": 1}, {"r": 64, "alpha": 128}, {"alpha": 1}]),
)
def test_only_what_is_named_is_changed_in_the_order_in_which_it_is_named(
    allowed: tuple[Rung, ...],
    micro: int,
    checkpointing: bool,
    workers: int,
    length: int | None,
    images: list[int] | None,
    lora: dict[str, Any] | None,
) -> None:
    spec = stage(
        model={"name": "qvl-tiny", "image_tokens": images, "lora": lora},
        per_device_train_batch_size=micro,
        gradient_checkpointing=checkpointing,
        dataloader_num_workers=workers,
        max_seq_length=length,
    )
    before = spec
    for step, after in climb(spec, allowed):
        assert after != before
        # What is named first is used up first.
        for earlier in allowed[: allowed.index(step.rung)]:
            assert ladder.next_step(before, [earlier], section="eval") is None
        assert ladder.changes_result(step.changes) == (step.rung not in NEUTRAL)
        assert ("this changes the result" in step.text) == (step.rung not in NEUTRAL)
        most = after.model["image_tokens"]
        if step.rung == "image_tokens":
            assert most[1] < before.model["image_tokens"][1]
            assert most[1] >= max(ladder.LEAST_IMAGE_TOKENS, most[0])
        if step.rung == "max_seq_length":
            assert after.training.max_seq_length is not None
            assert after.training.max_seq_length >= ladder.SHORTEST
            assert not most or after.training.max_seq_length > most[1]
        if step.rung == "lora_rank":
            assert after.model["lora"]["r"] >= ladder.LEAST_RANK
            assert after.model["lora"]["alpha"] >= 1
        before = after


@pytest.mark.parametrize(
    ("length", "most", "lengths"),
    [
        (4096, 1000, [2048, 1256]),
        (4096, 100, [2048, 1024, 512]),
        (1100, 1000, []),
        (600, 16, [512]),
    ],
)
def test_a_shorter_sequence_leaves_room_for_an_image(
    length: int, most: int, lengths: list[int]
) -> None:
    spec = stage(model=MODEL | {"image_tokens": [4, most]}, max_seq_length=length)
    assert [s.training.max_seq_length for _, s in climb(spec, ("max_seq_length",))] == lengths


def test_the_scale_of_lora_stays() -> None:
    spec = stage(model={"name": "qvl-tiny", "lora": {"r": 32, "alpha": 64, "dropout": 0.1}})
    ranks = [s.model["lora"] for _, s in climb(spec, ("lora_rank",))]
    assert ranks == [{"r": r, "alpha": 2 * r, "dropout": 0.1} for r in (16, 8, 4)]


def test_no_rank_is_lowered_where_there_is_none_or_where_it_is_given() -> None:
    full = stage(model={"name": "qvl-tiny", "lora": None})
    after_sft = stage("dpo", upstream="sft")
    from_folder = replace(stage(), init_from=Path("/adapter"))
    for spec in (full, after_sft, from_folder):
        assert ladder.next_step(spec, ["lora_rank"]) is None
    assert ladder.next_step(stage(), ["lora_rank"]) is not None


@pytest.fixture(scope="module")
def real(tmp_path_factory: pytest.TempPathFactory) -> StageSpec:
    path = tmp_path_factory.mktemp("job") / "job.yaml"
    path.write_text("""
version: 1
name: demo
model: {name: qvl-tiny, image_tokens: [16, 1000]}
training:
  {per_device_train_batch_size: 12, gradient_checkpointing: false, max_seq_length: 4096, dataloader_num_workers: 2}
evaluation: {data: {format: spatial_scenes}}
stages:
  sft: {uses: sft, data: {format: spatial_scenes}}
""")
    return load_job(path).stages[0]


@pytest.mark.parametrize("rung", RUNGS)
def test_neutral_rungs_leave_the_identity_and_others_change_it(real: StageSpec, rung: Rung) -> None:
    def key(spec: StageSpec) -> str:
        return identity.key(identity.identity(spec, upstream=None, init_from=None))

    step = ladder.next_step(real, [rung], section="eval")
    assert step is not None
    assert ladder.changes_result(step.changes) == (rung not in NEUTRAL)
    after = ladder.apply(real, step.changes)
    assert after != real
    assert (key(after) == key(real)) == (rung in NEUTRAL)


def test_what_leaves_the_result_holds_for_this_gpu_and_the_rest_everywhere() -> None:
    spec = stage(per_device_train_batch_size=4)
    changes = {
        "training.per_device_train_batch_size": 2,
        "training.gradient_accumulation_steps": 16,
        "training.gradient_checkpointing": True,
        "training.dataloader_num_workers": 0,
        "evaluation.batch_size": 4,
        "training.max_seq_length": 512,
        "model.image_tokens": [16, 500],
        "model.lora.r": 8,
    }
    records = [record(spec, changes, rungs=5)]
    assert ladder.remembered(records, [spec], "sft", gpu="T4") == changes
    everywhere = dict(list(changes.items())[-3:])
    assert ladder.remembered(records, [spec], "sft", gpu="L4") == everywhere


@pytest.mark.parametrize(
    "change",
    [
        {"per_device_train_batch_size": 8},
        {"gradient_accumulation_steps": 4},
        {"gradient_checkpointing": False},
        {"max_seq_length": 900},
        {"optim": "adamw_8bit"},
    ],
)
def test_a_change_of_the_job_in_what_memory_depends_on_forgets(change: dict[str, Any]) -> None:
    spec = stage(per_device_train_batch_size=4)
    records = [record(spec, {"training.max_seq_length": 512}, rungs=1)]
    changed = replace(spec, training=replace(spec.training, **change))
    assert ladder.remembered(records, [changed], "sft", gpu="T4") == {}
    other = replace(spec, training=replace(spec.training, learning_rate=1.0))
    assert ladder.remembered(records, [other], "sft", gpu="T4") != {}


def test_a_change_of_the_jobs_evaluation_forgets_too() -> None:
    spec = stage()
    records = [record(spec, {"evaluation.batch_size": 8}, rungs=1)]
    assert ladder.remembered(records, [spec], "sft", gpu="T4") == {"evaluation.batch_size": 8}
    for size in (2, 32):
        changed = replace(spec, evaluation=replace(EVALUATION, batch_size=size))
        assert ladder.remembered(records, [changed], "sft", gpu="T4") == {}


def test_the_batch_of_an_evaluation_is_halved_where_that_is_what_failed() -> None:
    sizes = [s.evaluation.batch_size for _, s in climb(stage(), ("eval_batch",)) if s.evaluation]
    assert sizes == [8, 4, 2, 1]
    assert climb(stage(), ("eval_batch",), section="step") == []
    assert climb(replace(stage(), evaluation=None), ("eval_batch",)) == []


def test_a_lowered_rank_holds_for_all_that_go_on_with_the_adapter_and_nothing_else_does() -> None:
    sft = stage(per_device_train_batch_size=4)
    dpo, grpo = stage("dpo", upstream="sft"), stage("grpo", upstream="dpo")
    other = stage("other")
    line = [sft, dpo, grpo, other]
    changes = {"model.lora.r": 8, "model.lora.alpha": 16, "training.max_seq_length": 512}
    records = [record(sft, changes, rungs=3)]
    rank = {"model.lora.r": 8, "model.lora.alpha": 16}
    for name, expected in (("sft", changes), ("dpo", rank), ("grpo", rank), ("other", {})):
        for gpu in ("T4", "L4"):
            assert ladder.remembered(records, line, name, gpu=gpu) == expected


def test_an_inherited_rank_is_forgotten_with_the_stage_that_it_is_of() -> None:
    sft, dpo = stage(), stage("dpo", upstream="sft")
    # The record of a later stage holds all that it was changed in, the rank too.
    records = [
        record(sft, {"model.lora.r": 8}, rungs=1),
        record(dpo, {"model.lora.r": 8, "training.max_seq_length": 512}, rungs=1),
    ]
    changed = replace(sft, training=replace(sft.training, gradient_accumulation_steps=2))
    assert ladder.remembered(records, [changed, dpo], "dpo", gpu="T4") == {
        "training.max_seq_length": 512
    }


def test_whole_climbs_on_two_machines_are_remembered_alike_in_any_order() -> None:
    spec = stage(per_device_train_batch_size=8, max_seq_length=4096)
    allowed: tuple[Rung, ...] = ("micro_batch", "image_tokens", "max_seq_length")
    records, ends = [], {}
    for gpu, count in (("T4", 6), ("L4", 5)):
        # Each machine on its own: both count from the first rung.
        changes: dict[str, Any] = {}
        for number, (step, after) in enumerate(climb(spec, allowed)[:count], start=1):
            changes = {**changes, **step.changes}
            records.append(record(spec, changes, rungs=number, gpu=gpu))
            ends[gpu] = after
    assert ladder.apply(spec, ladder.remembered(records, [spec], "sft", gpu="T4")) == ends["T4"]
    for seed in range(30):
        dice = random.Random(seed)
        story = [*records, *dice.sample(records, 4)]
        dice.shuffle(story)
        for gpu in ("T4", "L4", "A100"):
            found = ladder.remembered(story, [spec], "sft", gpu=gpu)
            assert found == ladder.remembered(records, [spec], "sft", gpu=gpu)


def test_two_machines_at_the_same_rung_with_other_changes_agree_on_one() -> None:
    spec = stage()
    one = record(spec, {"training.max_seq_length": 512}, rungs=1)
    two = record(spec, {"training.max_seq_length": 700}, rungs=1, gpu="L4")
    found = [
        ladder.remembered(story, [spec], "sft", gpu="T4") for story in ([one, two], [two, one])
    ]
    assert found[0] == found[1] != {}


def test_after_each_rung_the_next_start_goes_on_where_this_one_was() -> None:
    spec = stage(
        per_device_train_batch_size=6, gradient_checkpointing=False, dataloader_num_workers=2
    )
    changes: dict[str, Any] = {}
    records: list[Record] = []
    for number, (step, after) in enumerate(climb(spec, RUNGS), start=1):
        changes = {**changes, **step.changes}
        records.append(record(spec, changes, rungs=number))
        again = ladder.apply(spec, ladder.remembered(records, [spec], "sft", gpu="T4"))
        assert again == after
    assert len(records) > 8


def test_what_is_predicted_to_need_more_is_no_rung() -> None:
    """8 x 1 needs 8 rows; any other split the gradients too."""

    def needs(spec: StageSpec) -> int:
        training = spec.training
        gradients = 5 if training.gradient_accumulation_steps > 1 else 0
        kept = 1 if training.gradient_checkpointing else 2
        return kept * training.per_device_train_batch_size + gradients

    def taken(micro: int, **training: Any) -> list[tuple[int, bool]]:
        spec = stage(
            per_device_train_batch_size=micro,
            gradient_accumulation_steps=8 // micro,
            gradient_checkpointing=training.get("again", True),
        )
        found: list[tuple[int, bool]] = []
        rungs: tuple[Rung, ...] = ("micro_batch", "gradient_checkpointing")
        while step := ladder.next_step(spec, rungs, section="step", needs=needs):
            spec = ladder.apply(spec, step.changes)
            training_ = spec.training
            found.append((training_.per_device_train_batch_size, training_.gradient_checkpointing))
        return found

    assert taken(8) == [(2, True), (1, True)]
    assert taken(4) == [(2, True), (1, True)]
    assert taken(8, again=False) == [(4, False), (2, False), (1, False), (1, True)]

    spec = stage(per_device_train_batch_size=4, gradient_accumulation_steps=1)
    assert ladder.next_step(spec, ("micro_batch",), section="step", needs=needs) is None
    assert ladder.next_step(spec, ("micro_batch",), section="step") is not None
    level = ladder.next_step(spec, ("micro_batch",), section="step", needs=lambda _: 7)
    assert level is not None, "a peak of another moment says nothing of this one"
