"""`qvl-run status`: what the run of a job is doing, or why it stopped and what the next start would do."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator, Sequence
from typing import Any

import click

from qvl_run import exit_codes, hardware
from qvl_run.plan.make import make_plan
from qvl_run.plan.past import opened
from qvl_run.plan.places import Places, places
from qvl_run.plan.plan import Plan
from qvl_run.recovery import budget
from qvl_run.run import events, state
from qvl_run.run import story as words
from qvl_run.run.events import Record
from qvl_run.run.preflight import drive_missing
from qvl_run.run.show import details, headline, progress_text
from qvl_run.spec.job import Job
from qvl_run.spec.render import render
from qvl_run.units import show_duration
from qvl_run.verbs.job import Options, chosen

NEWEST = 20
"""Segments of the story that are read from storage: the newest tell what matters here."""
_TOLD = ("adapted", "restart", "finding", "killed", "gave_up")


def main(job: str, *, as_json: bool, **options: Any) -> int:
    """Print a few lines. Raises JobError and OSError."""
    loaded, choices = chosen(job, Options(**options))
    where = places(loaded)
    if missing := list(drive_missing(loaded, where)):
        click.echo(render(missing), err=True)
        return exit_codes.MACHINE
    store = opened(where)
    here = events.here(where.scratch / "events")
    there = events.stored(store, where.run, newest=NEWEST) if store else []
    story = events.merged(there, here)
    ledger = events.stored(store, where.run, ledger=True) if store else []
    ledger = events.merged(ledger, events.here(where.scratch / "events", ledger=True))
    at = state.working(where, store, now=time.time())
    plan = None if at.at == "here" else make_plan(loaded, hardware.probe(), choices=choices)
    if as_json:
        click.echo(loaded.shown(json.dumps(_data(loaded, where, at, story, plan), indent=2)))
    else:
        for line in _lines(loaded, where, at, story, ledger, plan):
            click.echo(loaded.shown(line))
    return exit_codes.DONE


def _lines(
    job: Job,
    where: Places,
    at: state.Working,
    story: Sequence[Record],
    ledger: Sequence[Record],
    plan: Plan | None,
) -> Iterator[str]:
    last = _last_run(story)
    if at.at == "here":
        owner = f" (process {at.owner.pid})" if at.owner else ""
        yield f"{job.name}: at work on this machine{owner}"
        yield from _doing(where, story)
    elif at.at == "elsewhere" and at.owner:
        host = at.owner.host or "another machine"
        yield f"{job.name}: at work on {host}, which gave a sign of life {show_duration(at.silent)} ago"
    elif not story:
        yield f"{job.name}: has not been run yet"
    else:
        yield f"{job.name}: not at work. {_why(last)}"
    for record in [r for r in last if r.get("event") in _TOLD][-5:]:
        yield f"  {words.line(record)}"
    if plan is not None:
        yield "the next start:"
        for stage in plan.stages:
            yield f"  {stage.spec.name}: {headline(stage)}"
            for reason in details(stage):
                yield f"    {reason}"
            spent = budget.spent(ledger, stage=stage.spec.name, key=stage.key or "")
            if spent.total:
                yield f"    {spent.total} of {job.recovery.max_restarts} restarts are spent"


def _doing(where: Places, story: Sequence[Record]) -> Iterator[str]:
    found = state.progress(where, story)
    if found is None:
        yield "  between two attempts"
        return
    stage, progress = found
    if progress:
        left = state.left_seconds(progress)
        more = f"; about {show_duration(left)} left in this stage" if left is not None else ""
        yield f"  {stage}: {progress_text(progress)}{more}"
    else:
        yield f"  {stage}: starting"
    saved = [r for r in story if r.get("event") == "mirrored" and r.get("stage") == stage]
    if saved:
        yield f"  newest checkpoint in storage: step {max(int(r['step']) for r in saved)}"


def _last_run(story: Sequence[Record]) -> list[Record]:
    """The records of the last run, a process of its own."""
    if not story:
        return []
    token = str(story[-1]["id"]).rpartition("-")[0]
    return [record for record in story if str(record["id"]).rpartition("-")[0] == token]


def _why(last: Sequence[Record]) -> str:
    """How the last run ended, for people."""
    end = next((r for r in reversed(last) if r["event"] == "run_ended"), None)
    if end is None:
        return f"It ended without a word after {words.line(last[-1])}"
    failed = next((r for r in reversed(last) if r["event"] == "attempt_failed"), None)
    if end["ending"] == "done":
        return f"It came to its end at {_when(end)}"
    if end["ending"] == "failed" and failed:
        return f"It stopped at {_when(end)}: {words.text(failed)}"
    why = (
        f": {end['why']}"
        if end.get("why")
        else " early, as asked"
        if end["ending"] == "stopped"
        else ""
    )
    stage = f" in {end['stage']}" if end.get("stage") else ""
    return f"It stopped at {_when(end)}{stage}{why}"


def _when(record: Record) -> str:
    return str(record["time"]).replace("T", " ").partition(".")[0] + " UTC"


def _data(
    job: Job, where: Places, at: state.Working, story: Sequence[Record], plan: Plan | None
) -> dict[str, Any]:
    found = state.progress(where, story) if at.at == "here" else None
    last = _last_run(story)
    return {
        "job": job.name,
        "at_work": at.at,
        "silent": at.silent,
        "stage": found[0] if found else None,
        "progress": dict(found[1]) if found else None,
        "left_seconds": state.left_seconds(found[1]) if found else None,
        "last": next((r for r in reversed(last) if r["event"] == "run_ended"), None),
        "failure": next((r for r in reversed(last) if r["event"] == "attempt_failed"), None),
        "next": None
        if plan is None
        else [
            {"stage": s.spec.name, "state": s.state, "step": s.step, "total": s.total}
            for s in plan.stages
        ],
    }
