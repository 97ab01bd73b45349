"""What an attempt is told, once the folders that it loads from lie on this machine's disk."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from qvl_run import plugins
from qvl_run.checkpoints import manifest as manifests
from qvl_run.checkpoints.manifest import Broken
from qvl_run.checkpoints.store import Wait
from qvl_run.checkpoints.transfer import fetch
from qvl_run.plan.identity import measured_on
from qvl_run.plan.places import Places
from qvl_run.plan.plan import StagePlan
from qvl_run.run.attempt import Orders, records
from qvl_run.run.lease import Owner


def make_orders(
    plan: StagePlan,
    where: Places,
    *,
    attempt: str,
    owner: Owner,
    gpu: str | None,
    wait: Wait,
    earlier: Mapping[str, int],
) -> Orders:
    """The orders of the attempt called `attempt`, on the GPU called `gpu`. Fetches what it loads from; `wait` is told
    of each chunk. `earlier` counts the failures right before it, by class.

    Raises Broken where the checkpoint to resume from is not what it was when it was chosen, OSError where something
    cannot be read.
    """
    assert plan.identity is not None
    assert plan.key is not None
    local = where.scratch / "fetched"
    resume_from: Path | None = None
    if plan.state == "resume" and plan.held and plan.manifest:
        resume_from = fetch(plan.held, plan.manifest, local / "checkpoint", wait=wait)
    held_out = measured_on(plan.settings)
    attempts = where.attempts(plan.spec.name)
    return Orders(
        settings=plan.settings,
        identity=plan.identity,
        key=plan.key,
        name=f"{owner.token}-{attempt}",
        input=_text(_input(plan, local / "input", wait)),
        resume_from=_text(resume_from),
        cache=str(where.cache),
        seconds=float(plan.manifest.facts.get("seconds", 0.0)) if plan.manifest else 0.0,
        measured_on=held_out,
        recorded=records(attempts, plan.key, measured_on=held_out),
        facts={
            "plugin": plugins.version_of("qvl.stages", plan.spec.uses),
            "machine": owner.boot,
            "gpu": gpu,
            **_planned(plan),
        },
        earlier=earlier,
    )


def _planned(plan: StagePlan) -> dict[str, Any]:
    """What was planned with, to be held against what is measured: bytes of GPU memory, and the work of a step."""
    peak, work = plan.needs.vram, plan.needs.work
    return {
        "planned": None if peak is None else peak.total,
        "work": None if work is None else asdict(work),
    }


def _input(plan: StagePlan, into: Path, wait: Wait) -> Path | None:
    """What the stage starts from, as a folder of this machine."""
    held = plan.input
    if held is None:
        return None
    try:
        return held.path or fetch(held, manifests.read(held), into, wait=wait)
    except Broken as error:
        raise OSError(f"{held}: {error}") from None


def _text(path: Path | None) -> str | None:
    return None if path is None else str(path)
