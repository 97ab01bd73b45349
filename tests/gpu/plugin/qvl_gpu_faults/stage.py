"""The real SFT stage on a GPU that is made smaller, killed in a backward pass, or given a kernel that never returns."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterable
from typing import Any, ClassVar

from qvl_run.contract import DataError, Estimate, Example, Finding, StageContext, StageResult
from qvl_run.settings import StageSettings
from qvl_trl.stages.sft import stage as sft

FOREVER = 10**17
"""Cycles of the GPU's clock: years."""


class FaultySft:
    """`uses: faulty_sft`."""

    name = "faulty_sft"
    data_kind = sft.data_kind
    schema: ClassVar[dict[str, Any]] = {
        "title": "faulty_sft",
        "description": "SFT that goes wrong.",
        "type": "object",
        "additionalProperties": False,
        "properties": {
            "memory": {
                "title": "memory",
                "description": "GiB that the process may use.",
                "type": "number",
                "default": 0,
            },
            "fault": {
                "title": "fault",
                "description": "What goes wrong in the first attempt.",
                "enum": ["none", "kill", "spin"],
                "default": "none",
            },
            "at": {
                "title": "at",
                "description": "At which micro-step.",
                "type": "integer",
                "default": 0,
            },
        },
    }

    def estimate(self, settings: StageSettings) -> Estimate:
        """As `sft`."""
        return sft.estimate(settings)

    def check(self, settings: StageSettings) -> Iterable[Finding]:
        """As `sft`."""
        return sft.check(settings)

    def check_row(self, settings: StageSettings, example: Example) -> Iterable[DataError]:
        """As `sft`."""
        return sft.check_row(settings, example)

    def run(self, ctx: StageContext) -> StageResult:
        """Train, and go wrong once."""
        import torch

        options = ctx.settings.options
        if options["memory"]:
            whole = torch.cuda.get_device_properties(0).total_memory
            torch.cuda.set_per_process_memory_fraction(options["memory"] * 2**30 / whole)
        if options["fault"] != "none" and ctx.recorded("went wrong") is None:
            _go_wrong(ctx, options["fault"], options["at"])
        return sft.run(ctx)


def _go_wrong(ctx: StageContext, fault: str, at: int) -> None:
    import torch
    from accelerate import Accelerator

    steps = 0
    backward = Accelerator.backward

    def faulty(self: Any, loss: Any, **kwargs: Any) -> None:
        nonlocal steps
        steps += 1
        if steps == at:
            ctx.record("went wrong", {"step": float(steps)})
            if fault == "kill":
                # In the middle: the gradient of the loss is there, those of the weights are not.
                loss.register_hook(lambda gradient: os.kill(os.getpid(), signal.SIGKILL))
            else:
                torch.cuda._sleep(FOREVER)
        backward(self, loss, **kwargs)

    Accelerator.backward = faulty


stage = FaultySft()
