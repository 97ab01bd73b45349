"""One record of a data set, as a mapping, becomes an `Example`: shared by every format of this package."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from qvl_run.contract import DataError, Example, Kind

TEXTS: Mapping[Kind, tuple[str, ...]] = {
    "sft": ("question", "answer"),
    "preference": ("question", "chosen", "rejected"),
    "prompt": ("question", "answer"),
}
"""The texts of a row of each kind."""
OPTIONAL: Mapping[Kind, frozenset[str]] = {"prompt": frozenset({"answer"})}
"""Those it may lack: a prompt's answer is read by some rewards only."""
ALIASES: Mapping[str, tuple[str, ...]] = {
    "image": ("img", "picture", "photo", "image_path", "image_file", "img_path", "file_name", "filename", "path"),
    "question": ("prompt", "instruction", "query", "problem", "input", "user", "text"),
    "answer": ("response", "output", "completion", "solution", "label", "target", "caption", "assistant", "text"),
    "chosen": ("preferred", "accepted", "positive", "better", "winner"),
    "rejected": ("dispreferred", "declined", "negative", "worse", "loser"),
}  # fmt: skip
"""What others call the parts of a row, the likeliest first, for advice."""
SHOWN = 8
"""Columns of a row that a message names."""


@dataclass(frozen=True, kw_only=True)
class Columns:
    """Where a record holds each part of a row. Raises TypeError on a name that it does not know."""

    image: str = "image"
    question: str = "question"
    answer: str = "answer"
    chosen: str = "chosen"
    rejected: str = "rejected"


def to_example(
    record: Mapping[str, Any],
    *,
    kind: Kind,
    columns: Columns,
    source: str,
    folder: Path | None = None,
) -> Example:
    """`record` as a row of `kind`; keys that such a row does not need become `Example.columns`.

    Relative image paths are taken from `folder`; without one, images must be bytes. A record may
    hold several pictures as a list under the image column or under "images". Raises DataError.
    """
    rest = dict(record)
    pictures = [rest.pop(key, None) for key in (columns.image, "images")]
    values = {name: rest.pop(getattr(columns, name), None) for name in TEXTS[kind]}
    missing = [
        name
        for name, value in values.items()
        if value is None and name not in OPTIONAL.get(kind, ())
    ]
    if all(picture is None for picture in pictures):
        missing.append("image")
    if missing:
        raise _lacking(missing, columns, record, source=source)
    texts = {
        name: _text(value, name=getattr(columns, name), source=source)
        for name, value in values.items()
        if value is not None
    }
    if kind == "preference" and texts["chosen"].strip() == texts["rejected"].strip():
        raise DataError("chosen and rejected are the same", source=source)
    return Example(
        images=_images(pictures, folder=folder, source=source),
        question=texts["question"],
        answer=texts.get("answer"),
        chosen=texts.get("chosen"),
        rejected=texts.get("rejected"),
        source=source,
        columns=rest,
    )


def _lacking(
    missing: Sequence[str], columns: Columns, record: Mapping[str, Any], *, source: str
) -> DataError:
    """That a record has nothing under the columns of these parts, and which of its own columns seem to be them: a
    column for each part, or none at all, since a row that still lacks one is of no use."""
    texts = [f'"{getattr(columns, name)}"' for name in missing if name != "image"]
    lacks = f"lacks {', '.join(texts)}" if texts else "has no image"
    shown = ", ".join(str(key)[:30] for key in list(record)[:SHOWN])
    shown += ", ..." if len(record) > SHOWN else ""
    taken = {getattr(columns, part) for part in (*ALIASES, "image") if part not in missing}
    free = {
        str(key).lower(): str(key)
        for key, value in record.items()
        if key not in taken and value is not None
    }
    pairs = {
        part: free.pop(name)
        for part in missing
        if (name := next((alias for alias in ALIASES[part] if alias in free), None))
    }
    return DataError(
        f"the row {lacks}; it has {shown or 'no columns'}",
        source=source,
        hint="set with: {" + ", ".join(f"{a}: {b}" for a, b in pairs.items()) + "}"
        if len(pairs) == len(missing)
        else "",
    )


def _text(value: Any, *, name: str, source: str) -> str:
    if isinstance(value, (int, float)) and not isinstance(value, bool):
        return str(value)
    if not isinstance(value, str):
        raise DataError(f'"{name}" must be text, not {type(value).__name__}', source=source)
    if not value.strip():
        raise DataError(f'"{name}" is empty', source=source)
    return value


def _images(found: Sequence[Any], *, folder: Path | None, source: str) -> tuple[Path | bytes, ...]:
    values = [
        value
        for entry in found
        if entry is not None
        for value in (entry if isinstance(entry, (list, tuple)) else [entry])
    ]
    if not values:
        raise DataError("the row has no image", source=source)
    return tuple(_image(value, folder=folder, source=source) for value in values)


def _image(value: Any, *, folder: Path | None, source: str) -> Path | bytes:
    if isinstance(
        value, Mapping
    ):  # how `datasets` hands out an image that it was told not to decode
        value = value.get("bytes") or value.get("path")
    if isinstance(value, bytes):
        return value
    if isinstance(value, str) and value:
        if "://" in value:
            raise DataError(
                f"the image {value} is a URL: images must be local files", source=source
            )
        path = Path(value)
        if path.is_absolute():
            return path
        if folder is not None:
            return folder / path
    raise DataError(f"an image must be a file or its bytes, not {value!r:.60}", source=source)
