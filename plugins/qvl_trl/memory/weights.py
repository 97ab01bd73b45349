"""What is in memory whatever the batch: weights, adapters, their gradients, the optimizer's state. In bytes."""

from __future__ import annotations

from dataclasses import dataclass

from qvl_run.settings import LoraSettings, ModelSettings, StageSettings
from qvl_trl.models.architecture import Architecture
from qvl_trl.models.modules import adapts, linears, vision_linears
from qvl_trl.models.parts import Vision

NF4 = 0.5 + 1 / 64 + 4 / (64 * 256)
"""Bytes of a weight: 4 bits, a scale of 8 bits a block of 64, one of 32 bits 256 blocks (Dettmers et al. 2023,
arXiv:2305.14314, double quantization)."""


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
