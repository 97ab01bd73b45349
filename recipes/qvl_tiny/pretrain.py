"""Makes qvl-tiny: pretrains a small Qwen3-VL to describe generated scenes. See README.md.

Reads scenes of the split `pretrain` alone; no question is among the texts.
"""

from __future__ import annotations

import argparse
import math
import random
import time
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from batched import BatchedForward, patchify
from model import GRID, IMAGE_SIZE, MERGE, make_model
from save import save
from tokenizer import make_tokenizer
from torch import Tensor
from transformers import PreTrainedTokenizerBase, Qwen3VLForConditionalGeneration

from qvl_trl.scenes.describe import FORMS, Form, sample_description
from qvl_trl.scenes.draw import draw_scene
from qvl_trl.scenes.scene import sample_scene

IGNORE = -100
TEXTS_PER_SCENE = 4
SHORT = 45
_IMAGE_TOKENS = (GRID // MERGE) ** 2


@dataclass(frozen=True)
class Data:
    """Pictures and, for each, several texts. All on the CPU."""

    images: Tensor
    """uint8, (scenes, IMAGE_SIZE, IMAGE_SIZE, 3)."""
    ids: Tensor
    """int16, (scenes, TEXTS_PER_SCENE, length), padded on the right."""
    starts: Tensor
    """int16, (scenes, TEXTS_PER_SCENE): where the answer starts."""


def main() -> None:
    args = _parse_args()
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    tokenizer = make_tokenizer()
    forms = tuple(args.forms.split(","))
    started = time.monotonic()
    data = make_data(tokenizer, args.scenes, args.seed, args.workers, forms)
    print(f"{args.scenes} scenes in {time.monotonic() - started:.0f} s", flush=True)
    model = make_model(tokenizer, args.seed)
    if args.init:
        model = Qwen3VLForConditionalGeneration.from_pretrained(args.init, dtype=torch.float32)
    parameters = sum(p.numel() for p in model.parameters())
    print(f"{parameters / 1e6:.2f} M parameters, {len(tokenizer)} tokens, {device}", flush=True)
    check(model, tokenizer, data)
    train(model.to(device), tokenizer, data, device, args)
    save(model.cpu(), tokenizer, args.out)


def make_data(
    tokenizer: PreTrainedTokenizerBase,
    scenes: int,
    seed: int,
    workers: int | None,
    forms: Sequence[Form],
) -> Data:
    """Draw `scenes` scenes of the pretraining split, each with `TEXTS_PER_SCENE` descriptions."""
    chunk = 500
    jobs = [(seed, first, min(chunk, scenes - first), forms) for first in range(0, scenes, chunk)]
    with ProcessPoolExecutor(workers) as pool:
        parts = list(pool.map(_draw, jobs))
    images = torch.from_numpy(np.concatenate([images for images, _ in parts]))
    pairs = [pair for _, texts in parts for pair in texts]
    before, after = _chat(tokenizer, "@").split("@")  # rendering the template is slow
    prompts = [before + prompt + after for prompt, _ in pairs]
    answers = [f"{answer}<|im_end|>\n" for _, answer in pairs]
    prompt_ids = tokenizer(prompts)["input_ids"]
    answer_ids = tokenizer(answers)["input_ids"]
    length = max(len(p) + len(a) for p, a in zip(prompt_ids, answer_ids, strict=True))
    ids = np.full((len(pairs), length), tokenizer.pad_token_id, dtype=np.int16)
    for row, p, a in zip(ids, prompt_ids, answer_ids, strict=True):
        row[: len(p) + len(a)] = p + a
    starts = torch.tensor([len(p) for p in prompt_ids], dtype=torch.int16)
    return Data(
        images,
        torch.from_numpy(ids).view(scenes, TEXTS_PER_SCENE, length),
        starts.view(scenes, TEXTS_PER_SCENE),
    )


def _draw(job: tuple[int, int, int, Sequence[Form]]) -> tuple[np.ndarray, list[tuple[str, str]]]:
    seed, first, count, forms = job
    images = np.empty((count, IMAGE_SIZE, IMAGE_SIZE, 3), dtype=np.uint8)
    texts = []
    for i in range(count):
        rng = random.Random(f"{seed}/{first + i}")
        scene = sample_scene(rng, "pretrain")
        images[i] = np.asarray(draw_scene(scene, IMAGE_SIZE))
        texts += [sample_description(rng, scene, forms) for _ in range(TEXTS_PER_SCENE)]
    return images, texts


def _chat(tokenizer: PreTrainedTokenizerBase, prompt: str) -> str:
    content = [{"type": "image"}, {"type": "text", "text": prompt}]
    text = tokenizer.apply_chat_template(
        [{"role": "user", "content": content}], tokenize=False, add_generation_prompt=True
    )
    return text.replace("<|image_pad|>", "<|image_pad|>" * _IMAGE_TOKENS)


def make_position_ids(tokenizer: PreTrainedTokenizerBase, length: int) -> Tensor:
    """Time, height and width positions, `(3, length)`: the picture stands first in every text."""
    before = len(tokenizer(_chat(tokenizer, "").split("<|image_pad|>")[0])["input_ids"])
    n = GRID // MERGE
    rows = torch.arange(n).view(-1, 1).expand(n, n).flatten()
    columns = torch.arange(n).repeat(n)
    picture = before + torch.stack([torch.zeros_like(rows), rows, columns])
    head = torch.arange(before).expand(3, -1)
    tail = torch.arange(length - before - n * n).expand(3, -1) + before + n
    return torch.cat([head, picture, tail], dim=1)


def check(
    model: Qwen3VLForConditionalGeneration, tokenizer: PreTrainedTokenizerBase, data: Data
) -> None:
    """Assert that the batched forward gives the logits of the model's own forward."""
    ids = data.ids[:4, 0].long()
    images = data.images[:4]
    positions = make_position_ids(tokenizer, ids.shape[1])
    with torch.no_grad():
        got = BatchedForward(model)(ids, positions, images)
        want = model(
            input_ids=ids,
            pixel_values=patchify(images).flatten(0, 1),
            image_grid_thw=torch.tensor([[1, GRID, GRID]] * len(images)),
            mm_token_type_ids=(ids == model.config.image_token_id).int(),
        ).logits
    torch.testing.assert_close(got, want, atol=1e-3, rtol=1e-3)


def train(
    model: Qwen3VLForConditionalGeneration,
    tokenizer: PreTrainedTokenizerBase,
    data: Data,
    device: torch.device,
    args: argparse.Namespace,
) -> None:
    """AdamW with warm-up and cosine decay for `args.steps` steps; stops early at `args.minutes`."""
    images, ids, starts = data.images.to(device), data.ids.to(device), data.starts.to(device)
    lengths = (ids != tokenizer.pad_token_id).sum(-1)
    # Short and long texts apart: a batch is as long as its longest text.
    short = lengths <= SHORT
    buckets = [torch.nonzero(mask) for mask in (short, ~short) if mask.any()]
    shares = torch.tensor([len(bucket) for bucket in buckets], dtype=torch.float)
    positions = make_position_ids(tokenizer, ids.shape[-1]).to(device)
    forward = BatchedForward(model).to(device)
    decayed = [p for p in model.parameters() if p.ndim > 1]
    others = [p for p in model.parameters() if p.ndim <= 1]
    groups = [{"params": decayed, "weight_decay": 0.05}, {"params": others, "weight_decay": 0.0}]
    optimizer = torch.optim.AdamW(groups, lr=args.learning_rate, betas=(0.9, 0.98))
    generator = torch.Generator(device=device).manual_seed(args.seed)
    bucket_generator = torch.Generator().manual_seed(args.seed)
    order = torch.arange(ids.shape[-1], device=device)
    autocast = torch.autocast(device.type, torch.bfloat16, enabled=device.type == "cuda")
    started = time.monotonic()
    done = 0.0
    step = 0
    model.train()
    while done < 1:
        elapsed = (time.monotonic() - started) / 60
        done = max(step / args.steps, elapsed / args.minutes)
        lr = (
            args.learning_rate
            * min(1, (step + 1) / args.warmup)
            * 0.5
            * (1 + math.cos(math.pi * min(done, 1)))
        )
        for group in optimizer.param_groups:
            group["lr"] = lr
        bucket = buckets[int(torch.multinomial(shares, 1, generator=bucket_generator))]
        picked = torch.randint(len(bucket), (args.batch,), device=device, generator=generator)
        row, text = bucket[picked].unbind(-1)
        batch = ids[row, text][:, : int(lengths[row, text].max())].long()
        scored = (order[: batch.shape[1]] >= starts[row, text, None]) & (
            batch != tokenizer.pad_token_id
        )
        labels = torch.where(scored, batch, IGNORE)
        with autocast:
            logits = forward(batch, positions[:, : batch.shape[1]], images[row])
        loss = F.cross_entropy(
            logits[:, :-1].float().flatten(0, 1),
            labels[:, 1:].flatten(),
            ignore_index=IGNORE,
            label_smoothing=args.label_smoothing,
        )
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        if step % args.log_every == 0:
            print(
                f"step {step} loss {loss.item():.4f} lr {lr:.5f} minutes {elapsed:.2f}", flush=True
            )
        step += 1


def _parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--init", type=Path, help="model folder to go on from")
    parser.add_argument("--forms", default=",".join(FORMS), help="forms of description")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--scenes", type=int, default=200_000)
    parser.add_argument("--batch", type=int, default=512)
    parser.add_argument("--steps", type=int, default=12_000)
    parser.add_argument("--minutes", type=float, default=8.0)
    parser.add_argument("--learning-rate", type=float, default=2e-3)
    parser.add_argument("--label-smoothing", type=float, default=0.0)
    parser.add_argument("--warmup", type=int, default=300)
    parser.add_argument("--log-every", type=int, default=200)
    parser.add_argument("--workers", type=int, default=None)
    return parser.parse_args()


if __name__ == "__main__":
    main()
