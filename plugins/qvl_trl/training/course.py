"""The course of every stage: read, load, measure, train, measure again, save.

Resumption is exact: sample order, learning rate, random state and weights go on as if nothing had
happened. A stage that was stopped before its first checkpoint starts over.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from qvl_run import plugins
from qvl_run.contract import (
    DataError,
    Example,
    Kind,
    StageContext,
    StageResult,
    StageStopped,
)
from qvl_run.settings import DataSettings
from qvl_trl.downloads.watch import watched
from qvl_trl.evaluation.answers import accuracy, need_answers
from qvl_trl.policy.artifact import save_artifact, usage
from qvl_trl.policy.load import Policy, load_policy
from qvl_trl.policy.lora import unrounded
from qvl_trl.rows import to_dataset
from qvl_trl.training.callback import RunnerCallback
from qvl_trl.training.checkpoint import Saved, read_checkpoint, tensors_only
from qvl_trl.training.memory import Meter

BASELINE = "baseline"
"""Under this name the measures of the model before training are kept for later attempts."""


class Method(Protocol):
    """What one kind of stage adds to the course."""

    kind: Kind
    measure: str
    """Name of its measure on `eval_data`."""
    logged: str
    """The metric of TRL's log that is reported where there is no `eval_data`."""

    def check(self, ctx: StageContext, policy: Policy, examples: Sequence[Example]) -> None:
        """Raise DataError for a row that can be neither trained on nor measured."""

    def trainer(
        self, ctx: StageContext, policy: Policy, dataset: Any
    ) -> tuple[Any, RunnerCallback]:
        """TRL's trainer, ready to train, and the callback that it reports to."""

    def score(self, ctx: StageContext, policy: Policy, examples: Sequence[Example]) -> float:
        """The measure of `policy` on `examples`."""


def run_stage(ctx: StageContext, method: Method) -> StageResult:
    """Run the stage that `ctx` describes. Raises StageStopped and StageError."""
    settings, meter = ctx.settings, Meter(ctx.settings)
    with watched(ctx):
        examples = read_examples(settings.data, kind=method.kind, cache=ctx.cache)
    ctx.progress("load")
    saved = read_checkpoint(ctx.resume_from) if ctx.resume_from else None
    # `Trainer.train` cannot be asked to go on from a checkpoint of the last step: with `max_steps`
    # in the middle of an epoch it would train one step more.
    finished = saved is not None and saved.finished
    # Otherwise the trainer loads the checkpoint's weights: a full model's reference is loaded from
    # where the policy came from, and must be the stage's input.
    start = ctx.resume_from if finished else ctx.input
    with watched(ctx):
        policy = load_policy(settings.model, start=start, seed=settings.training.seed)
        held_out = read_held_out(ctx, method.kind)
    method.check(ctx, policy, examples)
    method.check(ctx, policy, held_out.rows)
    before: Mapping[str, float] = ctx.recorded(BASELINE) or {}
    if saved is None or not finished:
        if not before and (before := _measures(ctx, policy, method, held_out, trained=False)):
            ctx.record(BASELINE, before)
        saved = _train(ctx, policy, method, to_dataset(examples), saved, meter)
    after = _measures(ctx, policy, method, held_out, trained=True)
    measures: dict[str, tuple[float | None, float | None]] = {
        name: (before.get(name), value) for name, value in after.items()
    }
    if method.measure not in measures:
        logged = [entry[method.logged] for entry in saved.log if method.logged in entry]
        measures[method.logged] = (logged[0], logged[-1])
    ctx.progress("save")
    output = ctx.scratch / "final"
    save_artifact(policy, output)
    return StageResult(
        output=output,
        steps=saved.step,
        measures=measures,
        usage=usage(policy),
        memory=meter.read(),
    )


def read_examples(data: DataSettings | None, *, kind: Kind, cache: Path) -> Sequence[Example]:
    """The rows of `data`. Raises StageError; DataError where there is none."""
    assert data is not None, "the runner checks that a stage has its data"
    examples = plugins.data_format(data.format).examples(data, kind=kind, cache=cache)
    if not examples:
        raise DataError("there are no rows", source=data.path or data.format)
    return examples


def _no_card(*_: Any, **__: Any) -> None:
    """In place of what writes a README."""


@dataclass(frozen=True, kw_only=True)
class HeldOut:
    """What is measured on: `rows` of the stage's kind, and the `questions` of the job's evaluation; empty where the
    job has none. Read before training: a row that cannot be used is told before hours were spent."""

    rows: Sequence[Example]
    questions: Sequence[Example]


def read_held_out(ctx: StageContext, kind: Kind) -> HeldOut:
    """The held-out rows. Raises StageError; DataError for a question without an answer."""
    settings = ctx.settings
    rows: Sequence[Example] = ()
    questions: Sequence[Example] = ()
    if settings.eval_data is not None:
        rows = read_examples(settings.eval_data, kind=kind, cache=ctx.cache)
    if settings.evaluation:
        questions = read_examples(settings.evaluation.data, kind="prompt", cache=ctx.cache)
        need_answers(questions)
    return HeldOut(rows=rows, questions=questions)


def _measures(
    ctx: StageContext, policy: Policy, method: Method, held_out: HeldOut, *, trained: bool
) -> dict[str, float]:
    """What the job asks to measure. Accuracy before training is that of a base model only: that of an
    upstream stage's output was measured there. Greedy throughout: draws no random number."""
    settings = ctx.settings
    found = {}
    if held_out.rows:
        found[method.measure] = method.score(ctx, policy, held_out.rows)
    evaluation = settings.evaluation
    if evaluation and (trained or (ctx.input is None and evaluation.before_first)):
        found["accuracy"] = accuracy(ctx, policy, held_out.questions, evaluation)
    return found


def _train(
    ctx: StageContext,
    policy: Policy,
    method: Method,
    dataset: Any,
    saved: Saved | None,
    meter: Meter,
) -> Saved:
    """Train to the end, on from `saved`; returns the state then. Raises StageStopped after a stop that was saved."""
    from transformers import PrinterCallback

    with unrounded(policy.model):
        trainer, callback = method.trainer(ctx, policy, dataset)
    trainer.remove_callback(PrinterCallback)
    # A README in every checkpoint would be a third of a save's time.
    trainer.create_model_card = policy.model.create_or_update_model_card = _no_card
    if saved is not None:
        # TRL's count of tokens is no part of its checkpoints: it would begin at 0 again.
        trainer._total_train_tokens = saved.tokens
    if trainer.accelerator.scaler is None:
        # A run in fp16 that goes on where it takes bf16 or fp32: the scaler has nowhere to go.
        trainer._load_scaler = lambda checkpoint: None  # noqa: ARG005
    resume_from = str(ctx.resume_from) if ctx.resume_from else None
    try:
        with tensors_only(), meter.training(trainer.seen):
            trainer.train(resume_from_checkpoint=resume_from)
    except RuntimeError as error:
        raise _data_error(error) or error from None
    if callback.stopped:
        raise StageStopped
    state = trainer.state
    return Saved(state.global_step, state.max_steps, state.log_history)


def _data_error(error: RuntimeError) -> DataError | None:
    """A DataError of a data loader's worker process: torch hands on only its text."""
    found = re.search(
        r"^qvl_run\.contract\.DataError: (.+?:\d+|.+?, row \d+): (.+)$", str(error), re.M
    )
    return DataError(found[2], source=found[1]) if found else None
