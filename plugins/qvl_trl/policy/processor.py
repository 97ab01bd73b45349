"""The processor: Qwen3-VL's own, for images alone.

Always resizes with Pillow, so that a run gives the same numbers with and without torchvision (the
two backends round differently). The stock processor cannot even be built without torchvision: it
insists on a video processor, which needs it.
"""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import transformers
from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import Qwen2VLImageProcessorPil
from transformers.utils import cached_file

PIXELS_PER_TOKEN = 32 * 32
"""Patches of 16 x 16 pixels, merged 2 x 2 (transformers, qwen3_vl)."""
VIDEO_CONFIG = "video_preprocessor_config.json"


class Qwen3VLProcessor(transformers.Qwen3VLProcessor):
    """Without the video processor. The name stays: it is what `save_pretrained` writes for others to load."""

    def __init__(
        self,
        image_processor: Any = None,
        tokenizer: Any = None,
        chat_template: str | None = None,
        **kwargs: Any,  # noqa: ARG002  (a video processor's, in a saved configuration)
    ) -> None:
        super().__init__(image_processor, tokenizer, chat_template=chat_template)


def load_processor(
    source: str, *, revision: str | None, image_tokens: tuple[int, int] | None
) -> Qwen3VLProcessor:
    """The processor of the model at `source`. `image_tokens` bounds an image's tokens, (least, most)."""
    images = Qwen2VLImageProcessorPil.from_pretrained(
        source, revision=revision, trust_remote_code=False
    )
    if image_tokens is not None:
        least, most = image_tokens
        images.size = {
            "shortest_edge": least * PIXELS_PER_TOKEN,
            "longest_edge": most * PIXELS_PER_TOKEN,
        }
    processor = Qwen3VLProcessor.from_pretrained(source, revision=revision, trust_remote_code=False)
    processor.image_processor = images
    # Prompts are generated from, and GRPOTrainer lays image positions out by the tokenizer's own
    # side without setting it. The collators of the other trainers say their side themselves.
    processor.tokenizer.padding_side = "left"
    return processor


def save_processor(
    processor: Qwen3VLProcessor, folder: Path, *, source: str, revision: str | None
) -> None:
    """Write `processor` to `folder`, with the base model's video settings, which the stock processor needs."""
    processor.save_pretrained(folder)
    found = cached_file(
        source, VIDEO_CONFIG, revision=revision, _raise_exceptions_for_missing_entries=False
    )
    if found:
        shutil.copyfile(found, folder / VIDEO_CONFIG)
