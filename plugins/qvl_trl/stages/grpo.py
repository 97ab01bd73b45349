"""`grpo`: group relative policy optimization on questions whose answers rewards can judge."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from qvl_run import plugins
from qvl_run.contract import (
    DataError,
    Estimate,
    Example,
    Finding,
    Kind,
    StageContext,
    StageResult,
)
from qvl_run.settings import DataSettings, StageSettings
from qvl_run.spec.batch import AUTO, SAMPLED
from qvl_trl.memory.estimate import estimate
from qvl_trl.stages.common import check_common, known_rows, optimizer_steps
from qvl_trl.stages.pictures import check_budget, check_pictures
from qvl_trl.step import step_prompts, step_rows, too_few_prompts

_BATCH = (
    "training.global_batch_size training.gradient_accumulation_steps "
    "training.per_device_train_batch_size"
)
"""The keys that say how many rows a step has."""
REWARD = {
    "title": "Reward",
    "description": "The name of a reward, or a map of its name, weight and options.",
    "type": ["string", "object"],
    "additionalProperties": False,
    "required": ["name"],
    "properties": {
        "name": {
            "title": "Name",
            "description": "Name of a reward plugin; `qvl-run plugins` lists them.",
            "type": "string",
            "examples": ["exact_answer"],
        },
        "weight": {
            "title": "Weight",
            "description": "Factor of this reward in the sum.",
            "type": "number",
            "default": 1.0,
            "examples": [0.5],
        },
        "with": {
            "title": "Options",
            "description": "Options of the reward, as its plugin describes them.",
            "type": "object",
            "default": {},
            "examples": [{"max_words": 20}],
        },
    },
}


class GrpoStage:
    """Trains on TRL's GRPOTrainer; see `qvl_trl.training.grpo`."""

    name = "grpo"
    data_kind: Kind | None = "prompt"
    schema: Mapping[str, Any] = {
        "title": "grpo",
        "description": "What is sampled and how it is rewarded.",
        "type": "object",
        "additionalProperties": False,
        "properties": {
            "num_generations": {
                "title": "Group size",
                "description": "Completions sampled for each prompt; they are compared with each other.",
                "type": "integer",
                "minimum": 2,
                "default": 4,
                "examples": [4],
            },
            "max_completion_length": {
                "title": "Completion length",
                "description": "Most tokens of a completion.",
                "type": "integer",
                "minimum": 1,
                "default": 200,
                "examples": [256],
            },
            SAMPLED: {
                "title": "Sampling batch",
                "description": "Completions sampled at once, which memory is needed for; it does not change them. "
                "`auto` takes all of an optimizer step where the GPU holds that, else the largest divisor that fits. "
                "Where the memory is too small for it after all, it is halved.",
                "type": ["integer", "string"],
                "pattern": f"^({AUTO})$",
                "minimum": 1,
                "default": AUTO,
                "examples": [8],
            },
            "temperature": {
                "title": "Temperature",
                "description": "Of the sampling; lower makes the completions of a group more alike.",
                "type": "number",
                "exclusiveMinimum": 0,
                "default": 1.0,
                "examples": [0.9],
            },
            "beta": {
                "title": "Beta",
                "description": "Weight of the KL divergence from the model that the stage starts from. 0 turns it off, "
                "and saves the memory and the time of the reference.",
                "type": "number",
                "minimum": 0,
                "default": 0.04,
                "examples": [0.0],
            },
            "loss_type": {
                "title": "Loss",
                "description": "How token losses are averaged, as TRL names it: grpo by completion, dapo and bnpo over "
                "all tokens, dr_grpo by the greatest length.",
                "enum": ["dapo", "grpo", "bnpo", "dr_grpo"],
                "default": "dapo",
                "examples": ["grpo"],
            },
            "rewards": {
                "title": "Rewards",
                "description": "What a completion is worth: the weighted sum of these.",
                "type": "array",
                "minItems": 1,
                "items": REWARD,
                "default": ["exact_answer"],
                "examples": [
                    ["exact_answer", {"name": "brevity", "weight": 0.2, "with": {"max_words": 20}}]
                ],
            },
        },
    }

    def estimate(self, settings: StageSettings) -> Estimate:
        """Steps for at most `max_samples` prompts; those that do not fill a step are left out."""
        prompts = max(step_prompts(settings), 1)
        steps = optimizer_steps(settings, rows_per_step=prompts, partial=False)
        return estimate(settings, optimizer_steps=steps)

    def check(self, settings: StageSettings) -> Iterable[Finding]:
        """See `check_common`; and steps must hold whole groups, the rows must fill one, rewards must exist, and a
        completion must have room beside a prompt and the largest picture."""
        yield from check_common(settings)
        training, options = settings.training, settings.options
        rows, group = step_rows(settings), options["num_generations"]
        if rows % group:
            yield Finding(
                f"with.num_generations {_BATCH}",
                f"{group} completions a prompt do not fill a step of {rows} rows, the global batch: "
                "num_generations must divide that",
            )
        # Of a file without rows, what reads it says more.
        elif (n := known_rows(settings.data)) and (wrong := too_few_prompts(settings, n)):
            yield Finding(_few_at(settings.data, n), *wrong)
        limit, room = training.max_seq_length, options["max_completion_length"]
        if limit is not None and room >= limit:
            yield Finding(
                "with.max_completion_length",
                f"leaves no room for a prompt within training.max_seq_length {limit}",
            )
        else:
            yield from check_budget(settings, room=room)
        for entry in options["rewards"]:
            yield from _check_reward(entry, at="with.rewards")

    def check_row(self, settings: StageSettings, example: Example) -> Iterable[DataError]:
        """It must have what rewards read, and its pictures must leave room for a completion."""
        names = [e if isinstance(e, str) else e["name"] for e in settings.options["rewards"]]
        rewards = [plugins.load("qvl.rewards", name) for name in names]
        for column in sorted(frozenset().union(*(reward.columns for reward in rewards))):
            if example.column(column) is None:
                message = f'the row lacks "{column}", which its answer is judged by'
                yield DataError(message, source=example.source)
        room = settings.options["max_completion_length"]
        yield from check_pictures(settings, example, room=room)

    def run(self, ctx: StageContext) -> StageResult:
        """Train. Raises StageStopped and StageError."""
        from qvl_trl.training.course import run_stage
        from qvl_trl.training.grpo import Grpo

        return run_stage(ctx, Grpo())


def _few_at(data: DataSettings | None, rows: int) -> str:
    """The keys to blame for there being no more than `rows`."""
    return "data.max_samples" if data and data.max_samples == rows else "data.path data"


def _check_reward(entry: str | Mapping[str, Any], *, at: str) -> Iterator[Finding]:
    from jsonschema import Draft202012Validator

    name = entry if isinstance(entry, str) else entry["name"]
    try:
        reward = plugins.load("qvl.rewards", name)
    except KeyError:
        known = ", ".join(plugins.installed("qvl.rewards"))
        yield Finding(at, f'there is no reward called "{name}"; there are {known}')
        return
    except plugins.PluginError as error:
        yield Finding(at, str(error))
        return
    options = {} if isinstance(entry, str) else entry.get("with", {})
    for wrong in Draft202012Validator(reward.schema).iter_errors(options):
        yield Finding(at, f"{name}: {wrong.message}")


stage = GrpoStage()
