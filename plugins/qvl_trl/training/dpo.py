"""Direct preference optimization (Rafailov et al. 2023, arXiv:2305.18290) on TRL's DPOTrainer.

The reference is the model that the stage starts from: TRL freezes a copy of the adapter, or loads
the full model's folder once more. Dropout is off, so that the loss starts at ln 2 exactly. A step's
loss is that of all its pairs, however they are split into batches.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from trl import DPOConfig, DPOTrainer

from qvl_run.contract import Example, Kind, StageContext
from qvl_trl.evaluation.likelihood import preference_accuracy
from qvl_trl.policy.load import Policy
from qvl_trl.training.arguments import training_arguments
from qvl_trl.training.callback import RunnerCallback
from qvl_trl.training.lengths import check_lengths
from qvl_trl.training.watched import Sourced, Watched


def _losses(options: Mapping[str, Any]) -> dict[str, Any]:
    """The preference loss, and where it has a weight the chosen answers' own."""
    names, weights = [options["loss_type"]], [1.0]
    if options["sft_weight"]:
        names, weights = [*names, "sft"], [*weights, options["sft_weight"]]
    return {"loss_type": names, "loss_weights": weights}


class Dpo:
    """See `Method`."""

    kind: Kind = "preference"
    measure = "preference_accuracy"
    logged = "loss"

    def check(self, ctx: StageContext, policy: Policy, examples: Sequence[Example]) -> None:
        """A prompt must leave room for one token of each answer."""
        if limit := ctx.settings.training.max_seq_length:
            check_lengths(ctx, examples, policy.processor, limit=limit, room=1)

    def trainer(
        self, ctx: StageContext, policy: Policy, dataset: Any
    ) -> tuple[Any, RunnerCallback]:
        """TRL's trainer on `policy.model`."""
        settings, callback = ctx.settings, RunnerCallback(ctx)
        config = DPOConfig(
            **training_arguments(settings, output_dir=ctx.scratch / "checkpoints"),
            max_length=settings.training.max_seq_length,
            beta=settings.options["beta"],
            **_losses(settings.options),
            label_smoothing=settings.options["label_smoothing"],
            disable_dropout=True,
        )
        trainer = SplitDPOTrainer(
            model=policy.model,
            args=config,
            train_dataset=dataset,
            processing_class=policy.processor,
            callbacks=[callback],
        )
        trainer.data_collator = Sourced(trainer.data_collator)
        return trainer, callback

    def score(self, ctx: StageContext, policy: Policy, examples: Sequence[Example]) -> float:
        """Share of held-out pairs told apart."""
        return preference_accuracy(ctx, policy, examples)


class SplitDPOTrainer(Watched, DPOTrainer):
    """TRL's, except that every pair of a step counts alike, and for the SFT weight every token of a chosen
    answer. TRL takes the mean of the batches' means, which depends on how a step is split into batches."""

    loss_weights: Sequence[Any]

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._weights = tuple(self.loss_weights)
        self._pairs: list[float] = []
        self._tokens: list[torch.Tensor] = []

    def get_batch_samples(self, *args: Any, **kwargs: Any) -> Any:
        """The batches of one optimizer step."""
        batches, items = super().get_batch_samples(*args, **kwargs)
        pairs = [len(rows) for rows in self.sources]
        self._pairs = [len(batches) * count / sum(pairs) for count in pairs]
        if "sft" in self.loss_types:
            tokens = [
                batch["completion_mask"][:count, 1:].sum()  # the chosen answers come first
                for batch, count in zip(batches, pairs, strict=True)
            ]
            whole = torch.stack(tokens).sum().clamp(min=1)
            self._tokens = [len(batches) * count / whole for count in tokens]
        return batches, items

    def compute_loss(self, *args: Any, **kwargs: Any) -> Any:
        """The loss of the next batch, weighted by its share of the step: the trainer takes the batches' mean."""
        batch = len(self.done)
        self.loss_weights = [
            weight * (self._tokens if name == "sft" else self._pairs)[batch]
            for name, weight in zip(self.loss_types, self._weights, strict=True)
        ]
        return super().compute_loss(*args, **kwargs)
