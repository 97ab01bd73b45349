"""The rewards of a GRPO stage: looked up by name once, then asked about completions."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from qvl_run import plugins
from qvl_run.contract import DataError, Example, Reward, StageContext
from qvl_trl.evaluation.answers import sampled_answers
from qvl_trl.evaluation.batches import batches
from qvl_trl.policy.load import Policy

SAMPLES = 4
"""Answers sampled for each held-out prompt."""


@dataclass(frozen=True, kw_only=True)
class WeightedReward:
    """A reward as a job names it, its options complete."""

    reward: Reward
    weight: float
    options: Mapping[str, Any]

    def score(self, completions: Sequence[str], examples: Sequence[Example]) -> list[float]:
        """One number a completion, unweighted; `examples[i]` is the row behind `completions[i]`."""
        columns = {name: [e.column(name) for e in examples] for name in self.reward.columns}
        return self.reward.score(completions, columns=columns, options=self.options)


def load_rewards(entries: Sequence[str | Mapping[str, Any]]) -> list[WeightedReward]:
    """The rewards that `with.rewards` lists: names, or maps of name, weight and with."""
    loaded = []
    for entry in entries:
        spec: Mapping[str, Any] = {"name": entry} if isinstance(entry, str) else entry
        reward: Reward = plugins.load("qvl.rewards", spec["name"])
        properties = reward.schema.get("properties", {})
        defaults = {key: sub["default"] for key, sub in properties.items() if "default" in sub}
        options = {**defaults, **spec.get("with", {})}
        loaded.append(
            WeightedReward(reward=reward, weight=spec.get("weight", 1.0), options=options)
        )
    return loaded


def check_columns(examples: Sequence[Example], rewards: Sequence[WeightedReward]) -> None:
    """Raise DataError for the first row that lacks a column that a reward reads."""
    for example in examples:
        for weighted in rewards:
            for name in sorted(weighted.reward.columns):
                if example.column(name) is None:
                    raise DataError(
                        f'the row lacks "{name}", which the reward {weighted.reward.name} reads',
                        source=example.source,
                    )


def mean_reward(
    ctx: StageContext,
    policy: Policy,
    examples: Sequence[Example],
    rewards: Sequence[WeightedReward],
    *,
    max_new_tokens: int,
    temperature: float,
) -> float:
    """Mean over `SAMPLES` answers to each of `examples`, sampled as in training, of the weighted sum of rewards: what
    GRPO raises. The same seeds each time, so that two models are compared on equal terms."""
    total = 0.0
    repeated = [example for example in examples for _ in range(SAMPLES)]
    size = ctx.settings.training.per_device_train_batch_size
    for number, batch in enumerate(batches(ctx, repeated, size=size)):
        given = sampled_answers(
            policy, batch, max_new_tokens=max_new_tokens, temperature=temperature, seed=number
        )
        total += sum(w.weight * sum(w.score(given, batch)) for w in rewards)
    return total / len(repeated)
