"""A saved plan, and whether it still holds."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from qvl_run.plan import identity
from qvl_run.plan.plan import Plan, to_json
from qvl_run.spec.diagnostic import Diagnostic, JobError

_VOLATILE = ("ram", "cores")
"""Facts of a machine that decide nothing."""
_TIME = "time"
"""Under this key stands how long it will take, in all and by stage: every run corrects it, and it decides nothing."""


def refuse_stale(path: Path, plan: Plan) -> None:
    """Raise JobError where `plan`, made now, is not what the file at `path` says."""
    try:
        saved = json.loads(path.read_text(encoding="utf-8"))
        stages = {stage["name"]: _timeless(stage) for stage in saved["stages"]}
        fixed = _fixed(saved)
    except (OSError, ValueError, KeyError, TypeError) as error:
        message = f"--plan: {path} is no saved plan ({error})"
        hint = "make one with: qvl-run plan JOB --json > plan.json"
        raise JobError([Diagnostic(code="QVL012", message=message, hint=hint)]) from None
    # Through JSON and back, so that both sides have the same types; shown as the saved one was.
    now = json.loads(plan.job.shown(json.dumps(to_json(plan))))
    changes = list(identity.differences(fixed, _fixed(now)))
    for stage in now["stages"]:
        before = stages.pop(stage["name"], {})
        changes += identity.differences(before, _timeless(stage), f"stages.{stage['name']}")
    changes += [f"stages.{name}: gone" for name in stages]
    if changes:
        message = "the plan no longer holds: " + "; ".join(changes[:8])
        hint = "look at a new one: qvl-run plan JOB"
        raise JobError([Diagnostic(code="QVL012", message=message, hint=hint)])


def _fixed(plan: dict[str, Any]) -> dict[str, Any]:
    machine = {key: value for key, value in plan["machine"].items() if key not in _VOLATILE}
    apart = ("stages", "machine", "findings", _TIME)
    return {**{k: v for k, v in plan.items() if k not in apart}, "machine": machine}


def _timeless(stage: dict[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in stage.items() if key != _TIME}
