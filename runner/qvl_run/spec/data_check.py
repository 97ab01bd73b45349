"""The rows of the local files that a job names, checked before anything runs. Reads; writes nothing."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import islice
from pathlib import Path

from qvl_run import plugins
from qvl_run.contract import DataError, Kind
from qvl_run.settings import DataSettings
from qvl_run.spec.diagnostic import Diagnostic, JobError, Span
from qvl_run.spec.job import Job, StageSpec
from qvl_run.spec.resolve import provisional_settings

MAX_FINDINGS = 20


def check_data(job: Job) -> None:
    """Check the rows of every local file that the job names. Raises JobError."""
    found: list[Diagnostic] = []
    seen: set[tuple[str, str, frozenset[str]]] = set()
    for stage in job.stages:
        for key, data, kind in data_of(stage):
            columns = _columns(stage, key)
            mark = (repr(data), kind, columns)
            if mark in seen or plugins.data_format(data.format).location != "file":
                continue
            seen.add(mark)
            span = job.document.span(("stages", stage.name, *key, "path"))
            for error in islice(_problems(data, kind, columns), MAX_FINDINGS):
                message = str(error).removeprefix(f"{error.source}: ")
                place = _place(error.source) or span
                hint = f"named at {span.shown(column=False)}"
                found.append(Diagnostic(code="QVL301", message=message, span=place, hint=hint))
    if found:
        raise JobError(found)


def _problems(data: DataSettings, kind: Kind, columns: frozenset[str]) -> Iterator[DataError]:
    """Rows that cannot be read; where all can, rows without a column that something reads."""
    data_format = plugins.data_format(data.format)
    unreadable = False
    for error in data_format.check(data, kind=kind):
        unreadable = True
        yield error
    if unreadable or not columns:
        return
    for example in data_format.examples(data, kind=kind, cache=Path()):
        for name in sorted(columns):
            if example.column(name) is None:
                message = f'the row lacks "{name}", which its answer is judged by'
                yield DataError(message, source=example.source)


def _columns(stage: StageSpec, key: tuple[str, ...]) -> frozenset[str]:
    if key[0] == "evaluation":
        return frozenset({"answer"})
    return plugins.stage(stage.uses).columns(provisional_settings(stage))


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
