"""Group relative policy optimization (Shao et al. 2024, arXiv:2402.03300) on TRL's GRPOTrainer.

The reference is the model that the stage starts from, as in DPO, and dropout is off, so that the KL
starts at 0. Each optimizer step samples anew, so a checkpoint never falls inside a generation batch.
What is sampled, and the step's loss, do not depend on how the step is split into batches.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import torch
from transformers import TrainerControl, TrainerState, TrainingArguments
from trl import GRPOConfig, GRPOTrainer
from trl.trainer.utils import RepeatSampler

from qvl_run.contract import DataError, Example, Kind, StageContext, StageError
from qvl_trl.evaluation.rewards import WeightedReward, check_columns, load_rewards, mean_reward
from qvl_trl.policy.load import Policy
from qvl_trl.policy.tokens import vision_tokens
from qvl_trl.step import sampled_at_once, too_few_prompts
from qvl_trl.training.arguments import training_arguments
from qvl_trl.training.callback import RunnerCallback
from qvl_trl.training.lengths import check_lengths
from qvl_trl.training.sampling import Sampler
from qvl_trl.training.watched import Watched


class Grpo:
    """See `Method`."""

    kind: Kind = "prompt"
    measure = "reward"
    logged = "reward"

    def check(self, ctx: StageContext, policy: Policy, examples: Sequence[Example]) -> None:
        """Rewards must find their columns, and completions their room."""
        settings, options = ctx.settings, ctx.settings.options
        check_columns(examples, load_rewards(options["rewards"]))
        if limit := settings.training.max_seq_length:
            room = options["max_completion_length"]
            check_lengths(ctx, examples, policy.processor, limit=limit, room=room)

    def trainer(
        self, ctx: StageContext, policy: Policy, dataset: Any
    ) -> tuple[Any, RunnerCallback]:
        """TRL's trainer on `policy.model`. Raises DataError where there are too few rows for one step."""
        settings, options = ctx.settings, ctx.settings.options
        if wrong := too_few_prompts(settings, len(dataset)):
            source = settings.data.path or settings.data.format if settings.data else "data"
            raise DataError("; ".join(wrong), source=source)  # the hint is not shown once it runs
        callback = RolloutCallback(ctx)
        rewards = load_rewards(options["rewards"])
        config = GRPOConfig(
            **training_arguments(settings, output_dir=ctx.scratch / "checkpoints"),
            num_generations=options["num_generations"],
            max_completion_length=options["max_completion_length"],
            temperature=options["temperature"],
            beta=options["beta"],
            # What was sampled serves one optimizer step and lives in memory alone: a step that used an
            # earlier one's samples could not be resumed exactly.
            steps_per_generation=settings.training.gradient_accumulation_steps,
            num_iterations=1,
            # TRL's bnpo is the mean over a batch's tokens; over those of the whole step it is dapo.
            loss_type="dapo" if options["loss_type"] == "bnpo" else options["loss_type"],
            reward_weights=[weighted.weight for weighted in rewards],
            generation_kwargs={"suppress_tokens": vision_tokens(policy)},
            disable_dropout=True,
        )
        trainer = ResumableGRPOTrainer(
            model=policy.model,
            args=config,
            reward_funcs=[reward_function(weighted, callback) for weighted in rewards],
            train_dataset=dataset,
            processing_class=policy.processor,
            callbacks=[callback],
            sampler=Sampler(rows=sampled_at_once(settings)),
        )
        return trainer, callback

    def score(self, ctx: StageContext, policy: Policy, examples: Sequence[Example]) -> float:
        """Mean weighted reward of sampled answers."""
        options = ctx.settings.options
        rewards = load_rewards(options["rewards"])
        length = options["max_completion_length"]
        return mean_reward(
            ctx,
            policy,
            examples,
            rewards,
            max_new_tokens=length,
            temperature=options["temperature"],
        )


class RolloutCallback(RunnerCallback):
    """Tells sampling from training: every optimizer step begins by sampling."""

    step = total = 0

    def on_step_begin(
        self,
        args: TrainingArguments,  # noqa: ARG002
        state: TrainerState,
        control: TrainerControl,  # noqa: ARG002
        **kwargs: Any,  # noqa: ARG002
    ) -> None:
        """Sampling begins."""
        self.step, self.total = state.global_step, state.max_steps
        self.ctx.progress("rollout", step=self.step, total=self.total)

    def sampled(self) -> None:
        """Sampling is over."""
        self.ctx.progress("step", step=self.step, total=self.total)


def reward_function(
    weighted: WeightedReward, callback: RolloutCallback
) -> Callable[..., list[float]]:
    """`weighted` as TRL calls rewards; its logs show it under the reward's name. Raises StageError where it gives no
    number: TRL would leave that completion out and not say so."""

    def score(
        completions: Sequence[list[dict[str, str]]],
        example: Sequence[Example],
        **kwargs: Any,  # noqa: ARG001
    ) -> list[float]:
        callback.sampled()
        scores = weighted.score([messages[0]["content"] for messages in completions], example)
        for value, row in zip(scores, example, strict=False):
            if value is None or not math.isfinite(value):
                raise StageError(
                    f"the reward {weighted.reward.name} gave {value} for a completion of {row.source}:"
                    " it must give a finite number for every completion",
                    failure="nan",
                )
        return scores

    score.__name__ = weighted.reward.name
    return score


class ResumableGRPOTrainer(Watched, GRPOTrainer):
    """TRL's, except that a run resumed in a later epoch keeps the prompts' order, where TRL's sampler would
    give the first epoch's again; and that completions are sampled in parts where the GPU's memory asks for it."""

    def __init__(self, *args: Any, sampler: Sampler | None = None, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.sampler = sampler or Sampler()

    def _generate_single_turn(self, prompt_ids: Any, images: Any, *args: Any, **kwargs: Any) -> Any:
        model = self.accelerator.unwrap_model(self.model)
        pictures = [len(of_row or ()) for of_row in images or [()] * len(prompt_ids)]
        model.generate = self.sampler.wrap(model.generate, pictures=pictures)
        try:
            return super()._generate_single_turn(prompt_ids, images, *args, **kwargs)
        finally:
            del model.generate

    def _get_train_sampler(self, dataset: Any = None) -> RepeatSampler:
        sampler = super()._get_train_sampler(dataset)
        return EpochSampler(
            sampler.data_source,
            mini_repeat_count=sampler.mini_repeat_count,
            batch_size=sampler.batch_size,
            repeat_count=sampler.repeat_count,
            shuffle=sampler.shuffle,
            seed=sampler.seed,
        )


class EpochSampler(RepeatSampler):
    """TRL's sampler, in the order that its `epoch`-th pass would have."""

    def set_epoch(self, epoch: int) -> None:
        """Called by the data loader before every epoch."""
        self.generator.manual_seed(self.seed)
        for _ in range(epoch):
            torch.randperm(self.num_samples, generator=self.generator)
