"""The rows of the local files that a job names, checked before anything runs. Reads; writes nothing."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import replace
from pathlib import Path

from qvl_run import plugins
from qvl_run.contract import DataError, Kind
from qvl_run.settings import DataSettings
from qvl_run.spec.diagnostic import Diagnostic, JobError, Span
from qvl_run.spec.job import Job, StageSpec
from qvl_run.spec.resolve import provisional_settings

MAX_FINDINGS = 20
"""Different problems of one piece of data that are told one by one."""


def check_data(job: Job) -> None:
    """Check the rows of every local file that the job names. Raises JobError: what is wrong with many rows alike is one
    finding, at the first of them."""
    found: dict[tuple[str, Span | None], Diagnostic] = {}
    unreadable: dict[tuple[str, Kind], list[Diagnostic]] = {}
    for stage in job.stages:
        for key, data, kind in data_of(stage):
            if plugins.data_format(data.format).location != "file":
                continue
            named = job.document.stage_span(stage.name, *key, "path")
            mark = (repr(data), kind)
            if mark not in unreadable:
                problems = plugins.data_format(data.format).check(data, kind=kind)
                unreadable[mark] = list(_told(problems, named))
            for one in unreadable[mark] or _told(_unusable(stage, key, data, kind), named):
                found.setdefault((one.message, one.span), one)  # of files that stages share, once
    if found:
        raise JobError(found.values())


def _unusable(
    stage: StageSpec, key: tuple[str, ...], data: DataSettings, kind: Kind
) -> Iterator[DataError]:
    """Rows that can be read, and that what reads them has no use for."""
    settings = provisional_settings(stage)
    for example in plugins.data_format(data.format).examples(data, kind=kind, cache=Path()):
        if key[0] != "evaluation":
            yield from plugins.stage(stage.uses).check_row(settings, example)
        elif example.answer is None:
            message = 'the row lacks "answer", which its answer is judged by'
            yield DataError(message, source=example.source)


def _told(problems: Iterable[DataError], named: Span) -> Iterator[Diagnostic]:
    """A finding for each message, at the first row that has it. `named` is where the job names the data."""
    first: dict[str, Diagnostic] = {}
    more: dict[str, int] = {}
    left = 0
    for error in problems:
        found = finding(error, named)
        if found.message in first:
            more[found.message] = more.get(found.message, 0) + 1
        elif len(first) < MAX_FINDINGS:
            first[found.message] = found
        else:
            left += 1
    for message, one in first.items():
        like = more.get(message, 0)
        rows = "1 more row is" if like == 1 else f"{like} more rows are"
        yield replace(one, message=f"{message} ({rows} like it)") if like else one
    if left:
        message = f"{left} more problems are not told one by one"
        yield Diagnostic(code="QVL301", message=message, span=named)


def finding(error: DataError, named: Span | None = None) -> Diagnostic:
    """What is wrong with a row, at its line. `named` is where the job names its file."""
    at = "" if named is None else f"named at {named.shown(column=False)}"
    return Diagnostic(
        code="QVL301",
        message=str(error).removeprefix(f"{error.source}: "),
        span=_place(error.source) or named,
        hint="; ".join(filter(None, (error.hint, at))),
    )


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
