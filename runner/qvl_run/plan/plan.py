"""The plan: what `run` will do, stage by stage, and why. Plain data, the same for people and for `--json`."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

from qvl_run.checkpoints.manifest import Manifest
from qvl_run.checkpoints.pick import Rejected
from qvl_run.checkpoints.store import Held
from qvl_run.contract import Estimate, Peak
from qvl_run.hardware import Machine
from qvl_run.plan import vram
from qvl_run.plan.decide import Decision
from qvl_run.plan.pace import Pace
from qvl_run.plan.space import Space
from qvl_run.recovery import rules
from qvl_run.settings import StageSettings
from qvl_run.spec.diagnostic import Diagnostic
from qvl_run.spec.job import Job, StageSpec

State = Literal["done", "resume", "run", "rerun", "waiting", "no_input", "broken"]


@dataclass(frozen=True, kw_only=True)
class StagePlan:
    """What will happen to one stage.

    `identity` and `key` are None while the upstream stage has no output yet ("waiting"); `base_key` is the key without
    the generation that `--from-scratch` counts up. `held` is the output of a done stage, or the checkpoint of one to
    resume; `manifest` is that folder's. `input` is what the stage starts from. `decisions` are what `auto` became, and
    `needs` what the stage will need with that, and with `changes`. `estimate` is the number of steps from
    the settings alone, `total` from what is known. `changes` is what recovery has made smaller, by dotted key below the
    stage; `spec` and `settings` have it already. `reasons` are lines for people. `pace` is how long its steps take, as
    far as that is known.
    """

    spec: StageSpec
    state: State
    settings: StageSettings
    decisions: tuple[Decision, ...]
    needs: Estimate
    changes: Mapping[str, Any] = field(default_factory=dict)
    identity: dict[str, Any] | None = None
    key: str | None = None
    base_key: str | None = None
    input: Held | None = None
    estimate: int | None = None
    held: Held | None = None
    manifest: Manifest | None = None
    total: int | None = None
    rejected: tuple[Rejected, ...] = field(default=())
    reasons: tuple[str, ...] = field(default=())
    pace: Pace | None = None

    @property
    def step(self) -> int:
        """Optimizer steps that are behind the stage."""
        return self.manifest.step if self.manifest else 0

    @property
    def left(self) -> int | None:
        """Optimizer steps that are still to do; None where their number is not known."""
        if self.state == "done":
            return 0
        return None if self.total is None else max(self.total - self.step, 0)

    @property
    def seconds(self) -> float | None:
        """Seconds that those will take; None where that is not known."""
        if self.left == 0:
            return 0.0
        return None if self.pace is None or self.left is None else self.pace.step * self.left


@dataclass(frozen=True, kw_only=True)
class Plan:
    """The whole plan. `storage` is the folder or URL that outlives the machine, `space` what will be put there;
    `findings` are what the machine cannot do that the job asks for."""

    job: Job
    machine: Machine
    storage: str
    scratch: Path
    stages: tuple[StagePlan, ...]
    space: Space
    findings: tuple[Diagnostic, ...] = field(default=())

    @property
    def decisions(self) -> tuple[Decision, ...]:
        """Those that are the same for all stages."""
        first = self.stages[0].decisions if self.stages else ()
        return tuple(d for d in first if all(d in stage.decisions for stage in self.stages))

    @property
    def ahead(self) -> Job:
        """The job with those stages alone that are not done, as they will run."""
        left = tuple(stage.spec for stage in self.stages if stage.state != "done")
        return replace(self.job, stages=left)

    @property
    def room(self) -> int | None:
        """Bytes of GPU memory that a stage may plan with; None without a GPU."""
        return None if self.machine.gpu is None else vram.room(self.machine.gpu)

    @property
    def seconds(self) -> float | None:
        """Seconds of all steps that are still to do, as far as they are known; None where of no stage they are."""
        known = [one for stage in self.stages if (one := stage.seconds) is not None]
        return sum(known) if known else None

    @property
    def sessions(self) -> int | None:
        """Sessions that those seconds take; None where either is not known."""
        length = self.job.hardware.max_session
        return None if self.seconds is None or not length else math.ceil(self.seconds / length)

    @property
    def timed(self) -> bool:
        """Whether the seconds of every stage that has steps are known. A stage that does not train has none."""
        return all(
            stage.seconds is not None
            for stage in self.stages
            if stage.total is not None or stage.settings.data is not None
        )


def to_json(plan: Plan) -> dict[str, Any]:
    """`plan` for `plan --json`."""
    from qvl_run import settings

    gpu = plan.machine.gpu
    return {
        "job": plan.job.name,
        "file": str(plan.job.path),
        "machine": {
            "assumed": plan.machine.assumed,
            "gpu": None
            if gpu is None
            else {"name": gpu.name, "vram": gpu.vram, "capability": list(gpu.capability)},
            "ram": plan.machine.ram,
            "cores": plan.machine.cores,
        },
        "storage": plan.storage,
        "scratch": str(plan.scratch),
        "mirror_rate": plan.job.storage.mirror_rate,
        "patience": plan.job.storage.patience,
        "room": plan.room,
        "space": {**asdict(plan.space), "total": plan.space.total},
        "time": {
            "seconds": None if plan.seconds is None else round(plan.seconds, 1),
            "whole": plan.timed,
            "sessions": plan.sessions,
        },
        "decisions": [asdict(d) for d in plan.decisions],
        "stages": [
            {
                "name": stage.spec.name,
                "uses": stage.spec.uses,
                "state": stage.state,
                "step": stage.step,
                "total": stage.total,
                "reasons": list(stage.reasons),
                "key": stage.key,
                "starts_from": None if stage.input is None else str(stage.input),
                "folder": None if stage.held is None else str(stage.held),
                "rejected": [
                    {"folder": str(r.held), "reason": r.reason, "broken": r.broken}
                    for r in stage.rejected
                ],
                "changes": dict(stage.changes),
                "decisions": [asdict(d) for d in stage.decisions],
                "needs": _needs(stage.needs),
                "time": _time(stage),
                "settings": settings.to_json(stage.settings),
            }
            for stage in plan.stages
        ],
        "recovery": rules.to_json(plan.job.recovery),
        "findings": [
            {"code": f.code, "severity": f.severity, "message": f.message, "hint": f.hint}
            for f in plan.findings
        ],
    }


def _time(stage: StagePlan) -> dict[str, Any] | None:
    if stage.pace is None:
        return None
    return {
        "steps": stage.left,
        "step_seconds": round(stage.pace.step, 3),
        "seconds": None if stage.seconds is None else round(stage.seconds, 1),
        "measured": stage.pace.measured,
        "source": stage.pace.source,
    }


def _needs(needs: Estimate) -> dict[str, Any]:
    return {
        "vram": _peak(needs.vram),
        "evaluation": _peak(needs.evaluation),
        "ram": needs.ram,
        "download": needs.download,
        "checkpoint": needs.checkpoint,
        "output": needs.output,
    }


def _peak(peak: Peak | None) -> dict[str, Any] | None:
    if peak is None:
        return None
    return {"phase": peak.phase, "total": peak.total, "parts": dict(peak.parts)}
