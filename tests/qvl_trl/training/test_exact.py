"""A run that is resumed does what an uninterrupted one does, step for step and bit for bit (CPU).

Runs that save at every step stand for runs that are killed at every step: what a killed run leaves
is its newest checkpoint. Each resumed run must train on the same rows in the same order, log the
same numbers, sample the same completions, and leave the same checkpoints (weights, optimizer,
schedule, random state) and the same output.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import chain
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import Trainer, modeling_utils
from transformers.trainer_pt_utils import safe_globals
from trl.trainer.dpo_trainer import DataCollatorForVisionPreference
from trl.trainer.sft_trainer import DataCollatorForVisionLanguageModeling

from qvl_run import plugins
from qvl_run.contract import Example, StageStopped
from qvl_run.settings import LoraSettings, ModelSettings, StageSettings
from qvl_trl.evaluation.rewards import WeightedReward
from tests.qvl_trl.conftest import GRPO, FakeContext, Ran, scenes, stage_settings

STAGES = ("sft", "dpo", "grpo")
STEPS = 12
TIMES = frozenset({"step_time"})
"""Metrics that are measured with a clock."""


@dataclass(frozen=True)
class Variant:
    """A way to run a stage for 12 steps of 4 rows. In SFT and DPO, an epoch's last step has only one; the 4
    of GRPO are two completions to each of two prompts."""

    uses: str
    epochs: int = 2
    accumulation: int = 2
    workers: int = 0
    lora: bool = True
    gradient_checkpointing: bool = False

    def settings(self) -> StageSettings:
        per_epoch = STEPS // self.epochs
        changes: dict[str, Any] = {}
        if self.uses == "grpo":
            changes["options"] = {**GRPO["options"], "num_generations": 2}
            # A prompt too many: TRL's sampler leaves out what does not fill a step.
            rows = per_epoch * 2 + 1
        else:
            rows = (per_epoch - 1) * 4 + 1
        # Dropout draws random numbers in every step of SFT; the other stages turn it off.
        lora = LoraSettings(r=4, alpha=8, dropout=0.1) if self.lora else None
        changes["model"] = ModelSettings(name="qvl-tiny", lora=lora)
        changes["data"] = scenes(size=rows, image_size=64)
        changes["training"] = {
            "num_epochs": self.epochs,
            "gradient_accumulation_steps": self.accumulation,
            "per_device_train_batch_size": 4 // self.accumulation,
            "dataloader_num_workers": self.workers,
            "gradient_checkpointing": self.gradient_checkpointing,
            "save_steps": 1,
            "learning_rate": 1e-3 if self.lora else 1e-4,
            "lr_scheduler_type": "cosine",
            "warmup_ratio": 0.25,
            "weight_decay": 0.01,
        }
        return stage_settings(self.uses, **changes)


@dataclass
class Seen:
    """What the steps of the run under way trained on."""

    rows: list[list[list[int]]] = field(default_factory=list)
    """By optimizer step and batch."""
    completions: list[list[str]] = field(default_factory=list)


@dataclass(frozen=True)
class Run:
    """A run, and what it was seen to do."""

    ran: Ran
    rows: list[list[list[int]]]
    completions: list[list[str]]

    @property
    def log(self) -> list[Mapping[str, float]]:
        return [without_times(metrics) for metrics in self.ran.ctx.metrics]


def without_times(metrics: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in metrics.items() if name not in TIMES}


@pytest.fixture(scope="module")
def seen() -> Iterator[Seen]:
    """Filled by every run. Row numbers travel with the batches: worker processes make those."""
    seen = Seen()
    numbers = "row_numbers"

    def collating(original: Callable[..., dict[str, Any]]) -> Callable[..., dict[str, Any]]:
        def torch_call(self: Any, rows: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
            found = torch.tensor([number(row["example"]) for row in rows])
            return {**original(self, rows), numbers: found}

        return torch_call

    def taking(original: Callable[..., Any]) -> Callable[..., Any]:
        def get_batch_samples(self: Any, *args: Any) -> Any:
            batches, items = original(self, *args)
            seen.rows.append(
                [
                    batch.pop(numbers).tolist()
                    if isinstance(batch, dict)
                    else [number(row["example"]) for row in batch]
                    for batch in batches
                ]
            )
            return batches, items

        return get_batch_samples

    def scoring(original: Callable[..., list[float]]) -> Callable[..., list[float]]:
        def score(
            self: Any, completions: Sequence[str], examples: Sequence[Example]
        ) -> list[float]:
            seen.completions.append(list(completions))
            return original(self, completions, examples)

        return score

    with pytest.MonkeyPatch.context() as patch:
        for collator in (DataCollatorForVisionLanguageModeling, DataCollatorForVisionPreference):
            patch.setattr(collator, "torch_call", collating(collator.torch_call))
        patch.setattr(Trainer, "get_batch_samples", taking(Trainer.get_batch_samples))
        patch.setattr(WeightedReward, "score", scoring(WeightedReward.score))
        yield seen


def number(example: Example) -> int:
    return int(example.source.rsplit(":", 1)[1])


@pytest.fixture(scope="module")
def observe(run: Callable[..., Ran], seen: Seen) -> Callable[..., Run]:
    """Runs a stage to its end and tells what it did."""

    def observed(settings: StageSettings, **values: Any) -> Run:
        seen.rows, seen.completions = [], []
        return Run(run(settings, **values), seen.rows, seen.completions)

    return observed


@pytest.fixture(scope="module")
def whole(observe: Callable[..., Run]) -> Callable[[Variant], Run]:
    """The uninterrupted run of a variant, started from the whole run of the stage before it."""
    done: dict[Variant, Run] = {}

    def uninterrupted(variant: Variant) -> Run:
        if variant not in done:
            before = {"sft": None, "dpo": "sft", "grpo": "dpo"}[variant.uses]
            source = None
            if before is not None:
                source = uninterrupted(Variant(before, lora=variant.lora)).ran.result.output
            done[variant] = observe(variant.settings(), input=source)
        return done[variant]

    return uninterrupted


def digest(value: Any) -> Any:
    """`value` with every tensor and array in it replaced by a digest of its bytes."""
    if isinstance(value, torch.Tensor):
        value = (
            value.detach().cpu().contiguous().view(torch.uint8).numpy()
            if value.dim()
            else value.item()
        )
    if hasattr(value, "tobytes"):
        return hashlib.sha256(value.tobytes()).hexdigest()
    if isinstance(value, Mapping):
        return {key: digest(part) for key, part in value.items()}
    if isinstance(value, (list, tuple)):
        return [digest(part) for part in value]
    return value


def state(folder: Path) -> dict[str, Any]:
    """All that a checkpoint or an output holds which decides how training goes on, comparable."""
    found: dict[str, Any] = {
        path.name: hashlib.sha256(path.read_bytes()).hexdigest()
        for path in folder.glob("*.safetensors")
    }
    for name in ("optimizer.pt", "scheduler.pt", "rng_state.pth"):
        if (folder / name).exists():
            with safe_globals():
                found[name] = digest(torch.load(folder / name, weights_only=True))
    if (folder / "trainer_state.json").exists():
        trainer = json.loads((folder / "trainer_state.json").read_text())
        trainer["log_history"] = [without_times(entry) for entry in trainer["log_history"]]
        found["trainer"] = trainer
    return found


def check(variant: Variant, step: int, whole: Run, observe: Callable[..., Run]) -> None:
    """Resume the run of `variant` from its checkpoint of `step`, and compare."""
    ctx = whole.ran.ctx
    resumed = observe(variant.settings(), input=ctx.input, resume_from=ctx.checkpoints[step])
    assert resumed.rows == whole.rows[step:]
    assert resumed.completions == after(variant, step, whole.completions)
    assert resumed.log == whole.log[step:]
    later = [number for number in ctx.checkpoints if number > step]
    assert list(resumed.ran.ctx.checkpoints) == later
    for number in later:
        assert state(resumed.ran.ctx.checkpoints[number]) == state(ctx.checkpoints[number])
    assert state(resumed.ran.result.output) == state(whole.ran.result.output)
    assert resumed.ran.result.steps == STEPS


def after(variant: Variant, step: int, completions: list[list[str]]) -> list[list[str]]:
    """What was sampled after `step`: once a step, shown to each reward."""
    return completions[step * len(GRPO["options"]["rewards"]) :] if variant.uses == "grpo" else []


@pytest.mark.parametrize("step", range(1, STEPS + 1))
@pytest.mark.parametrize("uses", STAGES)
def test_resumes_exactly_from_every_step(
    uses: str, step: int, whole: Callable[[Variant], Run], observe: Callable[..., Run]
) -> None:
    variant = Variant(uses)
    check(variant, step, whole(variant), observe)


@pytest.mark.parametrize("step", [6, 9, 12])
@pytest.mark.parametrize("uses", STAGES)
def test_full_fine_tuning_resumes_exactly(
    uses: str, step: int, whole: Callable[[Variant], Run], observe: Callable[..., Run]
) -> None:
    """The reference must be the stage's input again, not the checkpoint."""
    variant = Variant(uses, lora=False)
    check(variant, step, whole(variant), observe)


@pytest.mark.parametrize(("step", "workers"), [(7, 2), (8, 2), (11, 0)])
@pytest.mark.parametrize("uses", STAGES)
def test_workers_and_later_epochs_resume_exactly(
    uses: str,
    step: int,
    workers: int,
    whole: Callable[[Variant], Run],
    observe: Callable[..., Run],
) -> None:
    """Before, at and after the end of the second epoch of three, without accumulation. Workers that are there
    no more change nothing."""
    variant = Variant(uses, epochs=3, workers=2, accumulation=1)
    resumed = dataclasses.replace(variant, workers=workers)
    check(resumed, step, whole(variant), observe)


@pytest.mark.parametrize("uses", STAGES)
def test_whole_runs_are_worth_comparing(uses: str, whole: Callable[[Variant], Run]) -> None:
    """Every epoch shuffles anew, every step learns, and the log says what to compare."""
    run = whole(Variant(uses))
    epochs = [[list(chain(*step)) for step in half] for half in (run.rows[:6], run.rows[6:])]
    taken = [sorted({row for step in epoch for row in step}) for epoch in epochs]
    if uses == "grpo":
        assert [len(rows) for rows in taken] == [12, 12]
        assert len({text for texts in run.completions for text in texts}) > STEPS
        assert all(metrics["kl"] >= 0 for metrics in run.log)
        assert len({metrics["reward"] for metrics in run.log}) > 1
    else:
        assert taken == [list(range(1, 22))] * 2
        assert [len(step) for step in epochs[1]] == [4, 4, 4, 4, 4, 1]
    assert epochs[0] != epochs[1]
    assert [metrics["num_tokens"] for metrics in run.log] == sorted(
        {metrics["num_tokens"] for metrics in run.log}
    )
    for name in ("loss", "learning_rate", "grad_norm"):
        assert len({metrics[name] for metrics in run.log}) > STEPS // 2
    assert len(run.log) == STEPS


@pytest.mark.parametrize("uses", STAGES)
def test_gradient_checkpointing_changes_no_number(
    uses: str,
    whole: Callable[[Variant], Run],
    make_context: Callable[..., FakeContext],
    seen: Seen,  # takes the row numbers out of the batches
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Dropout too: a layer that is computed again drops the same values."""
    recomputed = []
    call = modeling_utils.checkpoint
    monkeypatch.setattr(
        modeling_utils, "checkpoint", lambda *a, **k: (recomputed.append(1), call(*a, **k))[1]
    )
    without = whole(Variant(uses))
    assert not recomputed
    settings = Variant(uses, gradient_checkpointing=True).settings()
    ctx = make_context(settings, input=without.ran.ctx.input, stop_at=2)
    with pytest.raises(StageStopped):
        plugins.stage(uses).run(ctx)
    assert recomputed
    assert [without_times(metrics) for metrics in ctx.metrics] == without.log[:2]
    found, expected = state(ctx.checkpoints[2]), state(without.ran.ctx.checkpoints[2])
    del found["trainer"], expected["trainer"]  # the one was told to stop
    assert found == expected
