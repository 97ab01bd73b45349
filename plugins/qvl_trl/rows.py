"""`Example`s as the data sets that TRL's trainers read: conversational, with images.

Images are decoded when a row is asked for, and kept until other rows are. Row i of the data set is example i: exact
resumption depends on that order.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from datasets import Dataset
from PIL.Image import Image

from qvl_run.contract import Example
from qvl_trl import images

Row = dict[str, Any]


@dataclass(frozen=True)
class _Decode:
    """The data set's transform: indices become rows. A class, so that worker processes can pickle it."""

    examples: Sequence[Example]
    decoded: dict[int, list[Image]] = field(default_factory=dict)
    """Of the rows asked for last: GRPO asks for a prompt once for each of its generations, and for the same batch
    once for each accumulation step."""

    def __call__(self, batch: Mapping[str, list[int]]) -> dict[str, list[Any]]:
        before = dict(self.decoded)
        self.decoded.clear()
        rows = []
        for index in batch["index"]:
            example = self.examples[index]
            if index not in self.decoded:
                self.decoded[index] = before.get(index) or decode(example)
            rows.append(to_row(example, self.decoded[index]))
        return {key: [row[key] for row in rows] for key in rows[0]}


def to_dataset(examples: Sequence[Example]) -> Dataset:
    """A data set of `to_row(example)` for each of `examples`. Reading it raises DataError on a broken image."""
    return Dataset.from_dict({"index": range(len(examples))}).with_transform(_Decode(examples))


def decode(example: Example) -> list[Image]:
    """The pictures of `example`. Raises DataError."""
    return [images.decode(image, source=example.source) for image in example.images]


def to_row(example: Example, pictures: Sequence[Image] | None = None) -> Row:
    """`example` in TRL's vision form, with `pictures`, its images decoded; "example" is the example itself."""
    row: Row = {
        "images": list(decode(example) if pictures is None else pictures),
        "prompt": [{"role": "user", "content": example.question}],
        "example": example,
    }
    if example.answer is not None:
        row["completion"] = [{"role": "assistant", "content": example.answer}]
    if example.chosen is not None and example.rejected is not None:
        row["chosen"] = [{"role": "assistant", "content": example.chosen}]
        row["rejected"] = [{"role": "assistant", "content": example.rejected}]
    return row
