"""The parts of a job that belong to plugins: that each named one exists, and its schema against its `with:`."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, cast

from qvl_run import plugins
from qvl_run.contract import DataFormat, Kind, Stage
from qvl_run.plugins import PluginError
from qvl_run.spec import schema
from qvl_run.spec.diagnostic import Diagnostic, did_you_mean
from qvl_run.spec.document import Document, Key


def plugin_findings(document: Document) -> Iterator[Diagnostic]:
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
