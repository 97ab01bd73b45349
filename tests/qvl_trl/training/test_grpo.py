from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import GenerationConfig

from qvl_run import plugins
from qvl_trl import images
from qvl_trl.policy.load import Policy, load_policy
from qvl_trl.policy.tokens import vision_tokens
from qvl_trl.rows import to_dataset
from qvl_trl.training.grpo import EpochSampler, Grpo
from tests.qvl_trl.conftest import GRPO, FakeContext, stage_settings

UNIFORM = 1e6
"""A temperature at which every token is as likely as any other."""


@pytest.fixture(scope="module")
def sample(
    make_context: Callable[..., FakeContext], cache: Path
) -> Callable[[dict[str, Any]], tuple[Policy, torch.Tensor]]:
    """Tokens that GRPO's own generation settings, changed as told, sample from a flat distribution."""
    settings = stage_settings("grpo", **GRPO)
    policy = load_policy(settings.model, start=None, seed=0)
    rows = plugins.data_format("spatial_scenes").examples(GRPO["data"], kind="prompt", cache=cache)
    trainer, _ = Grpo().trainer(make_context(settings), policy, to_dataset(rows))
    prompt = policy.processor(text=["<|im_start|>user\n"] * 32, padding=True, return_tensors="pt")

    def generate(changes: dict[str, Any]) -> tuple[Policy, torch.Tensor]:
        torch.manual_seed(0)
        config = GenerationConfig(
            **{
                **trainer.generation_config.to_diff_dict(),
                "temperature": UNIFORM,
                "max_new_tokens": 32,
                "eos_token_id": None,
                **changes,
            }
        )
        with policy.inference():
            output = policy.model.generate(**prompt, generation_config=config)
        return policy, output[:, prompt["input_ids"].shape[1] :]

    return generate


def test_sampling_never_gives_vision_tokens(sample: Callable[..., Any]) -> None:
    policy, tokens = sample({})
    assert not torch.isin(tokens, torch.tensor(vision_tokens(policy))).any()


def test_they_would_come_if_they_were_not_suppressed(sample: Callable[..., Any]) -> None:
    """Also with what TRL itself suppresses, which is the image token alone."""
    policy, tokens = sample({"suppress_tokens": [policy_image_token(sample)]})
    assert torch.isin(tokens, torch.tensor(vision_tokens(policy))).any()


def policy_image_token(sample: Callable[..., Any]) -> int:
    policy, _ = sample({"max_new_tokens": 1})
    return int(policy.model.config.image_token_id)


def test_the_sampler_gives_every_epoch_the_order_that_trls_has() -> None:
    from trl.trainer.utils import RepeatSampler

    trl, ours = (
        kind(range(6), mini_repeat_count=2, seed=3) for kind in (RepeatSampler, EpochSampler)
    )
    epochs = [list(trl) for _ in range(3)]
    assert epochs[0] != epochs[1]
    for epoch in (2, 0, 1):
        ours.set_epoch(epoch)
        assert list(ours) == epochs[epoch]


def test_a_picture_is_decoded_once_for_all_batches_of_a_step(
    cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """TRL's loader asks for the whole step's rows once for each of its batches."""
    rows = plugins.data_format("spatial_scenes").examples(GRPO["data"], kind="prompt", cache=cache)
    decode, decoded = images.decode, []
    monkeypatch.setattr(
        images,
        "decode",
        lambda image, *, source: (decoded.append(source), decode(image, source=source))[1],
    )
    dataset = to_dataset(rows)
    for _ in range(3):
        batch = dataset[[0, 0, 1, 1]]
        assert [example.source for example in batch["example"]] == [
            rows[index].source for index in (0, 0, 1, 1)
        ]
        batch["images"][0].clear()  # what a trainer does to a row is gone with it
    assert all(dataset[[0, 0]]["images"])
    assert decoded == [rows[0].source, rows[1].source]
    dataset[[2]]
    dataset[[0]]
    assert len(decoded) == 4
