"""Where each value of a job was set: a place in a file, an option of the command line, or nowhere (a default). Pure."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from typing import Any

from qvl_run.settings import to_json
from qvl_run.spec.document import Document, Key
from qvl_run.spec.job import Job, StageSpec
from qvl_run.spec.resolve import model_settings

At = tuple[Key, ...]
DEFAULT = "default"


def lines(job: Job) -> list[str]:
    """Every resolved value as `key = value  # origin`, the values as JSON; environment variables by name."""
    found = []
    for path, value, origin in values(job):
        found.append(f"{show_path(path)} = {json.dumps(value)}  # {origin}")
    return [job.shown(line) for line in found]


def values(job: Job) -> Iterator[tuple[At, Any, str]]:
    """Path, value and origin of every value: first those of the job as a whole, then each stage's own."""
    document = job.document
    for path, value, span in document.leaves():
        if path[0] not in ("model", "training", "evaluation", "stages"):
            yield path, value, _place(span.file, span.line)
    for stage in job.stages:
        yield from _stage_values(document, stage)


def place_of(document: Document, stage: str, path: At) -> str | None:
    """Where the value at `path` of `stage` is set, in the stage or in the job's defaults; None for a default."""
    for at in (("stages", stage, *path), path):
        if document.has(at):
            span = document.span(at)
            return _place(span.file, span.line)
    return None


def _stage_values(document: Document, stage: StageSpec) -> Iterator[tuple[At, Any, str]]:
    training = to_json(stage.training)
    whole = _written(document, stage.name, ("training", "global_batch_size"), None)
    resolved = {
        "uses": stage.uses,
        "needs": stage.upstream,
        "init_from": None if stage.init_from is None else str(stage.init_from),
        "model": to_json(model_settings(stage.model, precision="auto", attention="auto")),
        "training": {"global_batch_size": whole, **training},
        "data": _with(to_json(stage.data)),
        "eval_data": _with(to_json(stage.eval_data)),
        "evaluation": to_json(stage.evaluation),
        "with": to_json(stage.options),
    }
    if resolved["evaluation"]:
        resolved["evaluation"]["data"] = _with(resolved["evaluation"]["data"])
    for path, found in _leaves(resolved, ()):
        origin = place_of(document, stage.name, path) or DEFAULT
        value = found
        if show_path(path) in stage.auto:
            value = _written(document, stage.name, path, "auto")
        yield ("stages", stage.name, *path), value, origin


def _written(document: Document, stage: str, path: At, default: Any) -> Any:
    """The value at `path`, of two keys, of `stage`, else of the job's defaults, else `default`."""
    section, key = path
    for under in (document.data["stages"][stage], document.data):
        if key in under.get(section, {}):
            return under[section][key]
    return default


def _with(data: dict[str, Any] | None) -> dict[str, Any] | None:
    """Settings name a format's options `options`; a job names them `with`."""
    return None if data is None else {("with" if k == "options" else k): v for k, v in data.items()}


def _leaves(data: Any, path: At) -> Iterator[tuple[At, Any]]:
    if isinstance(data, Mapping) and data:
        for key, value in data.items():
            yield from _leaves(value, (*path, key))
    elif data not in ({}, None) or len(path) > 1:
        yield path, data


def _place(file: str, line: int) -> str:
    return file if file.startswith("--") else f"{file}:{line}"


def show_path(path: At) -> str:
    """`stages.sft.training.seed`."""
    return ".".join(map(str, path))
