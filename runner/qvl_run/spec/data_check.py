"""The rows of the local files that a job names, checked before anything runs. Reads; writes nothing."""

from __future__ import annotations

from collections.abc import Iterator

from qvl_run import plugins
from qvl_run.contract import Kind
from qvl_run.settings import DataSettings
from qvl_run.spec.diagnostic import Diagnostic, JobError, Span
from qvl_run.spec.job import Job, StageSpec

MAX_FINDINGS = 20


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
                if len(found) >= MAX_FINDINGS:
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


def _place(source: str) -> Span | None:
    file, _, line = source.rpartition(":")
    return Span(file, int(line), 1) if file and line.isdigit() else None
