"""What is in memory whatever the batch: weights, adapters, their gradients, the optimizer's state. In bytes."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import NamedTuple

from qvl_run.settings import LoraSettings, ModelSettings, StageSettings
from qvl_trl.models.architecture import Architecture
from qvl_trl.models.parts import Text, Vision

NF4 = 0.5 + 1 / 64 + 4 / (64 * 256)
"""Bytes of a weight: 4 bits, a scale of 8 bits a block of 64, one of 32 bits 256 blocks (Dettmers et al. 2023,
arXiv:2305.14314, double quantization)."""
TEXT, VISION = "model.language_model.", "model.visual."
"""Where the two parts begin, in the names of transformers' modules."""


class Linear(NamedTuple):
    """A linear layer, by the name of its module."""

    name: str
    inputs: int
    outputs: int


@dataclass(frozen=True, kw_only=True)
class Numbers:
    """How numbers are held. `compute` is the bytes of one in a matrix product, `residual` of one between the layers,
    `weight` of one in a base weight that is no linear layer's."""

    compute: int
    residual: int
    weight: int

    @property
    def mixed(self) -> bool:
        """Whether autocast casts what goes into a matrix product."""
        return self.compute != 4


def numbers(model: ModelSettings) -> Numbers:
    """Of a policy as `qvl_trl.policy.load` loads it."""
    half = model.precision != "fp32"
    if model.lora is None or model.quantization != "none":
        return Numbers(compute=2 if half else 4, residual=4, weight=4)
    size = 2 if half else 4
    return Numbers(compute=size, residual=size, weight=size)


def base(architecture: Architecture, model: ModelSettings) -> int:
    """The base model's weights. Quantized are the linear layers of both parts, but for the output layer."""
    held = numbers(model)
    if model.quantization == "none":
        return architecture.parameters * held.weight
    text, vision = architecture.text, architecture.vision
    rows = _rows(architecture)
    linear = (
        text.num_hidden_layers * text.layer_linear
        + vision.depth * vision.block_linear
        + vision.mergers * vision.merger_linear
    )
    each = NF4 if model.quantization == "nf4" else 1.0
    scales = 4 * rows if model.quantization == "int8" else 0
    return round(linear * each) + scales + (architecture.parameters - linear) * held.weight


def trained(architecture: Architecture, lora: LoraSettings | None) -> int:
    """Parameters that are trained."""
    if lora is None:
        return architecture.parameters
    return lora.r * sum(
        one.inputs + one.outputs
        for one in linears(architecture)
        if adapts(lora.target_modules, one.name)
    )


def trains_vision(vision: Vision, lora: LoraSettings | None) -> bool:
    """Whether any weight of the vision tower is trained, or an adapter on it."""
    return lora is None or any(
        adapts(lora.target_modules, one.name) for one in vision_linears(vision)
    )


def adapts(targets: tuple[str, ...] | str, name: str) -> bool:
    """Whether `targets` put an adapter on the linear layer called `name`, as PEFT matches them
    (peft/tuners/tuners_utils.py, check_target_module_exists): a name's end, from a dot on."""
    if targets == "language":
        return name.startswith(TEXT)
    if targets == "all-linear":
        return True
    return any(name == target or name.endswith(f".{target}") for target in targets)


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


def optimizer(architecture: Architecture, settings: StageSettings) -> int:
    """The state of Adam: two numbers a parameter, in 32 bits or in 8 with a scale a block of 256; those of embeddings
    stay in 32 (transformers' Trainer registers them so)."""
    count = trained(architecture, settings.model.lora)
    if settings.training.optim != "adamw_8bit":
        return 8 * count
    whole = architecture.text.embedding if settings.model.lora is None else 0
    return round((count - whole) * 2 * (1 + 4 / 256)) + 8 * whole


def _rows(architecture: Architecture) -> int:
    return sum(one.outputs for one in linears(architecture))
