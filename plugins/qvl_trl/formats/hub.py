"""`hub`: any data set of the hub, or a local folder or Parquet file, its columns named in `with:`."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, Literal

from qvl_run.contract import DataError, Example, Kind
from qvl_run.settings import DataSettings
from qvl_trl.formats import hub_rows
from qvl_trl.formats.jsonl import column_schema
from qvl_trl.formats.records import Columns, to_example

PLACEHOLDER = "<image>"
"""Marks a picture's place in the texts of many data sets; the chat template sets its own."""


class Hub:
    """Rows of any kind; for SFT and prompts also from a column of chat messages."""

    name = "hub"
    kinds: frozenset[Kind] = frozenset({"sft", "preference", "prompt"})
    location: Literal["hub"] = "hub"
    schema: Mapping[str, Any] = {
        "title": "hub",
        "description": "Which columns of the data set hold what.",
        "type": "object",
        "additionalProperties": False,
        "properties": {
            **column_schema("image", "question", "answer", "chosen", "rejected"),
            "messages": {
                "title": "Column of the messages",
                "description": "A column of chat messages (role, content) to take question and answer from: "
                "the user's first message and the assistant's after it. null: the columns above.",
                "type": ["string", "null"],
                "minLength": 1,
                "default": None,
                "examples": ["messages"],
            },
            "instruction": {
                "title": "Instruction",
                "description": "Appended to every question on a line of its own, to ask for a form of answer.",
                "type": ["string", "null"],
                "minLength": 1,
                "default": None,
                "examples": ["Answer with one word."],
            },
        },
    }

    def check(self, data: DataSettings, *, kind: Kind) -> Iterator[DataError]:  # noqa: ARG002
        """Nothing can be said without the network."""
        return iter(())

    def count(self, data: DataSettings) -> int | None:  # noqa: ARG002
        """Not known without the network."""
        return None

    def fingerprint(self, data: DataSettings, *, kind: Kind) -> str:  # noqa: ARG002
        """See `hub_rows.fingerprint`."""
        return hub_rows.fingerprint(data)

    def examples(self, data: DataSettings, *, kind: Kind, cache: Path) -> Sequence[Example]:
        """The rows, converted when asked for. Raises StageError; reading a bad row raises DataError."""
        options = dict(data.options)
        convert = partial(
            _example,
            kind=kind,
            messages=options.pop("messages", None),
            instruction=options.pop("instruction", None),
            columns=Columns(**options),
            folder=Path(str(data.path)) if Path(str(data.path)).is_dir() else None,
        )
        records = hub_rows.load_records(data, cache=cache)
        return hub_rows.HubRows(records=records, name=str(data.path), convert=convert)


def _example(
    record: Mapping[str, Any],
    source: str,
    *,
    kind: Kind,
    messages: str | None,
    instruction: str | None,
    columns: Columns,
    folder: Path | None,
) -> Example:
    if messages is not None:
        rest = {key: value for key, value in record.items() if key != messages}
        question, answer = _turns(record.get(messages), name=messages, source=source)
        record = {**rest, columns.question: question, columns.answer: answer}
    example = to_example(record, kind=kind, columns=columns, source=source, folder=folder)
    if instruction is None:
        return example
    return dataclasses.replace(example, question=f"{example.question}\n{instruction}")


def _turns(messages: Any, *, name: str, source: str) -> tuple[str, str]:
    turns = [m for m in messages or () if m.get("role") != "system"]
    if [m.get("role") for m in turns[:2]] != ["user", "assistant"]:
        raise DataError(
            f'"{name}" must begin with a message of the user and one of the assistant',
            source=source,
        )
    question, answer = (_plain(m.get("content")) for m in turns[:2])
    return question, answer


def _plain(content: Any) -> str:
    if isinstance(content, str):
        return content.replace(PLACEHOLDER, "").strip()
    texts = [part.get("text") or "" for part in content or () if part.get("type") == "text"]
    return _plain("\n".join(texts))


data_format = Hub()
