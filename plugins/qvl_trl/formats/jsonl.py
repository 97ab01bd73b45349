"""`jsonl`: a local file of one JSON object a line, its pictures beside it.

    {"image": "images/1.png", "question": "Where is the red circle?", "answer": "left"}
    {"image": "images/1.png", "question": "...", "chosen": "left", "rejected": "right"}

Image paths are relative to the file. Several pictures: `"image": ["1.png", "2.png"]`, or "images". Further keys
become columns that rewards can read. Blank lines do not count as rows.
"""

from __future__ import annotations

import hashlib
import json
import random
from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import lru_cache
from itertools import islice
from pathlib import Path
from typing import Any, Literal, TypeVar

from qvl_run.contract import DataError, Example, Kind
from qvl_run.settings import DataSettings
from qvl_trl import images
from qvl_trl.formats.records import Columns, to_example

T = TypeVar("T")

DIGEST_BYTES = 64 * 1024
"""How much of each end of an image goes into the fingerprint: reading all of every image is slow on
a mounted drive, and two files of one size that agree at both ends are the same picture."""


_MORE = {"image": ", or a list of several"}


def column_schema(*names: str) -> dict[str, Any]:
    """Schema properties for the columns called `names`."""
    return {
        name: {
            "title": f"Column of the {name}",
            "description": f"The key of each row that holds the {name}{_MORE.get(name, '')}.",
            "type": "string",
            "minLength": 1,
            "default": name,
            "examples": [name],
        }
        for name in names
    }


class Jsonl:
    """Rows of any kind, read in the file's order."""

    name = "jsonl"
    kinds: frozenset[Kind] = frozenset({"sft", "preference", "prompt"})
    location: Literal["file"] = "file"
    schema: Mapping[str, Any] = {
        "title": "jsonl",
        "description": "Which keys of the rows hold what.",
        "type": "object",
        "additionalProperties": False,
        "properties": column_schema("image", "question", "answer", "chosen", "rejected"),
    }

    def check(self, data: DataSettings, *, kind: Kind) -> Iterator[DataError]:
        """Every row that cannot be used."""
        return _problems(data, kind)

    def count(self, data: DataSettings) -> int | None:
        """Lines that are not blank, at most `max_samples`; None where there is no such file."""
        path = Path(str(data.path))
        try:
            stat = path.stat()
            return _count(path, stat.st_size, stat.st_mtime_ns, most=data.max_samples)
        except (OSError, ValueError):
            return None

    def fingerprint(self, data: DataSettings, *, kind: Kind) -> str:
        """A digest of the rows' text and of each picture's size and two ends. Raises DataError."""
        digest = hashlib.sha256()
        for source, line in _lines(data):
            digest.update(line + b"\n")
            for image in _example(line, data, kind=kind, source=source).images:
                digest.update(_ends(image, source=source))
        return f"sha256:{digest.hexdigest()}"

    def examples(self, data: DataSettings, *, kind: Kind, cache: Path) -> Sequence[Example]:  # noqa: ARG002
        """The rows. Raises DataError on the first that cannot be used; pictures are not opened."""
        return [_example(line, data, kind=kind, source=source) for source, line in _lines(data)]


def _problems(data: DataSettings, kind: Kind) -> Iterator[DataError]:
    empty = True
    try:
        for source, line in _lines(data):
            empty = False
            try:
                example = _example(line, data, kind=kind, source=source)
            except DataError as error:
                yield error
                continue
            for image in example.images:
                if trouble := images.problem(image):
                    yield DataError(trouble, source=source)
    except DataError as error:  # the file as a whole
        yield error
        return
    if empty:
        yield DataError("the file has no rows", source=str(data.path))


@lru_cache(maxsize=64)
def _count(path: Path, size: int, changed: int, *, most: int | None) -> int:  # noqa: ARG001
    """Rows of a file of that size, changed then: another one is counted anew. Nothing is read beyond `most` rows: on a
    mounted drive every byte is a download."""
    with path.open("rb") as file:
        return sum(1 for _ in islice((line for line in file if line.strip()), most))


def _lines(data: DataSettings) -> Iterator[tuple[str, bytes]]:
    """(`file:line`, the line) of each row, shuffled where `shuffle_seed` is set, at most `max_samples`."""
    path = Path(str(data.path))
    try:
        with path.open("rb") as file:
            numbered = enumerate(file, start=1)
            rows = ((f"{path}:{i}", line.strip()) for i, line in numbered if line.strip())
            yield from islice(_shuffled(rows, data.shuffle_seed), data.max_samples)
    except OSError as error:
        raise DataError(f"the file cannot be read: {error.strerror}", source=str(path)) from error


def _shuffled(rows: Iterable[T], seed: int | None) -> Iterable[T]:
    if seed is None:
        return rows
    found = list(rows)
    random.Random(seed).shuffle(found)
    return found


def _example(line: bytes, data: DataSettings, *, kind: Kind, source: str) -> Example:
    try:
        record = json.loads(line)
    except ValueError as error:  # also UnicodeDecodeError
        raise DataError(f"the line is not valid JSON: {error}", source=source) from error
    if not isinstance(record, dict):
        raise DataError("the line must be a JSON object", source=source)
    return to_example(
        record,
        kind=kind,
        columns=Columns(**data.options),
        source=source,
        folder=Path(str(data.path)).parent,
    )


def _ends(image: Path | bytes, *, source: str) -> bytes:
    assert isinstance(image, Path)
    try:
        with image.open("rb") as file:
            length = file.seek(0, 2)
            file.seek(0)
            head = file.read(DIGEST_BYTES)
            file.seek(max(length - DIGEST_BYTES, 0))
            return b"%d:" % length + head + file.read(DIGEST_BYTES)
    except OSError as error:
        raise DataError(
            f"the image {image} cannot be read: {error.strerror}", source=source
        ) from error


data_format = Jsonl()
