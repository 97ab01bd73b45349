"""`Example`s as the data sets that TRL's trainers read: conversational, with images.

Images are decoded when a row is asked for, never kept. Row i of the data set is example i: exact
resumption depends on that order.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from datasets import Dataset

from qvl_run.contract import Example
from qvl_trl import images

Row = dict[str, Any]


@dataclass(frozen=True)
class _Decode:
    """The data set's transform: indices become rows. A class, so that worker processes can pickle it."""

    examples: Sequence[Example]

    def __call__(self, batch: Mapping[str, list[int]]) -> dict[str, list[Any]]:
        # GRPO asks for a prompt once for each of its generations, in one batch.
        made = {index: to_row(self.examples[index]) for index in dict.fromkeys(batch["index"])}
        rows = [made[index] for index in batch["index"]]
        return {key: [row[key] for row in rows] for key in rows[0]}


def to_dataset(examples: Sequence[Example]) -> Dataset:
    """A data set of `to_row(example)` for each of `examples`. Reading it raises DataError on a broken image."""
    return Dataset.from_dict({"index": range(len(examples))}).with_transform(_Decode(examples))


def to_row(example: Example) -> Row:
    """`example` with its images decoded, in TRL's vision form; "example" is the example itself."""
    row: Row = {
        "images": [images.decode(image, source=example.source) for image in example.images],
        "prompt": [{"role": "user", "content": example.question}],
        "example": example,
    }
    if example.answer is not None:
        row["completion"] = [{"role": "assistant", "content": example.answer}]
    if example.chosen is not None and example.rejected is not None:
        row["chosen"] = [{"role": "assistant", "content": example.chosen}]
        row["rejected"] = [{"role": "assistant", "content": example.rejected}]
    return row
