"""After an out-of-memory, a stage is made smaller as what it is predicted to need says."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from qvl_run.hardware import Machine
from qvl_run.recovery.failure import Failure
from qvl_run.run.stage import StageRun
from qvl_run.spec.load import load_job
from tests.qvl_run.plan.fakes import Formula, gpu_with, needing

JOB = """
version: 1
name: demo
model: {name: qvl-tiny}
training: {max_seq_length: 1024, per_device_train_batch_size: 8, gradient_accumulation_steps: 1}
stages:
  sft:
    uses: sft
    data: {format: spatial_scenes}
    eval_data: {format: spatial_scenes, with: {seed: 5}}
evaluation: {batch_size: 1, data: {format: spatial_scenes, with: {seed: 5}}}
"""
LONG = """
version: 1
name: demo
model: {name: qvl-tiny}
training: {max_seq_length: 1024, per_device_train_batch_size: 4, gradient_accumulation_steps: 1}
stages:
  grpo:
    uses: grpo
    data: {format: spatial_scenes}
    with: {num_generations: 4, max_completion_length: 600, rewards: [exact_answer]}
recovery: {rules: [{on: [oom], adapt: [max_seq_length]}]}
"""
MICRO = "training.per_device_train_batch_size"


@pytest.mark.parametrize(
    ("section", "gpu", "micro"),
    [
        # 8 rows need 12 GiB; between two batches of 4 lie 5 GiB of gradients, which makes 13; 4 batches of 2 need 11.
        ("step", 14, 2),
        # Held-out rows are scored where there are no gradients.
        ("eval", 14, 4),
        # Where there is no GPU nothing is predicted: the next rung it is.
        ("step", None, 4),
    ],
)
def test_a_split_that_needs_more_where_it_failed_is_passed_over(
    section: str,
    gpu: float | None,
    micro: int,
    job_file: Callable[..., Path],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    needing(monkeypatch, Formula(gradients=5.0, held_out=1.0))
    job = load_job(job_file(JOB))
    session: Any = SimpleNamespace(
        machine=gpu_with(gpu) if gpu else Machine(gpu=None, ram=1, cores=1), job=job, failures={}
    )
    failure = Failure(failure="oom", message="out of memory", guessed=False, section=section)
    (spec,) = job.stages
    step = StageRun(session=session, spec=spec, upstream=None)._rung(spec, failure)
    assert step is not None
    assert step.changes[MICRO] == micro


def test_a_row_is_made_no_shorter_than_its_completion_needs(
    job_file: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    needing(monkeypatch, Formula())
    job = load_job(job_file(LONG))
    session: Any = SimpleNamespace(machine=gpu_with(3), job=job, failures={})
    failure = Failure(failure="oom", message="out of memory", section="step")
    (spec,) = job.stages
    run = StageRun(session=session, spec=spec, upstream=None)
    assert run._rung(spec, failure) is None
    shorter = replace(spec, options={**spec.options, "max_completion_length": 100})
    step = run._rung(shorter, failure)
    assert step is not None
    assert step.changes == {"training.max_seq_length": 512}
