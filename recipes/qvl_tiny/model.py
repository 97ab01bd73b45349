"""The architecture of qvl-tiny: Qwen3-VL with every part kept and every size cut down."""

from __future__ import annotations

import torch
from transformers import (
    PreTrainedTokenizerBase,
    Qwen3VLConfig,
    Qwen3VLForConditionalGeneration,
)

PATCH = 16
MERGE = 2
IMAGE_SIZE = 96
GRID = IMAGE_SIZE // PATCH
"""Patches a side of a pretraining picture; its position table is learnt at this size."""


def make_config(tokenizer: PreTrainedTokenizerBase) -> Qwen3VLConfig:
    """About 2 million parameters; ids of the special tokens are taken from `tokenizer`."""
    hidden = 128
    # With the usual 0.02 a model of this kind learned nothing in 220 s on two cores.
    initializer_range = 0.1
    return Qwen3VLConfig(
        text_config={
            "vocab_size": len(tokenizer),
            "hidden_size": hidden,
            "intermediate_size": 384,
            "num_hidden_layers": 5,
            "num_attention_heads": 4,
            "num_key_value_heads": 2,
            "head_dim": 32,
            "max_position_embeddings": 4096,
            "initializer_range": initializer_range,
            "rope_parameters": {
                "rope_type": "default",
                "rope_theta": 10000.0,
                "mrope_section": [6, 5, 5],
                "mrope_interleaved": True,
            },
            "bos_token_id": None,
            "eos_token_id": tokenizer.eos_token_id,
            "pad_token_id": tokenizer.pad_token_id,
            "tie_word_embeddings": True,
        },
        vision_config={
            "depth": 3,
            "hidden_size": 96,
            "intermediate_size": 256,
            "num_heads": 3,
            "patch_size": PATCH,
            "spatial_merge_size": MERGE,
            "temporal_patch_size": 2,
            "out_hidden_size": hidden,
            "num_position_embeddings": GRID**2,
            "deepstack_visual_indexes": [1],
            "initializer_range": initializer_range,
        },
        image_token_id=tokenizer.convert_tokens_to_ids("<|image_pad|>"),
        video_token_id=tokenizer.convert_tokens_to_ids("<|video_pad|>"),
        vision_start_token_id=tokenizer.convert_tokens_to_ids("<|vision_start|>"),
        vision_end_token_id=tokenizer.convert_tokens_to_ids("<|vision_end|>"),
        tie_word_embeddings=True,
    )


def make_model(tokenizer: PreTrainedTokenizerBase, seed: int) -> Qwen3VLForConditionalGeneration:
    """The model with random weights, float32."""
    torch.manual_seed(seed)
    model = Qwen3VLForConditionalGeneration(make_config(tokenizer))
    model.generation_config.eos_token_id = [tokenizer.eos_token_id, tokenizer.pad_token_id]
    model.generation_config.pad_token_id = tokenizer.pad_token_id
    return model
