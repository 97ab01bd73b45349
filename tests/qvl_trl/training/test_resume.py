"""A run that was interrupted and resumed ends with the weights of one that was not, bit for bit (CPU)."""

from __future__ import annotations

import shutil
from collections.abc import Callable

import pytest
import torch
from peft import get_peft_model_state_dict
from safetensors.torch import load_file

from qvl_run import plugins
from qvl_run.contract import StageStopped
from qvl_trl.policy.load import load_policy
from tests.qvl_trl.conftest import FakeContext, Ran

STAGES = ("sft", "dpo", "grpo")


def weights(ran: Ran) -> dict[str, bytes]:
    tensors = load_file(ran.result.output / "adapter_model.safetensors")
    return {name: tensor.numpy().tobytes() for name, tensor in tensors.items()}


@pytest.mark.parametrize("uses", STAGES)
@pytest.mark.parametrize("step", [2, 4, 5], ids=["first epoch", "second epoch", "last step"])
def test_resumes_exactly(
    uses: str, step: int, run: Callable[..., Ran], request: pytest.FixtureRequest
) -> None:
    whole: Ran = request.getfixturevalue(uses)
    resumed = run(
        whole.ctx.settings,
        input=whole.ctx.input,
        resume_from=whole.ctx.checkpoints[step],
        records=dict(whole.ctx.records),
    )
    assert weights(resumed) == weights(whole)
    assert resumed.result.steps == 5
    assert resumed.result.measures == whole.result.measures
    assert sorted(resumed.ctx.checkpoints) == [s for s in (2, 4, 5) if s > step]


@pytest.mark.parametrize("uses", STAGES)
def test_stops_when_asked_and_goes_on(
    uses: str,
    run: Callable[..., Ran],
    make_context: Callable[..., FakeContext],
    request: pytest.FixtureRequest,
) -> None:
    whole: Ran = request.getfixturevalue(uses)
    stopped = make_context(whole.ctx.settings, input=whole.ctx.input, stop_at=3)
    with pytest.raises(StageStopped):
        plugins.stage(uses).run(stopped)
    assert sorted(stopped.checkpoints) == [2, 3]
    resumed = run(
        whole.ctx.settings,
        input=whole.ctx.input,
        resume_from=stopped.checkpoints[3],
        records=stopped.records,
    )
    assert weights(resumed) == weights(whole)


@pytest.mark.parametrize("uses", STAGES)
def test_a_save_that_was_asked_for_changes_nothing(
    uses: str, run: Callable[..., Ran], request: pytest.FixtureRequest
) -> None:
    """Off the rhythm of `save_steps`, and on it."""
    whole: Ran = request.getfixturevalue(uses)
    asked = run(
        whole.ctx.settings,
        input=whole.ctx.input,
        save_at=frozenset({3, 4}),
        records=dict(whole.ctx.records),
    )
    assert sorted(asked.ctx.checkpoints) == [2, 3, 4, 5]
    assert weights(asked) == weights(whole)


@pytest.mark.parametrize("save_at", [frozenset({3}), frozenset()], ids=["asked for", "save_steps"])
def test_a_stop_that_came_with_a_save_needs_no_other(
    save_at: frozenset[int], sft: Ran, make_context: Callable[..., FakeContext]
) -> None:
    step = max(save_at, default=2)
    stopped = make_context(sft.ctx.settings, save_at=save_at, stop_with_save_at=step)
    with pytest.raises(StageStopped):
        plugins.stage("sft").run(stopped)
    assert max(stopped.checkpoints) == stopped.step == step


def test_what_fp16_left_is_taken_by_another_precision(run: Callable[..., Ran], sft: Ran) -> None:
    """A T4's run may go on where there is no loss to scale."""
    folder = sft.ctx.scratch / "fp16" / "checkpoint-4"
    shutil.copytree(sft.ctx.checkpoints[4], folder)
    torch.save({"scale": 65536.0, "_growth_tracker": 4}, folder / "scaler.pt")
    resumed = run(sft.ctx.settings, resume_from=folder, records=dict(sft.ctx.records))
    assert weights(resumed) == weights(sft)


@pytest.mark.parametrize("uses", STAGES)
def test_training_changes_the_weights(uses: str, request: pytest.FixtureRequest) -> None:
    """Every one of them, from those that the stage starts with."""
    whole: Ran = request.getfixturevalue(uses)
    settings = whole.ctx.settings
    start = load_policy(settings.model, start=whole.ctx.input, seed=settings.training.seed)
    before = get_peft_model_state_dict(start.model)
    after = load_file(whole.result.output / "adapter_model.safetensors")
    assert set(after) == set(before)
    for name, tensor in after.items():
        assert tensor.isfinite().all()
        assert not torch.equal(tensor, before[name]), name


@pytest.mark.parametrize("uses", ["dpo", "grpo"])
def test_checkpoints_hold_the_trained_adapter_alone(
    uses: str, request: pytest.FixtureRequest
) -> None:
    whole: Ran = request.getfixturevalue(uses)
    for folder in (*whole.ctx.checkpoints.values(), whole.result.output):
        assert (folder / "adapter_model.safetensors").is_file()
        assert not (folder / "ref").exists()
