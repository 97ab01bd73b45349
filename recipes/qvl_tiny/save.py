"""Writes the model folder: what `from_pretrained` of plain transformers reads, and nothing else."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from model import MERGE, PATCH
from transformers import PreTrainedTokenizerBase, Qwen3VLForConditionalGeneration

DTYPE = torch.bfloat16
_PATCHES = {
    "patch_size": PATCH,
    "merge_size": MERGE,
    "temporal_patch_size": 2,
    "image_mean": [0.5, 0.5, 0.5],
    "image_std": [0.5, 0.5, 0.5],
}
_IMAGE = {
    **_PATCHES,
    "image_processor_type": "Qwen2VLImageProcessor",
    "processor_class": "Qwen3VLProcessor",
    # In pixels. Qwen3-VL's own smallest picture, 65536, would enlarge 96 x 96 sevenfold.
    "size": {"shortest_edge": 32 * 32, "longest_edge": 1024 * 1024},
}
# The stock processor cannot be built without a video processor.
_VIDEO = {
    **_PATCHES,
    "video_processor_type": "Qwen3VLVideoProcessor",
    "processor_class": "Qwen3VLProcessor",
    "size": {"shortest_edge": 32 * 32, "longest_edge": 1024 * 1024},
}


def save(
    model: Qwen3VLForConditionalGeneration, tokenizer: PreTrainedTokenizerBase, folder: Path
) -> None:
    """Save a 16-bit copy; `model` is converted in place."""
    folder.mkdir(parents=True, exist_ok=True)
    model.to(DTYPE).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    (folder / "model.safetensors").chmod(0o644)
    _write(folder / "preprocessor_config.json", _IMAGE)
    _write(folder / "video_preprocessor_config.json", _VIDEO)


def _write(path: Path, value: dict[str, Any]) -> None:
    path.write_text(json.dumps(value, indent=2) + "\n")
