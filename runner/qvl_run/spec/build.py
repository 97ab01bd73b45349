"""A job's data, valid by its schemas, as a `Job`: defaults merged, stages in order, paths absolute, sizes in bytes."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, TypeVar

from qvl_run import plugins, units
from qvl_run.plugins import PluginError
from qvl_run.recovery import rules
from qvl_run.settings import DataSettings, EvaluationSettings, TrainingSettings, from_json
from qvl_run.spec import batch, schema
from qvl_run.spec.diagnostic import Diagnostic, JobError, did_you_mean
from qvl_run.spec.document import Document, Key
from qvl_run.spec.job import Hardware, Job, StageSpec, Storage
from qvl_run.spec.order import upstreams
from qvl_run.spec.paths import exists, expanded
from qvl_run.spec.resolve import provisional_settings

T = TypeVar("T")
At = tuple[Key, ...]
NEWEST_CAPABILITY = 20
"""A major number above that of any GPU there is, with some room: what is more was written without its point."""
_AUTO_MODEL = ("quantization", "image_tokens")
_ENV = re.compile(r"\$\{env:([A-Za-z_][A-Za-z0-9_]*)\}")


def build(document: Document, path: Path) -> Job:
    """The job that `document` describes. Raises JobError for what only its values show."""
    return _Builder(document, path).job()


class _Builder:
    """Collects findings and substituted variables on the way, so that all are told at once."""

    def __init__(self, document: Document, path: Path) -> None:
        self.document, self.path = document, path
        self.findings: list[Diagnostic] = []
        self.env: dict[str, str] = {}

    def job(self) -> Job:
        data = self.document.data
        hardware, stages = data.get("hardware", {}), data["stages"]
        upstream = upstreams(stages)
        specs = {name: self.stage(name, upstream[name]) for name in stages}
        stored = data.get("storage", {})
        capability = self.capability(hardware.get("min_compute_capability"))
        storage = Storage(
            drive=self.storage_folder("drive"),
            bucket=self.bucket(stored),
            scratch=self.storage_folder("scratch"),
            mirror_rate=units.size(stored.get("mirror_rate", "64MiB")),
            patience=units.duration(stored.get("patience", "60s")),
        )
        if self.findings:
            raise JobError(self.findings)
        drive = None if storage.drive is None else str(storage.drive)
        return Job(
            name=data["name"],
            path=self.path,
            hardware=Hardware(
                tier=hardware.get("tier"),
                min_vram=_or_none(units.size, hardware.get("min_vram")),
                min_compute_capability=capability,
                min_ram=_or_none(units.size, hardware.get("min_ram")),
                min_drive_space=_or_none(units.size, hardware.get("min_drive_space")),
                min_disk=_or_none(units.size, hardware.get("min_disk")),
                max_session=_or_none(units.duration, hardware.get("max_session")),
            ),
            storage=storage,
            stages=tuple(replace(spec, downloads=drive) for spec in _in_order(specs)),
            recovery=rules.parse(data.get("recovery", "default")),
            wandb=data.get("tracking", {}).get("wandb", "auto"),
            env=self.env,
            document=self.document,
        )

    def capability(self, value: str | float | None) -> tuple[int, int] | None:
        """YAML reads 8.0 as a number, and "8.0" as text: both are taken."""
        if value is None:
            return None
        try:
            major, minor = units.capability(value)
            if major <= NEWEST_CAPABILITY:
                return major, minor
            why = "the newest GPUs have 12"
            hint = f"did you mean {major // 10}.{major % 10}?"
        except ValueError:
            why, hint = "the part after the point has one digit", "for example: 8.0"
        message = f"there is no compute capability {value}: {why}"
        self.find("QVL228", message, ("hardware", "min_compute_capability"), hint)
        return None

    def stage(self, name: str, upstream: str | None) -> StageSpec:
        job = self.document.data
        stage, at = job["stages"][name], ("stages", name)
        own = "evaluation" in stage
        evaluation = stage["evaluation"] if own else job.get("evaluation")
        where: At = (*at, "evaluation") if own else ("evaluation",)
        model = merged(job["model"], stage.get("model", {}))
        name_at = (*at, "model", "name") if "name" in stage.get("model", {}) else ("model", "name")
        model["name"] = self.text(model["name"], name_at)
        if model["name"].startswith("~"):
            model["name"] = str(expanded(model["name"]))
        training, auto, wrong = _training(
            merged(job.get("training", {}), stage.get("training", {}))
        )
        auto |= {f"model.{key}" for key in _AUTO_MODEL if model.get(key) == batch.AUTO}
        options = schema.with_defaults(stage.get("with", {}), plugins.stage(stage["uses"]).schema)
        auto |= {f"with.{batch.SAMPLED}"} if options.get(batch.SAMPLED) == batch.AUTO else set()
        spec = StageSpec(
            name=name,
            uses=stage["uses"],
            upstream=upstream,
            init_from=self.folder(stage.get("init_from"), (*at, "init_from")),
            model=model,
            training=training,
            data=self.data(stage.get("data"), (*at, "data")),
            eval_data=self.data(stage.get("eval_data"), (*at, "eval_data")),
            evaluation=None if evaluation is None else self.evaluation(evaluation, where),
            options=options,
            auto=frozenset(auto),
        )
        if not _trains(spec):
            return replace(spec, auto=frozenset(key for key in auto if key.startswith("model.")))
        if wrong:
            key_at: At = (*at, "training", wrong.key)
            place = key_at if self.document.has(key_at) else ("training", wrong.key)
            self.find("QVL230", f"{name}: {wrong}", place, wrong.hint)
        return spec

    def evaluation(self, evaluation: Mapping[str, Any], at: At) -> EvaluationSettings:
        data = self.data(evaluation["data"], (*at, "data"))
        assert data is not None
        rest = {key: value for key, value in evaluation.items() if key != "data"}
        return EvaluationSettings(data=data, **rest)

    def data(self, data: Mapping[str, Any] | None, at: At) -> DataSettings | None:
        if data is None:
            return None
        values = {key: value for key, value in data.items() if key != "with"}
        data_format = plugins.data_format(data["format"])
        if data_format.location == "file":
            values["path"] = str(self.folder(data["path"], (*at, "path")))
        elif data.get("path"):
            values["path"] = path = self.text(data["path"], (*at, "path"))
            if exists(local := self.base((*at, "path")) / expanded(path)):
                values["path"] = str(local)
        options = schema.with_defaults(data.get("with", {}), data_format.schema)
        return from_json(DataSettings, values | {"options": options})

    def storage_folder(self, key: str) -> Path | None:
        """A folder of `storage`, below the current folder where it is relative."""
        at = ("storage", key)
        text = self.document.data.get("storage", {}).get(key)
        folder = self.folder(text, at, base=Path.cwd())
        if folder is not None and ".." in Path(text).parts:
            self.find(
                "QVL221", f"storage.{key} climbs out with ..: {text}", at, "write the whole path"
            )
        return folder

    def bucket(self, stored: Mapping[str, Any]) -> str | None:
        """The URL of `storage.bucket`. What it holds besides its scheme is shown in no message: it may be a secret."""
        at: At = ("storage", "bucket")
        if "bucket" not in stored:
            return None
        if "drive" in stored:
            message = "storage.drive and storage.bucket are two answers to one question"
            self.find(
                "QVL223", message, at, "leave one out; `drive: !reset` drops one that is inherited"
            )
        url = self.text(stored["bucket"], at)
        if _ENV.search(url):
            return None  # told already
        scheme, separator, rest = url.partition("://")
        if not separator:
            hint = "for example: s3://my-bucket/qwen3_vl; a folder is storage.drive"
            self.find("QVL224", "storage.bucket takes a URL", at, hint)
        elif "@" in rest.partition("/")[0]:
            hint = "take it out, and give it up if others have seen it; credentials belong in the environment"
            message = "storage.bucket holds a user or a password"
            self.find("QVL225", message, at, hint)
        elif any(not char.isprintable() or char in "?#\\" for char in rest):
            message = "storage.bucket holds characters that no name in a bucket should have"
            self.find("QVL224", message, at, "a URL without ?, # and backslashes")
        elif ".." in rest.split("/"):
            self.find("QVL221", "storage.bucket climbs out with ..", at, "write the whole URL")
        elif scheme not in (known := plugins.installed("qvl.stores")):
            message = f'there is no store called "{scheme}"'
            self.find("QVL204", message, at, did_you_mean(scheme, known))
        else:
            self.store_findings(scheme, url, at)
        return url.rstrip("/")

    def store_findings(self, scheme: str, url: str, at: At) -> None:
        """What the store itself says of `url`."""
        try:
            for message in plugins.store(scheme).check(url):
                self.find("QVL224", f"storage.bucket cannot be used: {message}", at)
        except PluginError as error:
            self.find("QVL205", str(error), at)

    def folder(self, text: str | None, at: At, *, base: Path | None = None) -> Path | None:
        """An absolute path; a relative one starts at the file that says it."""
        if text is None:
            return None
        if "://" in text:
            self.find("QVL220", f"{schema.show_path(at)} takes a path, not a URL", at)
            return Path(text)
        if any(not char.isprintable() for char in text):
            self.find("QVL220", f"{schema.show_path(at)} holds characters that no path has", at)
            return Path("unusable")
        path = expanded(self.text(text, at))
        return path if path.is_absolute() else (base or self.base(at)) / path

    def base(self, at: At) -> Path:
        span = self.document.span(at)
        return Path.cwd() if span.is_option else Path(span.file).resolve().parent

    def text(self, text: str, at: At) -> str:
        """`text` with each `${env:NAME}` replaced."""

        def value(found: re.Match[str]) -> str:
            name = found[1]
            if not (known := os.environ.get(name)):
                self.find("QVL222", f"the environment variable {name} is not set", at)
                return found[0]
            self.env[known] = found[0]
            return known

        return _ENV.sub(value, text)

    def find(self, code: str, message: str, at: At, hint: str = "") -> None:
        span = self.document.span(at)
        self.findings.append(Diagnostic(code=code, message=message, span=span, hint=hint))


def _training(
    written: Mapping[str, Any],
) -> tuple[TrainingSettings, set[str], batch.Contradiction | None]:
    """`written` with numbers for what is `auto`, the dotted keys that are, and what contradicts itself."""
    wrong = None
    try:
        split = batch.split(written)
    except batch.Contradiction as error:
        split, wrong = batch.Split(micro=1, steps=1), error
    parts = {batch.MICRO: split.micro, batch.STEPS: split.steps}
    auto = {key for key, value in written.items() if value == batch.AUTO and key not in parts}
    values = {
        key: value for key, value in written.items() if key != batch.WHOLE and key not in auto
    }
    keys = {f"training.{key}" for key in (*auto, *split.auto)}
    return from_json(TrainingSettings, values | parts), keys, wrong


def _trains(spec: StageSpec) -> bool:
    """Whether the stage has rows or steps: without either there is no batch, and nothing of it to choose."""
    stage = plugins.stage(spec.uses)
    return stage.data_kind is not None or bool(
        stage.estimate(provisional_settings(spec)).optimizer_steps
    )


def merged(under: Mapping[str, Any], over: Mapping[str, Any]) -> dict[str, Any]:
    """`over` laid on `under`: maps merge, everything else replaces."""
    result = dict(under)
    for key, value in over.items():
        below = result.get(key)
        if isinstance(value, dict) and isinstance(below, dict):
            result[key] = merged(below, value)
        else:
            result[key] = value
    return result


def _in_order(specs: Mapping[str, StageSpec]) -> tuple[StageSpec, ...]:
    ordered: dict[str, StageSpec] = {}
    while len(ordered) < len(specs):
        ready = (s for s in specs.values() if s.name not in ordered)
        stage = next(s for s in ready if s.upstream is None or s.upstream in ordered)
        ordered[stage.name] = stage
    return tuple(ordered.values())


def _or_none(make: Callable[[str], T], value: str | None) -> T | None:
    return None if value is None else make(value)
