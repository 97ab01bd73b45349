from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from qvl_run import plugins
from qvl_run.contract import Example
from qvl_trl.evaluation.answers import greedy_answers
from qvl_trl.evaluation.likelihood import completion_logprobs
from qvl_trl.policy.load import Policy, load_policy
from qvl_trl.policy.tokens import vision_tokens
from tests.qvl_trl.conftest import scenes, stage_settings


@pytest.fixture(scope="module")
def policy() -> Policy:
    return load_policy(stage_settings("sft").model, start=None, seed=0)


@pytest.fixture(scope="module")
def rows(cache: Path) -> Sequence[Example]:
    return plugins.data_format("spatial_scenes").examples(
        scenes(split="test", size=4, task="describe"), kind="sft", cache=cache
    )


def test_answers_do_not_depend_on_the_batch(policy: Policy, rows: Sequence[Example]) -> None:
    """Left padding: rows of different length, together and alone."""
    together = greedy_answers(policy, rows, max_new_tokens=8)
    alone = [greedy_answers(policy, [row], max_new_tokens=8)[0] for row in rows]
    assert len({len(row.question) for row in rows}) > 1
    assert together == alone
    assert all(together)


def test_answers_hold_no_vision_token(policy: Policy, rows: Sequence[Example]) -> None:
    """Even where the model wants one at every position."""
    expected = greedy_answers(policy, rows, max_new_tokens=8)

    def prefer_vision_tokens(_module: Any, _inputs: Any, output: Any) -> None:
        output.logits[..., vision_tokens(policy)] += 1e4

    handle = policy.model.get_base_model().register_forward_hook(prefer_vision_tokens)
    try:
        assert greedy_answers(policy, rows, max_new_tokens=8) == expected
    finally:
        handle.remove()


def test_inference_leaves_the_model_as_it_was(policy: Policy, rows: Sequence[Example]) -> None:
    policy.model.train()
    greedy_answers(policy, rows[:1], max_new_tokens=1)
    assert policy.model.training


def test_log_probabilities_do_not_depend_on_the_padding(
    policy: Policy, rows: Sequence[Example]
) -> None:
    import torch
    from trl.trainer.sft_trainer import DataCollatorForVisionLanguageModeling

    from qvl_trl.rows import to_row

    collate = DataCollatorForVisionLanguageModeling(policy.processor, completion_only_loss=True)

    def logprobs(examples: Sequence[Example]) -> torch.Tensor:
        inputs = dict(collate([to_row(example) for example in examples]))
        scored = inputs.pop("labels") != -100
        return completion_logprobs(policy, inputs, scored)

    alone = torch.cat([logprobs([row]) for row in rows])
    torch.testing.assert_close(logprobs(rows), alone, rtol=1e-4, atol=1e-4)


def test_log_probabilities_are_those_of_the_whole_forward(
    policy: Policy, rows: Sequence[Example]
) -> None:
    import torch
    from trl.trainer.sft_trainer import DataCollatorForVisionLanguageModeling

    from qvl_trl.rows import to_row

    collate = DataCollatorForVisionLanguageModeling(policy.processor, completion_only_loss=True)
    inputs = dict(collate([to_row(rows[0])]))
    with policy.inference():
        loss = policy.model(**inputs).loss
    scored = inputs.pop("labels") != -100
    found = -completion_logprobs(policy, inputs, scored).sum() / scored.sum()
    torch.testing.assert_close(found, loss, rtol=1e-5, atol=1e-5)
