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
    values = {name: rest.pop(getattr(columns, name), None) for name in TEXTS[kind]}
    missing = [
        name
        for name, value in values.items()
        if value is None and name not in OPTIONAL.get(kind, ())
    ]
    if missing:
        names = ", ".join(f'"{getattr(columns, name)}"' for name in missing)
        raise DataError(f"the row lacks {names}", source=source)
    texts = {
        name: _text(value, name=getattr(columns, name), source=source)
        for name, value in values.items()
        if value is not None
    }
    if kind == "preference" and texts["chosen"].strip() == texts["rejected"].strip():
        raise DataError("chosen and rejected are the same", source=source)
    found = [rest.pop(key, None) for key in (columns.image, "images")]
    return Example(
        images=_images(found, folder=folder, source=source),
        question=texts["question"],
        answer=texts.get("answer"),
        chosen=texts.get("chosen"),
        rejected=texts.get("rejected"),
        source=source,
        columns=rest,
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
