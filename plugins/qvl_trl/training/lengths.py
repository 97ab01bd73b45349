"""Rows against `max_seq_length`, before training starts.

TRL cuts a row that is too long at its end. That shortens an answer, as asked; cutting into the
image tokens of a prompt breaks the model instead. So a row whose prompt leaves no room is refused
here, with all numbers, and TRL's cut then only ever meets answers.
"""

from __future__ import annotations

from collections.abc import Sequence

from qvl_run.contract import DataError, Example, StageContext
from qvl_trl import images
from qvl_trl.policy.processor import Qwen3VLProcessor

TELL = 200
"""Rows between two reports: from a mounted drive a picture's header may take 50 ms."""


def check_lengths(
    ctx: StageContext,
    examples: Sequence[Example],
    processor: Qwen3VLProcessor,
    *,
    limit: int,
    room: int,
) -> None:
    """Raise DataError for the first row whose prompt and `room` more tokens exceed `limit`."""
    for number, example in enumerate(examples):
        if number % TELL == 0:
            ctx.progress("load")
        length = prompt_tokens(example, processor)
        if length + room > limit:
            raise DataError(
                f"the prompt has {length} tokens, which leaves no room for {room} more within"
                f" max_seq_length {limit}: raise it, or lower model.image_tokens",
                source=example.source,
            )


def prompt_tokens(example: Example, processor: Qwen3VLProcessor) -> int:
    """Tokens of the prompt, its pictures' included. Reads the pictures' headers, not their pixels."""
    pictures = [{"type": "image"} for _ in example.images]
    text = processor.apply_chat_template(
        [{"role": "user", "content": [*pictures, {"type": "text", "text": example.question}]}],
        add_generation_prompt=True,
    )
    words = len(processor.tokenizer(text)["input_ids"]) - len(pictures)
    return words + sum(
        _image_tokens(image, processor, source=example.source) for image in example.images
    )


def _image_tokens(image: images.Encoded, processor: Qwen3VLProcessor, *, source: str) -> int:
    width, height = images.size(image, source=source)
    patches = processor.image_processor.get_number_of_image_patches(height, width, {})
    return int(patches // processor.image_processor.merge_size**2)
