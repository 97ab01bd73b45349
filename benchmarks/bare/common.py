"""What the three bare scripts share: arguments, processor, model, and rows as TRL's trainers want them."""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

import torch
import transformers
from datasets import Dataset, Image
from transformers import Qwen3VLForConditionalGeneration
from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import Qwen2VLImageProcessorPil

LORA = {
    "r": 16,
    "lora_alpha": 32,
    "lora_dropout": 0.0,
    "target_modules": [
        "q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj",
    ],
    "task_type": "CAUSAL_LM",
}  # fmt: skip
CPU_FLOAT32 = {"fp16": False, "bf16": False, "use_cpu": True, "gradient_checkpointing": False}


class Qwen3VLProcessor(transformers.Qwen3VLProcessor):
    """Images and text only: the stock class cannot be built without torchvision."""

    def __init__(
        self,
        image_processor: Any = None,
        tokenizer: Any = None,
        chat_template: str | None = None,
        **_: Any,
    ) -> None:
        super().__init__(image_processor, tokenizer, chat_template=chat_template)


def parse_args(description: str | None, *, adapter: bool) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("--data", type=Path, required=True, help="JSONL file with training rows")
    parser.add_argument("--model", required=True)
    if adapter:
        parser.add_argument("--adapter", type=Path, required=True, help="adapter to start from")
    parser.add_argument("--out", type=Path, required=True, help="receives the trained adapter")
    parser.add_argument("--seed", type=int, default=0)
    return parser.parse_args()


def load_model(path: str) -> Qwen3VLForConditionalGeneration:
    return Qwen3VLForConditionalGeneration.from_pretrained(path, dtype=torch.float32)


def load_processor(path: str) -> Qwen3VLProcessor:
    processor = Qwen3VLProcessor.from_pretrained(path)
    processor.image_processor = Qwen2VLImageProcessorPil.from_pretrained(path)
    return processor


def read_rows(path: Path) -> list[dict[str, str]]:
    """Rows of a JSONL file, image paths made absolute."""
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    return [{**row, "image": str(path.parent / row["image"])} for row in rows]


def make_dataset(rows: list[dict[str, Any]]) -> Dataset:
    return Dataset.from_list(rows).cast_column("image", Image())


def user(text: str) -> list[dict[str, str]]:
    return [{"role": "user", "content": text}]


def assistant(text: str) -> list[dict[str, str]]:
    return [{"role": "assistant", "content": text}]
