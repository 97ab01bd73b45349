"""The trainer's link to the runner: progress, checkpoints, and the wish to stop."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from qvl_run.contract import Section, StageContext


class RunnerCallback(TrainerCallback):
    """Reports every step, hands over every checkpoint, and saves and stops when asked to.

    `stopped` is true once training ended because of that.
    """

    def __init__(self, ctx: StageContext) -> None:
        self.ctx = ctx
        self.stopped = False

    def on_train_begin(
        self,
        args: TrainingArguments,  # noqa: ARG002
        state: TrainerState,
        control: TrainerControl,  # noqa: ARG002
        **kwargs: Any,  # noqa: ARG002
    ) -> None:
        """The first step may take long: kernels are chosen, memory is laid out."""
        self.ctx.progress("first_step", step=state.global_step, total=state.max_steps)

    def on_step_end(
        self,
        args: TrainingArguments,  # noqa: ARG002
        state: TrainerState,
        control: TrainerControl,
        **kwargs: Any,  # noqa: ARG002
    ) -> None:
        """Runs after the trainer has decided whether to save."""
        if self.ctx.stop_requested():
            self.stopped = control.should_save = control.should_training_stop = True
        if self.ctx.save_requested():
            control.should_save = True
        if control.should_save:
            control.should_log = True  # what is saved counts its tokens
            self.ctx.progress("save", step=state.global_step, total=state.max_steps)
        else:
            self.ctx.progress("step", step=state.global_step, total=state.max_steps)

    def on_log(
        self,
        args: TrainingArguments,  # noqa: ARG002
        state: TrainerState,
        control: TrainerControl,
        logs: dict[str, Any] | None = None,
        **kwargs: Any,  # noqa: ARG002
    ) -> None:
        """Metrics of the steps since the last log."""
        if not logs or "loss" not in logs:  # the summary at the end of training
            return
        metrics = {
            key: float(value) for key, value in logs.items() if isinstance(value, (int, float))
        }
        section: Section = "save" if control.should_save else "step"
        self.ctx.progress(section, step=state.global_step, total=state.max_steps, metrics=metrics)

    def on_save(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        **kwargs: Any,  # noqa: ARG002
    ) -> None:
        """The checkpoint is on disk; the reference adapter, always the stage's input, is left out of it.
        A stop that came with it needs no other."""
        folder = Path(args.output_dir) / f"checkpoint-{state.global_step}"
        shutil.rmtree(folder / "ref", ignore_errors=True)
        self.ctx.commit_checkpoint(folder, step=state.global_step)
        if self.ctx.stop_requested():
            self.stopped = control.should_training_stop = True
        self.ctx.progress("step", step=state.global_step, total=state.max_steps)
