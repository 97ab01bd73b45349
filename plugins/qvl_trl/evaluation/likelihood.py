"""How likely a model finds completions that are given: the loss of SFT, the preferences of DPO.

Batches are laid out by TRL's own collators, so that what is measured is what is trained on.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from peft import PeftModel
from torch import Tensor

from qvl_run.contract import Example, StageContext
from qvl_trl.evaluation.batches import batches
from qvl_trl.policy.load import Policy
from qvl_trl.rows import to_row

AT_ONCE = 256
"""Tokens whose logits are in memory at once."""


def loss(ctx: StageContext, policy: Policy, examples: Sequence[Example]) -> float:
    """Mean negative log-probability of a token of the answers, in nats."""
    from trl.trainer.sft_trainer import DataCollatorForVisionLanguageModeling

    collate = DataCollatorForVisionLanguageModeling(
        policy.processor, max_length=ctx.settings.training.max_seq_length, completion_only_loss=True
    )
    total, tokens = 0.0, 0
    for batch in batches(ctx, examples, size=ctx.settings.training.per_device_train_batch_size):
        inputs = dict(collate([to_row(example) for example in batch]))
        scored = inputs.pop("labels") != -100
        total -= float(completion_logprobs(policy, inputs, scored).sum())
        tokens += int(scored.sum())
    return total / tokens


def preference_accuracy(ctx: StageContext, policy: Policy, examples: Sequence[Example]) -> float:
    """Share of pairs whose chosen answer has the higher log-probability, summed over its tokens."""
    from trl.trainer.dpo_trainer import DataCollatorForVisionPreference

    collate = DataCollatorForVisionPreference(
        policy.processor, max_length=ctx.settings.training.max_seq_length
    )
    preferred = 0
    for batch in batches(ctx, examples, size=ctx.settings.training.per_device_train_batch_size):
        inputs = dict(collate([to_row(example) for example in batch]))
        scored = inputs.pop("completion_mask").bool()
        chosen, rejected = completion_logprobs(policy, inputs, scored).chunk(2)
        preferred += int((chosen > rejected).sum())
    return preferred / len(examples)


def completion_logprobs(policy: Policy, inputs: Mapping[str, Any], scored: Tensor) -> Tensor:
    """Summed log-probabilities in nats, (batch,), of the tokens that `scored` (batch, length) marks.

    `inputs` are the model's keyword arguments. Only the positions before scored tokens become logits, `AT_ONCE` at a
    time: those of all words fill the memory.
    """
    device = policy.model.device
    moved = {key: value.to(device) for key, value in inputs.items()}
    base = policy.model.get_base_model() if isinstance(policy.model, PeftModel) else policy.model
    wanted = scored[:, 1:].to(device)
    with policy.inference():
        hidden = base.model(**moved, use_cache=False).last_hidden_state[:, :-1][wanted]
        targets = moved["input_ids"][:, 1:][wanted]
        found = [
            base.lm_head(some).float().log_softmax(dim=-1).gather(1, words[:, None]).squeeze(1)
            for some, words in zip(hidden.split(AT_ONCE), targets.split(AT_ONCE), strict=True)
        ]
    logprobs = torch.zeros(wanted.shape, device=device)
    logprobs[wanted] = torch.cat(found)
    return logprobs.sum(dim=1)
