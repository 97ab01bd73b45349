"""A stage that adds up the numbers 1, 2, 3 ... and saves its sum: what a stage needs, and nothing else.

It starts from its upstream stage's sum, goes on from a checkpoint, saves when it is asked to stop, and leaves an
output that the next stage can read.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any, ClassVar

from qvl_run.contract import (
    DataError,
    Estimate,
    Example,
    Finding,
    StageContext,
    StageError,
    StageResult,
    StageStopped,
)
from qvl_run.settings import StageSettings

NAME = "sum.json"


class CountStage:
    """`uses: count`."""

    name = "count"
    data_kind = None
    schema: ClassVar[dict[str, Any]] = {
        "title": "count",
        "description": "Adds up the numbers from 1 to `to`.",
        "type": "object",
        "additionalProperties": False,
        "required": ["to"],
        "properties": {
            "to": {
                "title": "Last number",
                "description": "Where to stop counting.",
                "type": "integer",
                "minimum": 1,
                "examples": [10],
            },
            "fail_at": {
                "title": "Fail at",
                "description": "Raise an error before this number, in the first attempt only; null: never.",
                "type": ["integer", "null"],
                "default": None,
                "examples": [5],
            },
        },
    }

    def estimate(self, settings: StageSettings) -> Estimate:
        """One step a number."""
        return Estimate(optimizer_steps=settings.options["to"])

    def check(self, settings: StageSettings) -> Iterable[Finding]:
        """`fail_at` must lie within the count."""
        fail_at, to = settings.options["fail_at"], settings.options["to"]
        if fail_at is not None and fail_at > to:
            yield Finding("with.fail_at", f"fail_at is {fail_at}, but the count ends at {to}")

    def check_row(self, settings: StageSettings, example: Example) -> Iterable[DataError]:  # noqa: ARG002
        """It reads no rows."""
        return ()

    def run(self, ctx: StageContext) -> StageResult:
        """Count, with a checkpoint every `save_steps` numbers."""
        to, fail_at = ctx.settings.options["to"], ctx.settings.options["fail_at"]
        state = {"step": 0, "sum": _read(ctx.input)["sum"] if ctx.input else 0}
        if ctx.resume_from:
            state = _read(ctx.resume_from)
        ctx.progress("step", step=state["step"], total=to)
        while state["step"] < to:
            number = state["step"] + 1
            if number == fail_at and ctx.recorded("failed") is None:
                ctx.record("failed", {"step": number})
                raise RuntimeError(f"asked to fail at {number}")
            state = {"step": number, "sum": state["sum"] + number}
            ctx.progress("step", step=number, total=to, metrics={"sum": state["sum"]})
            due = number % ctx.settings.training.save_steps == 0 or number == to
            stopping = ctx.stop_requested()
            if due or ctx.save_requested() or stopping:
                ctx.commit_checkpoint(
                    _write(ctx.scratch / f"checkpoint-{number}", state), step=number
                )
                stopping = ctx.stop_requested()
            if stopping:
                raise StageStopped
        output = _write(ctx.scratch / "final", state)
        return StageResult(
            output=output,
            steps=to,
            measures={"sum": (None, float(state["sum"]))},
            usage='print(open("{path}/sum.json").read())\n',
        )


def _write(folder: Path, state: dict[str, Any]) -> Path:
    folder.mkdir()
    (folder / NAME).write_text(json.dumps(state), encoding="utf-8")
    return folder


def _read(folder: Path) -> dict[str, Any]:
    try:
        state: dict[str, Any] = json.loads((folder / NAME).read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise StageError(f"{folder} holds no {NAME}", failure="config") from None
    return state


stage = CountStage()
