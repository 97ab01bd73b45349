"""Whether the pictures of a row leave room for its text, from the settings and the pictures' headers alone.

What is found here is certain: the text is counted as the shortest there is. `training.lengths` counts it, once the
tokenizer is here.
"""

from __future__ import annotations

from collections.abc import Iterator

from qvl_run.contract import DataError, Example, Finding
from qvl_run.settings import ModelSettings, StageSettings
from qvl_trl import images
from qvl_trl.models.architecture import KNOWN

OWN = (64, 16384)
"""Bounds of a picture's tokens that the published models bring themselves: 65,536 to 16,777,216 pixels
(preprocessor_config.json of Qwen3-VL)."""
TEMPLATE = 8
"""Tokens of the chat template around a question, and those beside each picture."""
AROUND = 2
TEXT = 128
"""Tokens of question and answer that advice leaves room for."""


def check_budget(settings: StageSettings, *, room: int) -> Iterator[Finding]:
    """That the largest picture which the settings name fits as `check_pictures` asks: rows may have smaller ones."""
    limit, bounds = settings.training.max_seq_length, settings.model.image_tokens
    if limit is None or bounds is None or not _spare(limit, room, count=1) < bounds[1] < limit:
        return
    yield Finding(
        "model.image_tokens training.max_seq_length",
        f"a picture of {bounds[1]} tokens leaves no room for {_beside(room)} in a max_seq_length of {limit}: "
        "a row with one is refused",
        _advice(bounds[1], 1, bounds, limit=limit, room=max(room, TEXT)),
        severity="warning",
    )


def check_pictures(settings: StageSettings, example: Example, *, room: int) -> Iterator[DataError]:
    """That the pictures of `example` do not fit `max_seq_length` beside a question of one token and `room` more."""
    limit, bounds = settings.training.max_seq_length, bounds_of(settings.model)
    if limit is None or bounds is None:
        return
    most, count = bounds[1], len(example.images)
    spare = _spare(limit, room, count=count)
    if count * most <= spare:
        return
    sizes = (images.size(image, source=example.source) for image in example.images)
    counted = sum(images.tokens(*size, bounds=bounds) for size in sizes)
    if counted <= spare:
        return
    pictures = "its picture leaves" if count == 1 else f"its {count} pictures leave"
    whose = f"for the {counted} tokens of this row's {'picture' if count == 1 else 'pictures'}"
    advice = _advice(counted, count, bounds, limit=limit, room=max(room, TEXT))
    yield DataError(  # the row's own numbers are in the hint: rows alike must have equal messages
        f"{pictures} no room for {_beside(room)} in a max_seq_length of {limit}",
        source=example.source,
        hint=f"{advice} {whose}",
    )


def _spare(limit: int, room: int, *, count: int) -> int:
    """Tokens that are left to `count` pictures."""
    return limit - room - TEMPLATE - AROUND * count - 1


def _beside(room: int) -> str:
    return "its text" if room == 1 else f"its text and a completion of {room} tokens"


def bounds_of(model: ModelSettings) -> tuple[int, int] | None:
    """The least and the most tokens of a picture; None where they are not known before the model is here."""
    return model.image_tokens or (OWN if model.name in KNOWN else None)


def _advice(counted: int, count: int, bounds: tuple[int, int], *, limit: int, room: int) -> str:
    """For a row of `count` pictures of `counted` tokens together. The bound of a picture serves all rows like it."""
    text = room + TEMPLATE + AROUND * count + (TEXT if room > TEXT else 0)
    fitting = (limit - text) // count // 16 * 16
    longer = f"a max_seq_length of {-(-(counted + text) // 64) * 64}"
    if fitting < 16:
        return f"set {longer}"
    return f"set image_tokens: [{min(bounds[0], fitting)}, {fitting}], or {longer}"
