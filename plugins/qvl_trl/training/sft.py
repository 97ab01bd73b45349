"""Supervised fine-tuning on TRL's SFTTrainer: the loss is the mean over the answers' tokens of a step, however its rows
are split into batches."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from trl import SFTConfig, SFTTrainer

from qvl_run.contract import Example, Kind, StageContext
from qvl_trl.evaluation.likelihood import loss
from qvl_trl.policy.load import Policy
from qvl_trl.training.arguments import training_arguments
from qvl_trl.training.callback import RunnerCallback
from qvl_trl.training.lengths import check_lengths
from qvl_trl.training.watched import Sourced, Watched


class Sft:
    """See `Method`."""

    kind: Kind = "sft"
    measure = "loss"
    logged = "loss"

    def check(self, ctx: StageContext, policy: Policy, examples: Sequence[Example]) -> None:
        """A prompt must leave room for one token of the answer."""
        if limit := ctx.settings.training.max_seq_length:
            check_lengths(ctx, examples, policy.processor, limit=limit, room=1)

    def trainer(
        self, ctx: StageContext, policy: Policy, dataset: Any
    ) -> tuple[Any, RunnerCallback]:
        """TRL's trainer on `policy.model`."""
        settings, callback = ctx.settings, RunnerCallback(ctx)
        config = SFTConfig(
            **training_arguments(settings, output_dir=ctx.scratch / "checkpoints"),
            max_length=settings.training.max_seq_length,
        )
        trainer = SplitSFTTrainer(
            model=policy.model,
            args=config,
            train_dataset=dataset,
            processing_class=policy.processor,
            callbacks=[callback],
        )
        trainer.data_collator = Sourced(trainer.data_collator)
        return trainer, callback

    def score(self, ctx: StageContext, policy: Policy, examples: Sequence[Example]) -> float:
        """Loss a token, in nats."""
        return loss(ctx, policy, examples)


class SplitSFTTrainer(Watched, SFTTrainer):
    """TRL's, except that every answer token of a step counts alike. For Qwen3-VL, transformers takes the mean of the
    batches' means, which depends on how a step is split into batches."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        # Asks for the step's number of tokens. TRL's loss divides by it; the model itself never sees it.
        self.model_accepts_loss_kwargs = True
