"""The modules of a dense Qwen3-VL by their names, and which of them an adapter is put on. Pure."""

from __future__ import annotations

from functools import lru_cache
from typing import NamedTuple

from qvl_trl.models.architecture import Architecture
from qvl_trl.models.parts import Text, Vision

TEXT, VISION = "model.language_model.", "model.visual."
"""Where the two parts begin."""
HEAD = "lm_head"
OTHER = (
    HEAD,
    "model.language_model.embed_tokens",
    "model.visual.patch_embed.proj",
    "model.visual.pos_embed",
)
"""Modules with weights that PEFT could adapt too: the output layer, embeddings and a convolution."""
NAMES = (
    *("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"),
    *("qkv", "attn.proj", "linear_fc1", "linear_fc2"),
)
"""Targets that mean linear layers, all of them together, and nothing else."""


class Linear(NamedTuple):
    """A linear layer, by the name of its module."""

    name: str
    inputs: int
    outputs: int


def adapts(targets: tuple[str, ...] | str, name: str) -> bool:
    """Whether `targets` put an adapter on the linear layer called `name`."""
    if targets == "language":
        return name.startswith(TEXT)
    if targets == "all-linear":
        return True
    return any(means(target, name) for target in targets)


def means(target: str, name: str) -> bool:
    """Whether PEFT takes `target` for the module called `name`: the module of that very name, and all whose name ends
    with it after a dot (peft/tuners/tuners_utils.py, check_target_module_exists)."""
    return name == target or name.endswith(f".{target}")


def linears(architecture: Architecture) -> tuple[Linear, ...]:
    """Every linear layer but the output layer."""
    return text_linears(architecture.text) + vision_linears(architecture.vision)


@lru_cache
def text_linears(text: Text) -> tuple[Linear, ...]:
    """Those of the language model."""
    wide, hidden = text.intermediate_size, text.hidden_size
    queries, keys = (
        n * text.head_dim for n in (text.num_attention_heads, text.num_key_value_heads)
    )
    layer = [
        ("self_attn.q_proj", hidden, queries), ("self_attn.k_proj", hidden, keys),
        ("self_attn.v_proj", hidden, keys), ("self_attn.o_proj", queries, hidden),
        ("mlp.gate_proj", hidden, wide), ("mlp.up_proj", hidden, wide), ("mlp.down_proj", wide, hidden),
    ]  # fmt: skip
    return tuple(
        Linear(f"{TEXT}layers.{number}.{name}", ins, outs)
        for number in range(text.num_hidden_layers)
        for name, ins, outs in layer
    )


@lru_cache
def vision_linears(vision: Vision) -> tuple[Linear, ...]:
    """Those of the vision tower and its mergers."""
    own, inner, merged = vision.hidden_size, vision.intermediate_size, vision.merged_size
    block = [
        ("attn.qkv", own, 3 * own), ("attn.proj", own, own),
        ("mlp.linear_fc1", own, inner), ("mlp.linear_fc2", inner, own),
    ]  # fmt: skip
    merger = [("linear_fc1", merged, merged), ("linear_fc2", merged, vision.out_hidden_size)]
    mergers = ["merger", *(f"deepstack_merger_list.{n}" for n in range(vision.mergers - 1))]
    blocks = [
        Linear(f"{VISION}blocks.{number}.{name}", ins, outs)
        for number in range(vision.depth)
        for name, ins, outs in block
    ]
    return (
        *blocks,
        *(Linear(f"{VISION}{where}.{name}", *size) for where in mergers for name, *size in merger),
    )
