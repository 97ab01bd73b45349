"""How a step's rows are split into batches changes no loss and no weight beyond rounding, also where it changes on the
way: what the runner counts on when it lets a stage go on with smaller batches after the GPU ran out of memory."""

from __future__ import annotations

import functools
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
    """Four steps as one batch each, in two epochs. In SFT and DPO they have 4 rows, an epoch's second only 3; in GRPO
    they are four completions to each of two prompts."""
    uses, options = VARIANTS[variant]
    if uses == "grpo":
        options = {**GRPO["options"], **options}
    return stage_settings(
        uses,
        options=options,
        data=scenes(size=5 if uses == "grpo" else 7, image_size=64),
        training={
            "num_epochs": 2,
            "per_device_train_batch_size": 8 if uses == "grpo" else 4,
            "gradient_accumulation_steps": 1,
            "learning_rate": 1e-3,
            "save_steps": 1,
        },
    )


def split(settings: StageSettings, parts: int, **training: Any) -> StageSettings:
    """The same steps in so many batches. In four, those of GRPO are smaller than its groups."""
    size = settings.training.per_device_train_batch_size // parts
    return replace(
        settings, per_device_train_batch_size=size, gradient_accumulation_steps=parts, **training
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
def whole(observe: Callable[..., Run]) -> Callable[..., Run]:
    """The run of a variant, its steps in so many batches."""

    @functools.cache
    def uninterrupted(variant: str, parts: int = 1) -> Run:
        return observe(split(settings(variant), parts))

    return uninterrupted


def check(found: Run, expected: Run, *, after: int = 0) -> None:
    """The steps past `after` are those of `expected`."""
    assert found.losses == pytest.approx(expected.losses[after:], rel=1e-4, abs=1e-6)
    scored = len(expected.completions) * after // 4
    assert found.completions == expected.completions[scored:]
    for name, tensor in expected.weights.items():
        # By norm: Adam divides a gradient by its size, and of one that is next to nothing rounding is a large part.
        assert (found.weights[name] - tensor).norm() < 5e-3 * tensor.norm(), name


@pytest.mark.parametrize(
    ("variant", "parts"),
    [
        *((variant, parts) for variant in ("sft", "dpo", "grpo") for parts in (2, 4)),
        ("dpo with SFT", 2),
        ("grpo by completion", 4),
        ("grpo over tokens", 2),
    ],
)
def test_a_split_changes_nothing(variant: str, parts: int, whole: Callable[..., Run]) -> None:
    check(whole(variant, parts), whole(variant))


@pytest.mark.parametrize(
    ("before", "after", "step", "checkpointing"),
    [(1, 4, 1, False), (1, 2, 2, True), (2, 4, 3, True), (4, 1, 3, False)],
    ids=["partial step", "epoch's end", "later epoch", "together again"],
)
@pytest.mark.parametrize("uses", STAGES)
def test_a_split_that_changes_on_the_way_changes_nothing(
    uses: str,
    before: int,
    after: int,
    step: int,
    checkpointing: bool,
    whole: Callable[..., Run],
    observe: Callable[..., Run],
) -> None:
    changed = split(settings(uses), after, gradient_checkpointing=checkpointing)
    folder = whole(uses, before).ran.ctx.checkpoints[step]
    check(observe(changed, resume_from=folder), whole(uses), after=step)


def test_steps_are_worth_comparing(whole: Callable[..., Run]) -> None:
    """Rows differ in length, and so in weight; completions differ."""
    for variant in VARIANTS:
        losses = whole(variant).losses
        assert len(set(losses)) == len(losses) == 4
    assert len(set(whole("grpo").completions)) > 4
    assert whole("grpo").losses != whole("grpo by completion").losses
