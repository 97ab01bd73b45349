"""How a step's rows are split into batches changes no loss and no weight beyond rounding, also where it changes on the
way: what the runner counts on when it lets a stage go on with smaller batches after the GPU ran out of memory."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from qvl_run.settings import StageSettings
from qvl_trl.evaluation.rewards import WeightedReward
from tests.qvl_trl.conftest import GRPO, Ran, replace, scenes, stage_settings

STAGES = ("sft", "dpo", "grpo")
VARIANTS: Mapping[str, tuple[str, Mapping[str, Any]]] = {
    "sft": ("sft", {}),
    "dpo": ("dpo", {}),
    "dpo with SFT": ("dpo", {"sft_weight": 1.0}),
    "grpo": ("grpo", {}),
    "grpo by completion": ("grpo", {"loss_type": "grpo"}),
    "grpo over tokens": ("grpo", {"loss_type": "bnpo"}),
}


def settings(variant: str) -> StageSettings:
    """Four steps of 4 rows as one batch, in two epochs. In SFT and DPO an epoch's second step has only 3; in GRPO the 4
    are two completions to each of two prompts."""
    uses, options = VARIANTS[variant]
    if uses == "grpo":
        options = {**GRPO["options"], "num_generations": 2, "beta": 0.1, **options}
    return stage_settings(
        uses,
        options=options,
        data=scenes(size=5 if uses == "grpo" else 7, image_size=64),
        training={
            "num_epochs": 2,
            "per_device_train_batch_size": 4,
            "gradient_accumulation_steps": 1,
            "learning_rate": 1e-3,
            "save_steps": 1,
        },
    )


def split(settings: StageSettings, size: int, **training: Any) -> StageSettings:
    return replace(
        settings,
        per_device_train_batch_size=size,
        gradient_accumulation_steps=4 // size,
        **training,
    )


@dataclass(frozen=True)
class Run:
    ran: Ran
    completions: list[str]

    @property
    def losses(self) -> list[float]:
        return [metrics["loss"] for metrics in self.ran.ctx.metrics]

    @property
    def weights(self) -> Mapping[str, torch.Tensor]:
        found: Mapping[str, torch.Tensor] = load_file(
            self.ran.result.output / "adapter_model.safetensors"
        )
        return found


@pytest.fixture(scope="module")
def observe(run: Callable[..., Ran], sft: Ran) -> Callable[..., Run]:
    """Runs a stage to its end; DPO and GRPO start from a trained adapter."""

    def observed(settings: StageSettings, **values: Any) -> Run:
        completions: list[str] = []
        score = WeightedReward.score
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(
                WeightedReward,
                "score",
                lambda self, texts, rows: (completions.extend(texts), score(self, texts, rows))[1],
            )
            start = None if settings.uses == "sft" else sft.result.output
            return Run(run(settings, input=start, **values), completions)

    return observed


@pytest.fixture(scope="module")
def whole(observe: Callable[..., Run]) -> Callable[[str], Run]:
    """The run of a variant whose steps are one batch each."""
    done: dict[str, Run] = {}

    def unsplit(variant: str) -> Run:
        if variant not in done:
            done[variant] = observe(settings(variant))
        return done[variant]

    return unsplit


def check(found: Run, expected: Run, *, after: int = 0) -> None:
    """The steps past `after` are those of `expected`."""
    assert found.losses == pytest.approx(expected.losses[after:], rel=1e-4, abs=1e-6)
    scored = len(expected.completions) * after // 4
    assert found.completions == expected.completions[scored:]
    for name, tensor in expected.weights.items():
        # By norm: Adam divides a gradient by its size, and of one that is next to nothing rounding is a large part.
        assert (found.weights[name] - tensor).norm() < 5e-3 * tensor.norm(), name


@pytest.mark.parametrize("size", [2, 1])
@pytest.mark.parametrize("variant", VARIANTS)
def test_a_split_changes_nothing(
    variant: str, size: int, whole: Callable[[str], Run], observe: Callable[..., Run]
) -> None:
    check(observe(split(settings(variant), size)), whole(variant))


@pytest.mark.parametrize("checkpointing", [False, True], ids=["", "gradient checkpointing"])
@pytest.mark.parametrize("step", [1, 2, 3], ids=["partial step", "epoch's end", "later epoch"])
@pytest.mark.parametrize("uses", STAGES)
def test_a_split_that_changes_on_the_way_changes_nothing(
    uses: str,
    step: int,
    checkpointing: bool,
    whole: Callable[[str], Run],
    observe: Callable[..., Run],
) -> None:
    before = whole(uses)
    smaller = split(settings(uses), 1, gradient_checkpointing=checkpointing)
    folder = before.ran.ctx.checkpoints[step]
    check(observe(smaller, resume_from=folder), before, after=step)


@pytest.mark.parametrize("uses", STAGES)
def test_steps_may_grow_together_again(
    uses: str, whole: Callable[[str], Run], observe: Callable[..., Run]
) -> None:
    smaller = observe(split(settings(uses), 1))
    folder = smaller.ran.ctx.checkpoints[1]
    check(observe(settings(uses), resume_from=folder), whole(uses), after=1)


def test_steps_are_worth_comparing(whole: Callable[[str], Run]) -> None:
    """Rows differ in length, and so in weight; completions differ."""
    for variant in VARIANTS:
        losses = whole(variant).losses
        assert len(losses) == 4
        assert len(set(losses)) > 2
    assert len(set(whole("grpo").completions)) > 4
    assert whole("grpo").losses != whole("grpo by completion").losses
