"""Trains the tokenizer of qvl-tiny: byte-level BPE in Qwen2's format, on the scenes' own text.

The vocabulary holds all 256 bytes, so any text is encodable; the words of the scenes are one token
each. Deterministic.
"""

from __future__ import annotations

import json
import random
from collections.abc import Iterator
from pathlib import Path

from tokenizers import Tokenizer
from tokenizers.models import BPE
from tokenizers.pre_tokenizers import ByteLevel
from tokenizers.trainers import BpeTrainer
from transformers import Qwen2Tokenizer

from qvl_trl.scenes.describe import sample_description
from qvl_trl.scenes.questions import KINDS, sample_question
from qvl_trl.scenes.scene import sample_scene

CHAT_TEMPLATE = Path(__file__).with_name("chat_template.jinja")
SPECIAL_TOKENS = (
    "<|endoftext|>",
    "<|im_start|>",
    "<|im_end|>",
    "<|vision_start|>",
    "<|vision_end|>",
    "<|image_pad|>",
    "<|video_pad|>",
)
_SCENES = 4000
_CHAT = "system\nYou are a helpful assistant. user\n assistant\n yes no Yes No"


def make_tokenizer() -> Qwen2Tokenizer:
    """Train on a fixed sample of pretraining scenes; no scene of another split is read."""
    vocab, merges = _train_bpe(list(_texts(random.Random("qvl-tiny tokenizer"))))
    tokenizer = Qwen2Tokenizer(
        vocab=vocab,
        merges=merges,
        eos_token="<|im_end|>",
        pad_token="<|endoftext|>",
        unk_token="<|endoftext|>",
        extra_special_tokens=[
            t for t in SPECIAL_TOKENS if t not in ("<|endoftext|>", "<|im_end|>")
        ],
        model_max_length=4096,
    )
    tokenizer.chat_template = CHAT_TEMPLATE.read_text()
    return tokenizer


def _texts(rng: random.Random) -> Iterator[str]:
    for i in range(_SCENES):
        prompt, description = sample_description(rng, sample_scene(rng, "pretrain"))
        _, question = sample_question(rng, KINDS[i % len(KINDS)], "pretrain")
        yield from (prompt, description, question.text, question.answer, question.wrong, _CHAT)


def _train_bpe(texts: list[str]) -> tuple[dict[str, int], list[tuple[str, str]]]:
    """Merge until every word is one token; return vocabulary (token to id) and merges."""
    shell = Qwen2Tokenizer()  # for its normalizer and pre-tokenizer: the splits of Qwen2
    bpe = Tokenizer(BPE())
    bpe.normalizer = shell.backend_tokenizer.normalizer
    bpe.pre_tokenizer = shell.backend_tokenizer.pre_tokenizer
    bpe.train_from_iterator(
        texts,
        BpeTrainer(
            vocab_size=1024,
            min_frequency=2,
            initial_alphabet=sorted(ByteLevel.alphabet()),
            show_progress=False,
        ),
    )
    model = json.loads(bpe.to_str())["model"]
    vocab = dict(model["vocab"])
    for token in SPECIAL_TOKENS:
        vocab[token] = len(vocab)
    return vocab, [tuple(merge) for merge in model["merges"]]
