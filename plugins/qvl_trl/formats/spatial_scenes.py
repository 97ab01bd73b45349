"""`spatial_scenes`: generated pictures of coloured shapes, with questions about where things are.

Needs no network and no file: rows are drawn below the run's cache and read as `jsonl`. The same
settings give the same rows; train and test share no scene.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

from qvl_run.contract import DataError, Example, Kind
from qvl_run.settings import DataSettings
from qvl_trl.formats import jsonl

TASKS: Mapping[Kind, str] = {"sft": "sft", "preference": "preference", "prompt": "prompts"}


class SpatialScenes:
    """Rows of any kind. `with.task` may ask for descriptions instead of the kind's own task."""

    name = "spatial_scenes"
    kinds: frozenset[Kind] = frozenset(TASKS)
    location: Literal["generated"] = "generated"
    schema: Mapping[str, Any] = {
        "title": "spatial_scenes",
        "description": "Which scenes to draw, and how many.",
        "type": "object",
        "additionalProperties": False,
        "properties": {
            "task": {
                "title": "Task",
                "description": "What is asked: auto takes the questions that suit the stage; describe asks for "
                "a description of the picture.",
                "enum": ["auto", "describe"],
                "default": "auto",
                "examples": ["describe"],
            },
            "split": {
                "title": "Split",
                "description": "No scene is in both.",
                "enum": ["train", "test"],
                "default": "train",
                "examples": ["test"],
            },
            "size": {
                "title": "Rows",
                "description": "How many rows, one picture each.",
                "type": "integer",
                "minimum": 1,
                "default": 256,
                "examples": [500],
            },
            "seed": {
                "title": "Seed",
                "description": "Another seed draws other scenes.",
                "type": "integer",
                "minimum": 0,
                "default": 0,
                "examples": [1],
            },
            "image_size": {
                "title": "Picture size",
                "description": "Side of the square pictures, in pixels.",
                "type": "integer",
                "minimum": 32,
                "maximum": 1024,
                "default": 96,
                "examples": [128],
            },
        },
    }

    def check(self, data: DataSettings, *, kind: Kind) -> Iterator[DataError]:  # noqa: ARG002
        """Generated rows have no problems."""
        return iter(())

    def count(self, data: DataSettings) -> int | None:
        """As many as it is told to draw."""
        size: int = data.options.get("size", self.schema["properties"]["size"]["default"])
        return size if data.max_samples is None else min(size, data.max_samples)

    def fingerprint(self, data: DataSettings, *, kind: Kind) -> str:
        """The options and the version of the generator."""
        from qvl_trl.scenes.dataset import GENERATOR_VERSION

        return f"spatial_scenes {GENERATOR_VERSION} {json.dumps(_arguments(data, kind), sort_keys=True)}"

    def examples(self, data: DataSettings, *, kind: Kind, cache: Path) -> Sequence[Example]:
        """The rows, drawn below `cache` where they are not there yet."""
        from qvl_trl.scenes import write_split

        arguments = _arguments(data, kind)
        folder = (
            cache
            / self.name
            / "-".join(str(arguments[key]) for key in ("image_size", "seed", "size"))
        )
        path = write_split(folder, **arguments)
        rows = dataclasses.replace(data, format="jsonl", path=str(path), options={})
        return jsonl.data_format.examples(rows, kind=kind, cache=cache)


def _arguments(data: DataSettings, kind: Kind) -> dict[str, Any]:
    properties = SpatialScenes.schema["properties"]
    options = {key: data.options.get(key, properties[key]["default"]) for key in properties}
    if options["task"] == "auto":
        options["task"] = TASKS[kind]
    return options


data_format = SpatialScenes()
