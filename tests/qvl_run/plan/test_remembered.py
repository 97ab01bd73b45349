"""What recovery has lowered is laid over what was fitted, and its ladder begins where that ends."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from qvl_run.hardware import Machine
from qvl_run.plan.fit import fit
from qvl_run.plan.make import plan_stage
from qvl_run.plan.past import Past, look
from qvl_run.plan.places import places
from qvl_run.plan.plan import StagePlan
from qvl_run.recovery import ladder
from qvl_run.spec.job import Job
from qvl_run.spec.load import load_job
from tests.qvl_run.plan.fakes import Formula, gpu_with, needing

JOB = """
version: 1
name: demo
model: {name: qvl-tiny, image_tokens: auto, quantization: auto}
training: {max_seq_length: 1024, global_batch_size: 8, gradient_checkpointing: true%s}
stages:
  sft: {uses: sft, data: {format: spatial_scenes}}
"""
MICRO, STEPS = "training.per_device_train_batch_size", "training.gradient_accumulation_steps"
FOUR = gpu_with(8.5)
"""Four rows fit."""
Planned = Callable[..., StagePlan]


@pytest.fixture
def job(job_file: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Job:
    monkeypatch.chdir(tmp_path)
    needing(monkeypatch, Formula())
    return load_job(job_file(JOB % ""))


def planned(job: Job, machine: Machine, changes: dict[str, Any] | None = None) -> StagePlan:
    """The plan of the stage, where `changes` are remembered for a GPU of that name."""
    where, spec = places(job), job.stages[0]
    record = {
        "event": ladder.ADAPTED, "stage": spec.name, "settings": ladder.digest(spec), "gpu": "GPU", "rungs": 1,
        "changes": changes,
    }  # fmt: skip
    past: Past = replace(look(job, where), ledger=[record] if changes else [])
    return plan_stage(spec, job, machine, where, past, fits=fit(job, machine))


def split(plan: StagePlan) -> tuple[int, int]:
    training = plan.settings.training
    return training.per_device_train_batch_size, training.gradient_accumulation_steps


def test_the_ladder_begins_at_what_was_fitted(job: Job) -> None:
    plan = planned(job, FOUR)
    assert split(plan) == (4, 2)
    step = ladder.next_step(plan.spec, ["micro_batch", "image_tokens"])
    assert step is not None
    assert step.changes == {MICRO: 2, STEPS: 4}
    images = ladder.next_step(plan.spec, ["image_tokens"])
    assert images is not None
    assert images.changes == {"model.image_tokens": [64, 256]}


def test_what_is_remembered_is_laid_over_what_was_fitted(job: Job) -> None:
    plan = planned(job, FOUR, {MICRO: 2, STEPS: 4})
    assert split(plan) == (2, 4)
    assert plan.key == planned(job, FOUR).key
    assert plan.needs.vram is not None
    assert plan.needs.vram.parts["activations"] == 2 * 1024**3


def test_a_remembered_micro_batch_never_undoes_a_smaller_fit(job: Job) -> None:
    plan = planned(job, gpu_with(6.5), {MICRO: 4, STEPS: 2})
    assert split(plan) == (2, 4)
    assert plan.changes == {}


def test_an_image_budget_that_recovery_lowered_holds_on_every_machine(job: Job) -> None:
    changes = {"model.image_tokens": [64, 128]}
    here, there = planned(job, FOUR, changes), planned(job, gpu_with(50), changes)
    assert here.settings.model.image_tokens == there.settings.model.image_tokens == (64, 128)
    assert here.key == there.key != planned(job, FOUR).key


def test_a_machine_that_takes_other_values_goes_on_with_the_same_stage(job: Job) -> None:
    small, large = planned(job, gpu_with(3.4)), planned(job, gpu_with(50))
    assert (small.settings.model.quantization, large.settings.model.quantization) == ("nf4", "none")
    assert split(small) != split(large)
    assert small.key == large.key


def test_by_hand_and_auto_are_remembered_apart(job: Job, job_file: Callable[..., Path]) -> None:
    by_hand = load_job(job_file(JOB % ", per_device_train_batch_size: 1", name="other.yaml"))
    mine, theirs = job.stages[0], by_hand.stages[0]
    assert mine.training == theirs.training
    assert ladder.digest(mine) != ladder.digest(theirs)
