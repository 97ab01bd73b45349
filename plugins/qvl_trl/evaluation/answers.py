"""Answers to the questions of examples, greedy or sampled, in batches."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from transformers import GenerationConfig

from qvl_run.contract import DataError, Example, StageContext
from qvl_run.settings import EvaluationSettings
from qvl_trl import images
from qvl_trl.evaluation.batches import batches
from qvl_trl.policy.load import Policy
from qvl_trl.policy.tokens import end_tokens, vision_tokens
from qvl_trl.rewards.text import is_correct


def need_answers(examples: Sequence[Example]) -> None:
    """Raise DataError for the first of `examples` that has no answer."""
    for example in examples:
        if example.answer is None:
            raise DataError('an evaluation row needs an "answer"', source=example.source)


def accuracy(
    ctx: StageContext, policy: Policy, examples: Sequence[Example], settings: EvaluationSettings
) -> float:
    """Share of `examples`, each with an answer, whose greedy answer is theirs, normalised."""
    right = 0
    for batch in batches(ctx, examples, size=settings.batch_size):
        given = greedy_answers(policy, batch, max_new_tokens=settings.max_new_tokens)
        right += sum(is_correct(g, str(e.answer)) for g, e in zip(given, batch, strict=True))
    return right / len(examples)


def greedy_answers(
    policy: Policy, examples: Sequence[Example], *, max_new_tokens: int
) -> list[str]:
    """The most likely answer to each question, token by token, without special tokens. One batch."""
    return _answers(policy, examples, max_new_tokens=max_new_tokens, do_sample=False)


def sampled_answers(
    policy: Policy,
    examples: Sequence[Example],
    *,
    max_new_tokens: int,
    temperature: float,
    seed: int,
) -> list[str]:
    """An answer to each question, sampled as GRPO samples. One batch. Leaves the random state as it was."""
    devices = [policy.model.device] if policy.model.device.type == "cuda" else []
    with torch.random.fork_rng(devices=devices):
        torch.manual_seed(seed)
        return _answers(
            policy,
            examples,
            max_new_tokens=max_new_tokens,
            do_sample=True,
            temperature=temperature,
            top_k=0,
            top_p=1.0,
        )


def _answers(
    policy: Policy, examples: Sequence[Example], *, max_new_tokens: int, **sampling: Any
) -> list[str]:
    processor, model = policy.processor, policy.model
    prompts = [
        processor.apply_chat_template(
            [{"role": "user", "content": _content(example)}], add_generation_prompt=True
        )
        for example in examples
    ]
    pictures = [[images.decode(i, source=e.source) for i in e.images] for e in examples]
    inputs = processor(
        text=prompts, images=pictures, padding=True, padding_side="left", return_tensors="pt"
    ).to(model.device)
    config = GenerationConfig(
        max_new_tokens=max_new_tokens,
        num_beams=1,
        use_cache=True,
        eos_token_id=end_tokens(policy),
        pad_token_id=processor.tokenizer.pad_token_id,
        suppress_tokens=vision_tokens(policy),
        **sampling,
    )
    with policy.inference():
        output = model.generate(**inputs, generation_config=config)
    given = output[:, inputs["input_ids"].shape[1] :]
    texts: list[str] = processor.batch_decode(given, skip_special_tokens=True)
    return texts


def _content(example: Example) -> list[dict[str, str]]:
    """As TRL lays a prompt out: the pictures, then the question."""
    pictures = [{"type": "image"} for _ in example.images]
    return [*pictures, {"type": "text", "text": example.question}]
