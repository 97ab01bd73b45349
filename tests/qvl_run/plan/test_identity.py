"""What decides a stage's result: each setting either changes its key or is known to be neutral."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from qvl_run.plan import identity
from qvl_run.settings import LoraSettings, TrainingSettings
from qvl_run.spec.job import StageSpec
from qvl_run.spec.load import load_job

JOB = """
version: 1
name: demo
model: {name: qvl-tiny}
stages:
  sft: {uses: sft, data: {format: jsonl, path: rows.jsonl}}
"""
ROW = '{"image": "a.png", "question": "q", "answer": "a"}\n'


@pytest.fixture
def stage(job_file: Callable[..., Path], tmp_path: Path) -> StageSpec:
    (tmp_path / "rows.jsonl").write_text(ROW)
    (tmp_path / "a.png").write_bytes(b"png")
    return load_job(job_file(JOB)).stages[0]


def key(stage: StageSpec, *, upstream: str | None = None) -> str:
    return identity.key(identity.identity(stage, upstream=upstream, init_from=None))


CHANGED: dict[str, Any] = {
    "num_epochs": 2.0, "max_steps": 5, "learning_rate": 2e-4, "lr_scheduler_type": "cosine", "warmup_ratio": 0.1,
    "weight_decay": 0.1, "adam_beta1": 0.8, "adam_beta2": 0.9, "max_grad_norm": 2.0, "max_seq_length": 64,
    "optim": "adamw_8bit", "seed": 1, "per_device_train_batch_size": 2, "gradient_accumulation_steps": 4,
}  # fmt: skip
NEUTRAL: dict[str, Any] = {
    "gradient_checkpointing": False, "save_steps": 7, "logging_steps": 3, "dataloader_num_workers": 2,
}  # fmt: skip


def test_every_training_setting_is_judged() -> None:
    assert {*CHANGED, *NEUTRAL} == set(TrainingSettings.__dataclass_fields__)


@pytest.mark.parametrize("name", CHANGED)
def test_what_changes_the_result_changes_the_key(stage: StageSpec, name: str) -> None:
    training = replace(stage.training, **{name: CHANGED[name]})
    assert key(replace(stage, training=training)) != key(stage)


@pytest.mark.parametrize("name", NEUTRAL)
def test_what_does_not_change_the_result_leaves_the_key(stage: StageSpec, name: str) -> None:
    training = replace(stage.training, **{name: NEUTRAL[name]})
    assert key(replace(stage, training=training)) == key(stage)


def test_how_the_global_batch_is_split_leaves_the_key(stage: StageSpec) -> None:
    split = replace(stage.training, per_device_train_batch_size=2, gradient_accumulation_steps=4)
    assert key(replace(stage, training=split)) == key(stage)


@pytest.mark.parametrize(
    "model",
    [
        {"lora": {"r": 8}},
        {"lora": None},
        {"precision": "fp16"},
        {"image_tokens": [1, 9]},
        {"quantization": "nf4"},
    ],
)
def test_the_model_changes_the_key(stage: StageSpec, model: dict[str, Any]) -> None:
    assert key(replace(stage, model={**stage.model, **model})) != key(stage)


def test_a_default_that_is_written_out_leaves_the_key(stage: StageSpec) -> None:
    written = {**stage.model, "lora": {"r": LoraSettings().r}, "attention": "auto"}
    assert key(replace(stage, model=written)) == key(stage)


def test_the_input_changes_the_key(stage: StageSpec) -> None:
    assert len({key(stage), key(stage, upstream="abc"), key(stage, upstream="abd")}) == 3


def test_other_rows_change_the_key_and_a_moved_file_does_not(
    stage: StageSpec, job_file: Callable[..., Path], tmp_path: Path
) -> None:
    before = key(stage)
    (tmp_path / "moved").mkdir()
    for name in ("rows.jsonl", "a.png"):
        (tmp_path / name).rename(tmp_path / "moved" / name)
    moved = load_job(job_file(JOB.replace("rows.jsonl", "moved/rows.jsonl"))).stages[0]
    assert key(moved) == before
    (tmp_path / "moved" / "rows.jsonl").write_text(ROW.replace('"q"', '"Q"'))
    assert key(moved) != before


def test_differences_are_told_field_by_field() -> None:
    old = {"training": {"learning_rate": 1e-4, "seed": 0}, "with": {}, "upstream": None}
    new = {"training": {"learning_rate": 2e-4, "seed": 0}, "with": {"beta": 0.1}, "upstream": None}
    assert list(identity.differences(old, new)) == [
        "training.learning_rate: 0.0001 -> 0.0002",
        "with.beta: null -> 0.1",
    ]
