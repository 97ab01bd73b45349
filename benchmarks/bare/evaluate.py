"""Accuracy, preference accuracy and mean reward of a policy on held-out rows."""

from __future__ import annotations

import argparse
import json
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from common import Qwen3VLProcessor, load_model, load_processor, read_rows
from peft import PeftModel
from PIL import Image
from torch import Tensor

BATCH = 64
NEVER = ["<|vision_start|>", "<|vision_end|>", "<|image_pad|>", "<|video_pad|>"]


@torch.inference_mode()
def accuracy(
    model: Any, processor: Qwen3VLProcessor, rows: list[dict[str, str]]
) -> dict[str, float]:
    """Greedy exact match, overall and per kind of question."""
    hits: dict[str, list[bool]] = defaultdict(list)
    for batch in _batches(rows):
        texts = _generate(model, processor, batch, do_sample=False)
        for row, text in zip(batch, texts, strict=True):
            hit = text == row["answer"]
            hits["all"].append(hit)
            hits[row["kind"]].append(hit)
    return {kind: sum(found) / len(found) for kind, found in hits.items()}


@torch.inference_mode()
def mean_reward(
    model: Any, processor: Qwen3VLProcessor, rows: list[dict[str, str]], seed: int
) -> float:
    """Mean exact match of answers sampled at temperature 1, four per question."""
    torch.manual_seed(seed)
    hits = []
    for batch in _batches(rows * 4):
        texts = _generate(
            model, processor, batch, do_sample=True, temperature=1.0, top_k=0, top_p=1.0
        )
        hits += [text == row["answer"] for row, text in zip(batch, texts, strict=True)]
    return sum(hits) / len(hits)


@torch.inference_mode()
def preference_accuracy(
    model: Any, processor: Qwen3VLProcessor, rows: list[dict[str, str]]
) -> dict[str, float]:
    """Fraction of pairs whose chosen answer has the higher log-probability (sum over its tokens).

    Overall and per kind of question.
    """
    wins: dict[str, list[bool]] = defaultdict(list)
    for batch in _batches(rows):
        chosen, rejected = (
            _log_probability(model, processor, batch, [row[key] for row in batch])
            for key in ("chosen", "rejected")
        )
        for row, win in zip(batch, (chosen > rejected).tolist(), strict=True):
            wins["all"].append(win)
            wins[row["kind"]].append(win)
    return {kind: sum(found) / len(found) for kind, found in wins.items()}


def _batches(rows: list[dict[str, str]]) -> Iterator[list[dict[str, str]]]:
    for first in range(0, len(rows), BATCH):
        yield rows[first : first + BATCH]


def _encode(processor: Qwen3VLProcessor, rows: list[dict[str, str]], answers: list[str]) -> Any:
    prefix, suffix = _chat(processor)
    return processor(
        text=[
            f"{prefix}{row['question']}{suffix}{answer}"
            for row, answer in zip(rows, answers, strict=True)
        ],
        images=[[Image.open(row["image"])] for row in rows],
        padding=True,
        padding_side="left",
        return_tensors="pt",
    )


def _chat(processor: Qwen3VLProcessor) -> tuple[str, str]:
    content = [{"type": "image"}, {"type": "text", "text": "@"}]
    text = processor.apply_chat_template(
        [{"role": "user", "content": content}], tokenize=False, add_generation_prompt=True
    )
    prefix, suffix = text.split("@")
    return prefix, suffix


def _generate(
    model: Any, processor: Qwen3VLProcessor, rows: list[dict[str, str]], **sampling: Any
) -> list[str]:
    inputs = _encode(processor, rows, [""] * len(rows))
    output = model.generate(
        **inputs,
        max_new_tokens=8,
        suppress_tokens=processor.tokenizer.convert_tokens_to_ids(NEVER),
        **sampling,
    )
    completions = output[:, inputs["input_ids"].shape[1] :]
    return [text.strip() for text in processor.batch_decode(completions, skip_special_tokens=True)]


def _log_probability(
    model: Any, processor: Qwen3VLProcessor, rows: list[dict[str, str]], answers: list[str]
) -> Tensor:
    """Of each answer with its end token, `(len(rows),)`."""
    endings = [f"{answer}<|im_end|>" for answer in answers]
    inputs = _encode(processor, rows, endings)
    ids = inputs["input_ids"]
    lengths = torch.tensor([len(processor.tokenizer(ending)["input_ids"]) for ending in endings])
    log_probs = model(**inputs).logits[:, :-1].log_softmax(-1)
    taken = log_probs.gather(-1, ids[:, 1:, None])[..., 0]
    scored = torch.arange(ids.shape[1] - 1) >= ids.shape[1] - 1 - lengths[:, None]
    return (taken * scored).sum(-1)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", required=True)
    parser.add_argument("--adapter", type=Path, help="without it, the base model is measured")
    parser.add_argument("--questions", type=Path, help="JSONL file with question and answer")
    parser.add_argument("--pairs", type=Path, help="JSONL file with chosen and rejected")
    parser.add_argument("--sampled", action="store_true", help="also the mean sampled reward")
    args = parser.parse_args()
    model = load_model(args.model)
    if args.adapter:
        model = PeftModel.from_pretrained(model, args.adapter)
    model.eval()
    processor = load_processor(args.model)
    result: dict[str, Any] = {}
    if args.questions:
        rows = read_rows(args.questions)
        result["accuracy"] = accuracy(model, processor, rows)
        if args.sampled:
            result["mean_reward"] = mean_reward(model, processor, rows, seed=0)
    if args.pairs:
        result["preference_accuracy"] = preference_accuracy(model, processor, read_rows(args.pairs))
    print(json.dumps(result))


if __name__ == "__main__":
    main()
