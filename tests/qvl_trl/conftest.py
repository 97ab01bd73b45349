"""A stage's context in memory, and stages that have really run on qvl-tiny, shared by all tests."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from qvl_run import plugins
from qvl_run.contract import Section, StageResult
from qvl_run.settings import (
    DataSettings,
    EvaluationSettings,
    LoraSettings,
    ModelSettings,
    StageSettings,
    TrainingSettings,
)
from qvl_run.spec.schema import with_defaults


@dataclass
class FakeContext:
    """A `StageContext` that remembers what it was told. `stop_at` is the step at which a stop is asked for, `save_at`
    those at which a save is, `stop_with_save_at` the one whose save brings a stop; `failures` are those of the attempts
    before. Steps are counted from this attempt's first."""

    settings: StageSettings
    scratch: Path
    cache: Path
    input: Path | None = None
    resume_from: Path | None = None
    stop_at: int | None = None
    save_at: frozenset[int] = frozenset()
    stop_with_save_at: int | None = None
    failures: Mapping[str, int] = field(default_factory=dict)
    step: int = 0
    saving: bool = False
    stop: bool = False
    sections: list[str] = field(default_factory=list)
    metrics: list[Mapping[str, float]] = field(default_factory=list)
    checkpoints: dict[int, Path] = field(default_factory=dict)
    records: dict[str, Mapping[str, float]] = field(default_factory=dict)

    def progress(
        self,
        section: Section,
        *,
        step: int | None = None,
        total: int | None = None,
        metrics: Mapping[str, float] | None = None,
    ) -> None:
        if not self.sections or self.sections[-1] != section:
            self.sections.append(section)
        if metrics:
            self.metrics.append(metrics)

    def commit_checkpoint(self, folder: Path, *, step: int) -> None:
        self.checkpoints[step] = folder
        self.saving = True
        self.stop |= self.step == self.stop_with_save_at

    def stop_requested(self) -> bool:
        """Asked once a step, and once more after each save."""
        self.step += not self.saving
        self.saving = False
        return self.stop or (self.stop_at is not None and self.step >= self.stop_at)

    def save_requested(self) -> bool:
        return self.step in self.save_at

    def earlier(self, failure: str) -> int:
        return self.failures.get(failure, 0)

    def record(self, name: str, values: Mapping[str, float]) -> None:
        self.records[name] = values

    def recorded(self, name: str) -> Mapping[str, float] | None:
        return self.records.get(name)


@dataclass(frozen=True)
class Ran:
    """A stage that has run to its end."""

    ctx: FakeContext
    result: StageResult


def scenes(**options: Any) -> DataSettings:
    return DataSettings(format="spatial_scenes", options={"size": 10, **options})


def stage_settings(
    uses: str, *, training: Mapping[str, Any] | None = None, **changes: Any
) -> StageSettings:
    """Small and quick: 5 steps of 4 rows in two epochs of 10 rows, so that an epoch ends in a partial step."""
    common = {
        "num_epochs": 5 / 3,
        "per_device_train_batch_size": 2,
        "gradient_accumulation_steps": 2,
        "learning_rate": 1e-3,
        "save_steps": 2,
        "logging_steps": 1,
        "gradient_checkpointing": False,
    }
    options = changes.pop("options", {})
    values: dict[str, Any] = {
        "model": ModelSettings(name="qvl-tiny", lora=LoraSettings(r=4, alpha=8)),
        "data": scenes(),
        **changes,
    }
    return StageSettings(
        name=uses,
        uses=uses,
        training=TrainingSettings(**{**common, **(training or {})}),
        options=with_defaults(options, plugins.stage(uses).schema),
        **values,
    )


GRPO: Mapping[str, Any] = {
    "training": {"per_device_train_batch_size": 4},
    "data": scenes(size=6),
    # A temperature at which the completions of a group differ, and a reward that tells them apart.
    "options": {
        "num_generations": 4,
        "max_completion_length": 6,
        "temperature": 20.0,
        "rewards": ["exact_answer", {"name": "brevity", "weight": 0.5, "with": {"max_words": 2}}],
    },
}
"""Steps of two prompts, three an epoch."""


@pytest.fixture(scope="session", autouse=True)
def _one_thread() -> None:
    """Sums do not depend on the machine's cores, and tests beside other work stay quick."""
    import torch

    torch.set_num_threads(1)


@pytest.fixture(scope="session")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("cache")


@pytest.fixture(scope="session")
def make_context(
    tmp_path_factory: pytest.TempPathFactory, cache: Path
) -> Callable[..., FakeContext]:
    def make(settings: StageSettings, **values: Any) -> FakeContext:
        return FakeContext(
            settings, scratch=tmp_path_factory.mktemp("scratch"), cache=cache, **values
        )

    return make


@pytest.fixture(scope="session")
def run(make_context: Callable[..., FakeContext]) -> Callable[..., Ran]:
    """Runs a stage with the given settings to its end."""

    def run_stage(settings: StageSettings, **values: Any) -> Ran:
        ctx = make_context(settings, **values)
        return Ran(ctx, plugins.stage(settings.uses).run(ctx))

    return run_stage


@pytest.fixture(scope="session")
def sft(run: Callable[..., Ran]) -> Ran:
    return run(
        stage_settings(
            "sft",
            eval_data=scenes(split="test", size=4),
            evaluation=EvaluationSettings(data=scenes(split="test", size=4)),
        )
    )


@pytest.fixture(scope="session")
def dpo(run: Callable[..., Ran], sft: Ran) -> Ran:
    settings = stage_settings("dpo", eval_data=scenes(split="test", size=4))
    return run(settings, input=sft.result.output)


@pytest.fixture(scope="session")
def grpo(run: Callable[..., Ran], dpo: Ran) -> Ran:
    settings = stage_settings("grpo", eval_data=scenes(split="test", size=4), **GRPO)
    return run(settings, input=dpo.result.output)


def replace(settings: StageSettings, **training: Any) -> StageSettings:
    return dataclasses.replace(
        settings, training=dataclasses.replace(settings.training, **training)
    )
