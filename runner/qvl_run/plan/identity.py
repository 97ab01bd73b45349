"""What decides a stage's result, as plain data, and its key.

Two runs of a stage with the same key give the same result, so a finished one is not run again and a partial one may
be gone on with. Left out, because they do not change the result: how the global batch is split into micro-batches, how
many rows are sampled at once, gradient checkpointing, save and log intervals, workers, evaluation, tracking, the
machine, and the version of the plugin (recorded in the manifest instead: an upgrade must not throw finished stages
away).

Precision, attention, quantization and image budget count as written, `auto` as "auto": a checkpoint of a T4 is gone
on with on an L4. The optimizer counts as resolved, since a checkpoint holds its state in its own form; what `auto`
takes depends on LoRA alone on every GPU. A full fine-tune with `auto` that goes from a GPU to a CPU, where the 8-bit
form does not exist, is another stage, and the plan says why.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from qvl_run import plugins
from qvl_run.contract import DataError, Kind
from qvl_run.disk import LOCAL, sha256
from qvl_run.settings import DataSettings, StageSettings, to_json
from qvl_run.spec.batch import SAMPLED
from qvl_run.spec.data_check import finding
from qvl_run.spec.diagnostic import JobError
from qvl_run.spec.job import StageSpec
from qvl_run.spec.paths import expanded
from qvl_run.spec.resolve import model_settings

HASHED = 1024**3
"""Bytes up to which a file counts by its content: every adapter, and small models."""
_NEUTRAL = (
    "per_device_train_batch_size",
    "gradient_accumulation_steps",
    "gradient_checkpointing",
    "save_steps",
    "logging_steps",
    "dataloader_num_workers",
)


def identity(stage: StageSpec, *, upstream: str | None, init_from: Path | None) -> dict[str, Any]:
    """`stage` as what decides its result. `upstream` is the content digest of the output it starts from, `init_from`
    the folder it starts from instead. The caller adds `generation`, where it was begun anew.

    Reads the local data files and folders that the stage names. Raises OSError where one cannot be read, JobError where
    a row cannot.
    """
    training = to_json(stage.training)
    global_batch = training["per_device_train_batch_size"] * training["gradient_accumulation_steps"]
    kept = {key: value for key, value in training.items() if key not in _NEUTRAL}
    model = to_json(model_settings(stage.model, precision="auto", attention="auto"))
    model |= {key: "auto" for key in model if f"model.{key}" in stage.auto}
    options = {key: value for key, value in stage.options.items() if key != SAMPLED}
    data = None
    kind = plugins.stage(stage.uses).data_kind
    if stage.data is not None and kind is not None:
        rows = _fingerprint(stage.data, kind)
        data = {**to_json(stage.data), "rows": rows}
        # The rows' digest says more than where the file lies: a moved file is the same data.
        if plugins.data_format(stage.data.format).location == "file":
            data.pop("path")
    return {
        "uses": stage.uses,
        "plugin": plugins.installed("qvl.stages")[stage.uses][0].distribution,
        "model": {**model, "files": _model_files(model["name"])},
        "training": {**kept, "global_batch": global_batch},
        "data": data,
        "with": to_json(options),
        "upstream": upstream,
        "init_from": None if init_from is None else folder_digest(init_from),
    }


def _fingerprint(data: DataSettings, kind: Kind) -> str:
    try:
        return plugins.data_format(data.format).fingerprint(data, kind=kind)
    except DataError as error:
        raise JobError([finding(error)]) from error


def key(identity: Mapping[str, Any]) -> str:
    """Hex digest of `identity`."""
    return hashlib.sha256(json.dumps(identity, sort_keys=True).encode()).hexdigest()


def measured_on(settings: StageSettings) -> str:
    """A short digest of what the stage is measured on: numbers are comparable only where it is equal."""
    evaluation = None if settings.evaluation is None else to_json(settings.evaluation)
    if evaluation is not None:
        del evaluation["batch_size"]  # greedy answers do not depend on it
    what = {
        "evaluation": evaluation,
        "eval_data": None if settings.eval_data is None else to_json(settings.eval_data),
    }
    return key(what)[:12]


def differences(old: Mapping[str, Any], new: Mapping[str, Any], at: str = "") -> Iterator[str]:
    """Each field that differs, as `training.learning_rate: 0.0001 -> 0.0002`."""
    for name in sorted({*old, *new}):
        before, after = old.get(name), new.get(name)
        path = f"{at}.{name}" if at else name
        if isinstance(before, Mapping) and isinstance(after, Mapping):
            yield from differences(before, after, path)
        elif before != after:
            yield f"{path}: {_short(before)} -> {_short(after)}"


def folder_digest(folder: Path) -> str:
    """A digest of `folder`: small files by content, large ones by name and size, so that it costs little.

    Raises FileNotFoundError where there is no such folder.
    """
    digest = hashlib.sha256()
    if not folder.is_dir():
        raise FileNotFoundError(f"there is no folder {folder}")
    for path in sorted(p for p in folder.rglob("*") if p.is_file()):
        size = path.stat().st_size
        content = sha256(LOCAL.read(path)) if size < HASHED else str(size)
        digest.update(f"{content}  {path.relative_to(folder).as_posix()}\n".encode())
    return digest.hexdigest()


def _model_files(name: str) -> str | None:
    if name in plugins.installed("qvl.models"):
        return folder_digest(plugins.load("qvl.models", name).folder())
    return folder_digest(expanded(name)) if expanded(name).is_dir() else None


def _short(value: Any) -> str:
    text = json.dumps(value)
    return text if len(text) <= 40 else f"{text[:37]}..."
