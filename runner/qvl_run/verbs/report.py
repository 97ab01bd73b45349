"""`qvl-run report`: what a run came to, and what it took, predicted beside measured."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from typing import Any

import click

from qvl_run import exit_codes, hardware
from qvl_run.checkpoints import manifest as manifests
from qvl_run.checkpoints.manifest import Broken, Manifest
from qvl_run.plan.make import make_plan
from qvl_run.plan.past import Past, look
from qvl_run.plan.places import Places, places
from qvl_run.plan.plan import StagePlan
from qvl_run.run import tables
from qvl_run.run.costs import cost
from qvl_run.run.preflight import drive_missing
from qvl_run.run.report import measured_elsewhere
from qvl_run.spec.job import Job
from qvl_run.spec.render import render
from qvl_run.verbs.job import Options, chosen


@dataclass(frozen=True, kw_only=True)
class Found:
    """A stage's finished output. `other` says that it was made with other settings, or from another input, than the
    job names now."""

    stage: StagePlan
    manifest: Manifest
    other: bool


def main(job: str, *, as_json: bool, **options: Any) -> int:
    """Print the tables. Writes nothing. Raises JobError and OSError."""
    loaded, choices = chosen(job, Options(**options))
    where = places(loaded)
    if missing := list(drive_missing(loaded, where)):
        click.echo(render(missing), err=True)
        return exit_codes.MACHINE
    plan = make_plan(loaded, hardware.probe(), choices=choices)
    found = list(_found(plan.stages, where, look(loaded, where)))
    if as_json:
        click.echo(loaded.shown(json.dumps(_data(loaded, found), indent=2)))
    elif found:
        _print(found)
    else:
        click.echo(f"no stage of {loaded.name} is finished yet; qvl-run status tells where it is")
    return exit_codes.DONE


def _found(stages: tuple[StagePlan, ...], where: Places, past: Past) -> Iterator[Found]:
    """The output of each stage: that of the job as it is now, else the furthest that is whole."""
    for stage in stages:
        if stage.state == "done" and stage.manifest:
            yield Found(stage=stage, manifest=stage.manifest, other=False)
            continue
        name, others = stage.spec.name, dict[int, Manifest]()
        for entry in (*where.committed(name), *past.index.of(name)):
            if entry.manifest is None or entry.manifest.kind != "output":
                continue
            try:
                manifests.check_sizes(entry.held, entry.manifest)
            except Broken:
                continue
            others[entry.manifest.step] = entry.manifest
        if others:
            yield Found(stage=stage, manifest=others[max(others)], other=True)


def _print(found: list[Found]) -> None:
    outputs = [one.manifest for one in found]
    tables.print_stages(outputs, _elsewhere(found))
    tables.print_costs(outputs)
    if others := [one.stage.spec.name for one in found if one.other]:
        click.echo(
            f"\nmade with other settings, or from another input, than the job names now: {', '.join(others)}"
        )


def _elsewhere(found: list[Found]) -> frozenset[str]:
    return measured_elsewhere((one.stage, one.manifest) for one in found)


def _data(job: Job, found: list[Found]) -> dict[str, Any]:
    elsewhere = _elsewhere(found)
    return {
        "job": job.name,
        "stages": [
            {
                "name": one.stage.spec.name,
                "uses": one.stage.spec.uses,
                "steps": one.manifest.step,
                "seconds": one.manifest.facts.get("seconds"),
                "measures": one.manifest.facts.get("measures", {}),
                "other_settings": one.other,
                "other_rows": one.stage.spec.name in elsewhere,
                **_cost(one.manifest),
            }
            for one in found
        ],
    }


def _cost(manifest: Manifest) -> dict[str, Any]:
    data = asdict(cost(manifest))
    gpu = data.pop("gpu")
    del data["stage"]
    time = {
        "step_seconds": data.pop("step"),
        "predicted_step_seconds": data.pop("expected"),
        "rows_per_second": data.pop("samples"),
    }
    return {"gpu": gpu, "memory": data, "time": time}
