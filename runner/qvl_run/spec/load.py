"""From a job file to a `Job`, or to every finding at once.

Reads the job file and the plugins' schemas; `check_data` reads the local data files that the job names. Nothing is
written, and no network is used.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, cast

from qvl_run import plugins, units
from qvl_run.contract import DataFormat, Kind, Stage
from qvl_run.plugins import PluginError
from qvl_run.settings import (
    DataSettings,
    EvaluationSettings,
    LoraSettings,
    ModelSettings,
    StageSettings,
    TrainingSettings,
    from_json,
)
from qvl_run.spec import schema
from qvl_run.spec.diagnostic import Diagnostic, JobError, Span, did_you_mean
from qvl_run.spec.document import Document, Key, read
from qvl_run.spec.job import Hardware, Job, StageSpec, Storage

MAX_DATA_FINDINGS = 20


def load_job(path: Path) -> Job:
    """The job at `path`. Raises JobError with all findings that the file and the plugins' schemas give."""
    document = read(path)
    found = list(schema.findings(document.data, schema.job_schema(), document))
    found += _plugin_findings(document)
    if not found:
        found += _order_findings(document)
    if found:
        raise JobError(found)
    job = _build(document, path)
    found = list(_meaning_findings(job))
    if found:
        raise JobError(found)
    return job


def check_data(job: Job) -> None:
    """Check the rows of every local file that the job names. Raises JobError."""
    found: list[Diagnostic] = []
    seen: set[tuple[str, str]] = set()
    for stage in job.stages:
        for key, data, kind in data_of(stage):
            data_format = plugins.data_format(data.format)
            mark = (repr(data), kind)
            if mark in seen or data_format.location != "file":
                continue
            seen.add(mark)
            span = job.document.span(("stages", stage.name, *key, "path"))
            for error in data_format.check(data, kind=kind):
                place = _place(error.source)
                message = str(error).removeprefix(f"{error.source}: ")
                hint = f"named at {span.file}:{span.line}"
                found.append(
                    Diagnostic(code="QVL301", message=message, span=place or span, hint=hint)
                )
                if len(found) >= MAX_DATA_FINDINGS:
                    raise JobError(found)
    if found:
        raise JobError(found)


def data_of(stage: StageSpec) -> Iterator[tuple[tuple[str, ...], DataSettings, Kind]]:
    """Each piece of data that `stage` reads: its key path below the stage, the settings, the kind of its rows."""
    kind = plugins.stage(stage.uses).data_kind
    if kind and stage.data:
        yield ("data",), stage.data, kind
    if kind and stage.eval_data:
        yield ("eval_data",), stage.eval_data, kind
    if stage.evaluation:
        yield ("evaluation", "data"), stage.evaluation.data, "prompt"


def provisional_settings(stage: StageSpec) -> StageSettings:
    """`stage` as settings before a machine is known: `auto` stands for fp32 and SDPA. For checks and estimates."""
    return StageSettings(
        name=stage.name,
        uses=stage.uses,
        model=model_settings(stage.model, precision="fp32", attention="sdpa"),
        training=stage.training,
        data=stage.data,
        eval_data=stage.eval_data,
        evaluation=stage.evaluation,
        options=stage.options,
    )


def model_settings(model: Mapping[str, Any], *, precision: str, attention: str) -> ModelSettings:
    """The job's `model` with what `auto` stands for."""
    values = dict(model)
    values.pop("lora", None)
    if values.get("precision", "auto") == "auto":
        values["precision"] = precision
    if values.get("attention", "auto") == "auto":
        values["attention"] = attention
    lora = model.get("lora", {})
    values["lora"] = None if lora is None else from_json(LoraSettings, lora)
    return from_json(ModelSettings, values)


def _plugin_findings(document: Document) -> Iterator[Diagnostic]:
    """Names of plugins, and each plugin's schema against its `with:`."""
    root = document.data
    if isinstance(root.get("evaluation"), dict):
        yield from _data_findings(
            root["evaluation"].get("data"), document, ("evaluation", "data"), "prompt"
        )
    stages = root.get("stages")
    for name, stage in (stages if isinstance(stages, dict) else {}).items():
        if not isinstance(stage, dict) or not isinstance(stage.get("uses"), str):
            continue
        at: tuple[Key, ...] = ("stages", name)
        plugin, trouble = _plugin(document, "qvl.stages", stage["uses"], (*at, "uses"), "stage")
        if trouble:
            yield trouble
            continue
        kind = cast(Stage, plugin).data_kind
        if isinstance(options := stage.get("with", {}), dict):
            yield from schema.findings(
                options, cast(Stage, plugin).schema, document, at=(*at, "with")
            )
        if kind and "data" not in stage:
            yield Diagnostic(
                code="QVL102",
                message=f'{schema.show_path(at)} lacks the key "data": {stage["uses"]} trains on rows',
                span=document.key_span(at),
                hint="for example: data: {format: jsonl, path: train.jsonl}",
            )
        for key in ("data", "eval_data"):
            if kind is None and key in stage:
                yield Diagnostic(
                    code="QVL201",
                    message=f"{stage['uses']} takes no data",
                    span=document.key_span((*at, key)),
                )
            elif kind:
                yield from _data_findings(stage.get(key), document, (*at, key), kind)
        if isinstance(evaluation := stage.get("evaluation"), dict):
            yield from _data_findings(
                evaluation.get("data"), document, (*at, "evaluation", "data"), "prompt"
            )


def _data_findings(
    data: Any, document: Document, at: tuple[Key, ...], kind: Kind
) -> Iterator[Diagnostic]:
    if not isinstance(data, dict) or not isinstance(data.get("format"), str):
        return
    plugin, trouble = _plugin(
        document, "qvl.data_formats", data["format"], (*at, "format"), "data format"
    )
    if trouble:
        yield trouble
        return
    data_format = cast(DataFormat, plugin)
    if isinstance(options := data.get("with", {}), dict):
        yield from schema.findings(options, data_format.schema, document, at=(*at, "with"))
    if kind not in data_format.kinds:
        yield Diagnostic(
            code="QVL202",
            message=f"{data_format.name} has no rows of kind {kind}; it has {', '.join(sorted(data_format.kinds))}",
            span=document.span((*at, "format")),
        )
    if data_format.location == "generated" and data.get("path") is not None:
        yield Diagnostic(
            code="QVL203",
            message=f"{data_format.name} generates its rows and reads no path",
            span=document.key_span((*at, "path")),
        )
    if data_format.location != "generated" and not data.get("path"):
        yield Diagnostic(
            code="QVL102",
            message=f'{schema.show_path(at)} lacks the key "path"',
            span=document.key_span(at),
        )


def _plugin(
    document: Document, group: plugins.Group, name: str, at: tuple[Key, ...], noun: str
) -> tuple[object | None, Diagnostic | None]:
    span = document.span(at)
    if name not in (known := plugins.installed(group)):
        message = f'there is no {noun} called "{name}"'
        return None, Diagnostic(
            code="QVL204", message=message, span=span, hint=did_you_mean(name, known)
        )
    try:
        return plugins.load(group, name), None
    except PluginError as error:
        return None, Diagnostic(code="QVL205", message=str(error), span=span)


def _order_findings(document: Document) -> Iterator[Diagnostic]:
    stages = document.data["stages"]
    for name, stage in stages.items():
        needs = stage.get("needs")
        at = ("stages", name, "needs")
        if needs is not None and needs not in stages:
            yield Diagnostic(
                code="QVL206",
                message=f'stages.{name} needs "{needs}", which is no stage of this job',
                span=document.span(at),
                hint=did_you_mean(needs, [n for n in stages if n != name]),
            )
        if needs is not None and "init_from" in stage:
            yield Diagnostic(
                code="QVL207",
                message=f"stages.{name} has both needs and init_from: it can start from one of them only",
                span=document.key_span(("stages", name, "init_from")),
            )
    yield from _cycles(document)


def _cycles(document: Document) -> Iterator[Diagnostic]:
    upstream = upstreams(document.data["stages"])
    reported: set[str] = set()
    for name in upstream:
        walk = [name]
        while (following := upstream.get(walk[-1])) and following not in walk:
            walk.append(following)
        if following == name and name not in reported:
            reported |= set(walk)
            yield Diagnostic(
                code="QVL208",
                message=f"stages need each other in a circle: {' -> '.join([*walk, name])}",
                span=document.span(("stages", name, "needs")),
                hint="one of them must start from the base model (needs: null) or from init_from",
            )


def upstreams(stages: Mapping[str, Mapping[str, Any]]) -> dict[str, str | None]:
    """The stage that each starts from: `needs`, else the one before it in the file, unless it has `init_from`."""
    found: dict[str, str | None] = {}
    before: str | None = None
    for name, stage in stages.items():
        if "needs" in stage:
            found[name] = stage["needs"]
        else:
            found[name] = None if "init_from" in stage else before
        before = name
    return found


def _build(document: Document, path: Path) -> Job:
    data, base = document.data, path.resolve().parent
    hardware, storage, stages = data.get("hardware", {}), data.get("storage", {}), data["stages"]
    upstream = upstreams(stages)
    specs = {
        name: _stage(name, stage, upstream[name], data, base) for name, stage in stages.items()
    }
    ordered: list[StageSpec] = []
    waiting = list(specs.values())
    while waiting:
        done = {s.name for s in ordered}
        ready = next(s for s in waiting if s.upstream is None or s.upstream in done)
        ordered.append(ready)
        waiting.remove(ready)
    return Job(
        name=data["name"],
        path=path,
        hardware=Hardware(
            tier=hardware.get("tier"),
            min_vram=_or_none(units.size, hardware.get("min_vram")),
            min_disk=_or_none(units.size, hardware.get("min_disk")),
            max_session=_or_none(units.duration, hardware.get("max_session")),
        ),
        storage=Storage(
            drive=_or_none(_folder, storage.get("drive")),
            scratch=_or_none(_folder, storage.get("scratch")),
        ),
        stages=tuple(ordered),
        recovery=data.get("recovery", "default"),
        wandb=data.get("tracking", {}).get("wandb", "auto"),
        document=document,
    )


def _stage(
    name: str, stage: Mapping[str, Any], upstream: str | None, job: Mapping[str, Any], base: Path
) -> StageSpec:
    evaluation = stage["evaluation"] if "evaluation" in stage else job.get("evaluation")
    return StageSpec(
        name=name,
        uses=stage["uses"],
        upstream=upstream,
        init_from=_or_none(_folder, stage.get("init_from"), base),
        model=_merged(job["model"], stage.get("model", {})),
        training=from_json(
            TrainingSettings, _merged(job.get("training", {}), stage.get("training", {}))
        ),
        data=_data(stage.get("data"), base),
        eval_data=_data(stage.get("eval_data"), base),
        evaluation=None if evaluation is None else _evaluation(evaluation, base),
        options=schema.with_defaults(stage.get("with", {}), plugins.stage(stage["uses"]).schema),
    )


def _merged(under: Mapping[str, Any], over: Mapping[str, Any]) -> dict[str, Any]:
    """`over` laid on `under`: maps merge, everything else replaces."""
    merged = dict(under)
    for key, value in over.items():
        below = merged.get(key)
        if isinstance(value, dict) and isinstance(below, dict):
            merged[key] = _merged(below, value)
        else:
            merged[key] = value
    return merged


def _data(data: Mapping[str, Any] | None, base: Path) -> DataSettings | None:
    if data is None:
        return None
    values = {key: value for key, value in data.items() if key != "with"}
    data_format = plugins.data_format(data["format"])
    path = data.get("path")
    if path and (data_format.location == "file" or (base / path).exists()):
        values["path"] = str(_folder(path, base))
    return from_json(
        DataSettings,
        values | {"options": schema.with_defaults(data.get("with", {}), data_format.schema)},
    )


def _evaluation(evaluation: Mapping[str, Any], base: Path) -> EvaluationSettings:
    data = _data(evaluation["data"], base)
    assert data is not None
    return EvaluationSettings(data=data, **{k: v for k, v in evaluation.items() if k != "data"})


def _meaning_findings(job: Job) -> Iterator[Diagnostic]:
    for stage in job.stages:
        at: tuple[Key, ...] = ("stages", stage.name)
        for path, message in plugins.stage(stage.uses).check(provisional_settings(stage)):
            yield Diagnostic(
                code="QVL210", message=message, span=_set_at(job, (*at, *path.split(".")))
            )
        for key, data, _ in data_of(stage):
            is_file = plugins.data_format(data.format).location == "file"
            if is_file and data.path and not Path(data.path).is_file():
                where = (*at, *key) if _there(job.document.data, (*at, *key)) else key
                yield Diagnostic(
                    code="QVL302",
                    message=f"there is no data file {data.path}",
                    span=job.document.span((*where, "path")),
                    hint="a path is relative to the job file",
                )


def _set_at(job: Job, path: tuple[Key, ...]) -> Span:
    """Where the value at `path` of a stage is written: in the stage, else in the job's defaults."""
    for at in (path, path[2:]):
        if _there(job.document.data, at):
            return job.document.span(at)
    return job.document.key_span(path[:2])


def _there(data: Any, path: tuple[Key, ...]) -> bool:
    for key in path:
        if not isinstance(data, dict) or key not in data:
            return False
        data = data[key]
    return True


def _place(source: str) -> Span | None:
    file, _, line = source.rpartition(":")
    return Span(file, int(line), 1) if file and line.isdigit() else None


def _folder(text: str, base: Path | None = None) -> Path:
    path = Path(text).expanduser()
    return path if path.is_absolute() else (base or Path.cwd()) / path


def _or_none(make: Any, value: Any, *more: Any) -> Any:
    return None if value is None else make(value, *more)
