"""A valid job, resolved as far as the file alone goes: defaults merged, stages in order, sizes in bytes.

What depends on the machine (whatever says `auto`, Weights & Biases) is still open here and is decided by the plan.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

from qvl_run.recovery import rules
from qvl_run.recovery.rules import Policy
from qvl_run.settings import DataSettings, EvaluationSettings, TrainingSettings
from qvl_run.spec.diagnostic import Diagnostic
from qvl_run.spec.document import Document

SHORTEST_SECRET = 4


@dataclass(frozen=True, kw_only=True)
class Hardware:
    """What the job asks of a machine. Sizes in bytes, `max_session` in seconds; None where it asks nothing.
    `min_drive_space` speaks of the place that results go to, a drive or not."""

    tier: str | None = None
    min_vram: int | None = None
    min_compute_capability: tuple[int, int] | None = None
    min_ram: int | None = None
    min_drive_space: int | None = None
    min_disk: int | None = None
    max_session: float | None = None


@dataclass(frozen=True, kw_only=True)
class Storage:
    """`drive`: the folder that outlives the machine, or `bucket`: the URL of a store that does; with neither it is
    `qvl-runs/` here. `scratch`: on the machine's own disk; None means below the lasting folder, or the user's cache
    folder where that is a drive or a bucket. `mirror_rate`: bytes a
    second that checkpoints are taken there with; `patience`: seconds to wait for a drive that does not answer."""

    drive: Path | None = None
    bucket: str | None = None
    scratch: Path | None = None
    mirror_rate: int = 64 * 1024**2
    patience: float = 60.0


@dataclass(frozen=True, kw_only=True)
class StageSpec:
    """One stage. `model` is the job's `model` with the stage's changes, as written (`auto` not yet decided).

    `auto` are the dotted keys, such as `training.optim`, that the job leaves to the machine, precision and attention
    apart. Those of `training` have numbers nonetheless: what `auto` comes to where nothing can be told, the product of
    micro-batch and accumulation always being the global batch. `plan.fit` puts the machine's own values in their place
    and keeps `auto`.

    `upstream` names the stage it starts from, None for the base model or `init_from`. `downloads` is the job's drive,
    which keeps what is downloaded too.
    """

    name: str
    uses: str
    upstream: str | None
    init_from: Path | None
    model: Mapping[str, Any]
    training: TrainingSettings
    data: DataSettings | None
    eval_data: DataSettings | None
    evaluation: EvaluationSettings | None
    options: Mapping[str, Any]
    auto: frozenset[str] = field(default=frozenset())
    downloads: str | None = None


@dataclass(frozen=True, kw_only=True)
class Job:
    """A job file that has passed every check. `stages` stand in the order in which they run.

    `env` maps each value that came from the environment to the `${env:NAME}` that stands for it wherever the job is
    shown. `warnings` stop nothing.
    """

    name: str
    path: Path
    hardware: Hardware
    storage: Storage
    stages: tuple[StageSpec, ...]
    recovery: Policy = rules.DEFAULT
    wandb: Literal["auto"] | bool = "auto"
    env: Mapping[str, str] = field(default_factory=dict, repr=False)
    warnings: tuple[Diagnostic, ...] = ()
    document: Document = field(repr=False, compare=False)

    def with_warnings(self, warnings: Iterable[Diagnostic]) -> Job:
        """This job with these warnings."""
        return replace(self, warnings=tuple(warnings))

    def shown(self, text: str) -> str:
        """`text` without the values of environment variables."""
        for value, name in sorted(self.env.items(), key=lambda item: len(item[0]), reverse=True):
            # A value of a few characters is no secret, and would be found inside of numbers and words.
            if len(value) >= SHORTEST_SECRET:
                text = text.replace(value, name).replace(json.dumps(value)[1:-1], name)
        return text
