"""A Qwen3-VL of the 2B's sizes with random weights, made where it is needed: nothing is downloaded."""

from __future__ import annotations

from pathlib import Path

from qvl_trl.models.random_weights import random_folder

NAME = "random:Qwen/Qwen3-VL-2B-Instruct"


def build(folder: Path) -> Path:
    """Write the model below `folder`, about 4.3 GB in bf16, and return its own folder."""
    return random_folder(NAME, cache=folder)
