"""The modules of a dense Qwen3-VL by their names, and which of them a target of LoRA means. Pure.

A target means what PEFT takes it for (`check_target_module_exists`): the module of that very name, and all whose name
ends with it after a dot.
"""

from __future__ import annotations

from collections.abc import Iterator

from qvl_trl.models.architecture import Architecture

_LAYERS = "model.language_model.layers.N"
_BLOCKS = "model.visual.blocks.N"
_DEEPSTACK = "model.visual.deepstack_merger_list.N"
LINEAR = (
    *(f"{_LAYERS}.self_attn.{name}_proj" for name in "qkvo"),
    *(f"{_LAYERS}.mlp.{name}_proj" for name in ("gate", "up", "down")),
    *(f"{_BLOCKS}.attn.{name}" for name in ("qkv", "proj")),
    *(f"{_BLOCKS}.mlp.linear_fc{i}" for i in (1, 2)),
    *(f"model.visual.merger.linear_fc{i}" for i in (1, 2)),
    *(f"{_DEEPSTACK}.linear_fc{i}" for i in (1, 2)),
)
"""The linear layers that an adapter may be on; N stands for the number of a layer."""
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
"""Targets that mean `LINEAR`, and nothing else: what each is called last, but for one that a convolution shares."""


def meant(target: str, sizes: Architecture | None) -> Iterator[str]:
    """Those of `LINEAR` and `OTHER` that `target` means; of layers by number only those there are, where `sizes` are
    known."""
    numbers = {} if sizes is None else _numbers(sizes)
    for module in (*LINEAR, *OTHER):
        parts, wanted = module.split("."), target.split(".")
        ending = parts[-len(wanted) :]
        if len(wanted) > len(parts):
            continue
        pairs = zip(wanted, ending, strict=True)
        count = numbers.get(module.partition(".N")[0])
        if all(one == other or (other == "N" and _is_number(one, count)) for one, other in pairs):
            yield module


def _numbers(sizes: Architecture) -> dict[str, int]:
    return {
        _LAYERS.removesuffix(".N"): sizes.text.num_hidden_layers,
        _BLOCKS.removesuffix(".N"): sizes.vision.depth,
        _DEEPSTACK.removesuffix(".N"): len(sizes.vision.deepstack_visual_indexes),
    }


def _is_number(text: str, count: int | None) -> bool:
    return text.isascii() and text.isdigit() and (count is None or int(text) < count)
