"""A stage that adds up the numbers 1 to `to`, and misbehaves before number `at_step`, in its first `times` attempts.

What it does is written down in `ctx.cache`, over all attempts: `pids`, one line an attempt, and `steps`, one line a
step done. A step that stands there twice was lost and done again.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterable
from pathlib import Path
from typing import Any, ClassVar

from qvl_misbehave.ways import WAYS
from qvl_run.contract import (
    DataError,
    Estimate,
    Example,
    Finding,
    StageContext,
    StageResult,
    StageStopped,
)
from qvl_run.settings import StageSettings

NAME = "sum.json"


class MisbehavingStage:
    """`uses: misbehave`."""

    name = "misbehave"
    data_kind = None
    schema: ClassVar[dict[str, Any]] = {
        "title": "misbehave",
        "description": "Counts, and misbehaves.",
        "type": "object",
        "additionalProperties": False,
        "properties": {
            name: {"title": name, "description": text, "default": default, **kind}
            for name, text, default, kind in (
                ("to", "Last number.", 10, {"type": "integer"}),
                ("way", "How to misbehave.", "none", {"enum": ["none", *WAYS]}),
                ("at_step", "Before which number.", 5, {"type": "integer"}),
                ("times", "In how many attempts.", 1, {"type": "integer"}),
            )
        },
    }

    def estimate(self, settings: StageSettings) -> Estimate:
        """One step a number."""
        return Estimate(optimizer_steps=settings.options["to"])

    def check(self, settings: StageSettings) -> Iterable[Finding]:
        """Nothing."""
        return ()

    def check_row(self, settings: StageSettings, example: Example) -> Iterable[DataError]:
        """It reads no rows."""
        return ()

    def run(self, ctx: StageContext) -> StageResult:
        """Count, with a checkpoint every `save_steps` numbers."""
        options = ctx.settings.options
        _add(ctx, "pids", os.getpid())
        state = {"step": 0, "sum": 0}
        if ctx.resume_from:
            state = json.loads((ctx.resume_from / NAME).read_text(encoding="utf-8"))
        ctx.progress("step", step=state["step"], total=options["to"])
        while state["step"] < options["to"]:
            number = state["step"] + 1
            due = number == options["at_step"] and options["way"] in WAYS
            if due and len(_lines(ctx, "misbehaved")) < options["times"]:
                _add(ctx, "misbehaved", number)
                WAYS[options["way"]](ctx)
            state = {"step": number, "sum": state["sum"] + number}
            _add(ctx, "steps", number)
            ctx.progress("step", step=number)
            stopping = ctx.stop_requested()
            if stopping or number % ctx.settings.training.save_steps == 0:
                ctx.progress("save", step=number)
                ctx.commit_checkpoint(
                    _write(ctx.scratch / f"checkpoint-{number}", state), step=number
                )
                ctx.progress("step", step=number)
            if stopping or ctx.stop_requested():
                raise StageStopped
        return StageResult(output=_write(ctx.scratch / "final", state), steps=options["to"])


def _write(folder: Path, state: dict[str, Any]) -> Path:
    folder.mkdir()
    (folder / NAME).write_text(json.dumps(state), encoding="utf-8")
    return folder


def _lines(ctx: StageContext, name: str) -> list[str]:
    path = ctx.cache / name
    return path.read_text(encoding="utf-8").split() if path.exists() else []


def _add(ctx: StageContext, name: str, number: int) -> None:
    ctx.cache.mkdir(parents=True, exist_ok=True)
    with (ctx.cache / name).open("a", encoding="utf-8") as file:
        file.write(f"{number}\n")


stage = MisbehavingStage()
