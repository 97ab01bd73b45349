"""The resolved settings that a stage receives: what the job file says, defaults filled in, machine decisions taken.

Everything here is plain data: frozen, comparable, and JSON both ways (`to_json`, `from_json`), because it is
hashed into the stage's keys and handed to the attempt's process in a file. Defaults stand here once; a test holds
them equal to the defaults that `schemas/` publishes.
"""

from __future__ import annotations

import dataclasses
import types
import typing
from collections.abc import Hashable, Mapping
from dataclasses import dataclass, field
from functools import cache
from typing import Any, Literal, TypeVar, cast

Precision = Literal["fp32", "fp16", "bf16"]
T = TypeVar("T")


@dataclass(frozen=True, kw_only=True)
class LoraSettings:
    """Low-rank adaptation (Hu et al. 2021, arXiv:2106.09685), as PEFT's `LoraConfig` names it."""

    r: int = 16
    alpha: int = 32
    dropout: float = 0.0
    target_modules: tuple[str, ...] | Literal["all-linear", "language"] = "language"


@dataclass(frozen=True, kw_only=True)
class ModelSettings:
    """The base model. `name` is a hub id, a local folder, or a name of a `qvl.models` entry point; `random:` before it
    stands for its architecture with random weights.

    `precision` is the dtype of the compute (never "auto" here: the plan decides). `lora` is None for a full
    fine-tune. `image_tokens` bounds an image's tokens: (least, most), each token 32 x 32 pixels; None keeps the
    processor's own bounds.
    """

    name: str
    revision: str | None = None
    precision: Precision = "fp32"
    attention: Literal["sdpa", "eager", "flash_attention_2"] = "sdpa"
    quantization: Literal["none", "int8", "nf4"] = "none"
    lora: LoraSettings | None = field(default_factory=LoraSettings)
    image_tokens: tuple[int, int] | None = None


@dataclass(frozen=True, kw_only=True)
class TrainingSettings:
    """The optimisation loop, in the names of `transformers.TrainingArguments` where it has one.

    `max_steps` overrides `num_epochs` where it is set. `save_steps` is in optimizer steps.
    """

    num_epochs: float = 1.0
    max_steps: int | None = None
    per_device_train_batch_size: int = 1
    gradient_accumulation_steps: int = 8
    learning_rate: float = 1e-4
    lr_scheduler_type: Literal["linear", "cosine", "constant", "constant_with_warmup"] = "linear"
    warmup_ratio: float = 0.0
    weight_decay: float = 0.0
    adam_beta1: float = 0.9
    adam_beta2: float = 0.999
    max_grad_norm: float = 1.0
    max_seq_length: int | None = None
    gradient_checkpointing: bool = True
    optim: Literal["adamw_torch", "adamw_8bit"] = "adamw_torch"
    save_steps: int = 100
    logging_steps: int = 10
    dataloader_num_workers: int = 0
    seed: int = 0


@dataclass(frozen=True, kw_only=True)
class DataSettings:
    """Rows of one kind, read by the data format that `format` names.

    `path` is a local file (absolute here) or a hub dataset id; None for formats that generate. The rows are
    shuffled with `shuffle_seed` where it is set, then the first `max_samples` taken. `options` is the job's `with:`,
    valid under the format's own schema.
    """

    format: str
    path: str | None = None
    split: str | None = None
    revision: str | None = None
    max_samples: int | None = None
    shuffle_seed: int | None = None
    options: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class EvaluationSettings:
    """Accuracy by exact match of greedy answers. `before_first` also measures the stage's input model when the
    stage starts from the base model, not from another stage."""

    data: DataSettings
    max_new_tokens: int = 16
    batch_size: int = 8
    before_first: bool = True


@dataclass(frozen=True, kw_only=True)
class StageSettings:
    """All that one stage is told. `options` is the job's `with:`, valid under the stage's own schema and with
    that schema's defaults filled in; `downloads` the drive that keeps what is downloaded, see `caches`."""

    name: str
    uses: str
    model: ModelSettings
    training: TrainingSettings = field(default_factory=TrainingSettings)
    data: DataSettings | None = None
    eval_data: DataSettings | None = None
    evaluation: EvaluationSettings | None = None
    options: Mapping[str, Any] = field(default_factory=dict)
    wandb: bool = False
    downloads: str | None = None


def to_json(settings: Any) -> Any:
    """`settings` as JSON-ready data; tuples become lists, None stays."""
    if dataclasses.is_dataclass(settings) and not isinstance(settings, type):
        return {f.name: to_json(getattr(settings, f.name)) for f in dataclasses.fields(settings)}
    if isinstance(settings, Mapping):
        return {key: to_json(value) for key, value in settings.items()}
    if isinstance(settings, (list, tuple)):
        return [to_json(value) for value in settings]
    return settings


def from_json(cls: type[T], data: Mapping[str, Any]) -> T:
    """The inverse of `to_json` for the dataclasses of this module. Raises TypeError on an unknown key."""
    hints = _hints(cast(Hashable, cls))
    return cls(**{key: _build(hints.get(key, Any), value) for key, value in data.items()})


@cache
def _hints(cls: Any) -> dict[str, Any]:
    return typing.get_type_hints(cls)


def _build(hint: Any, value: Any) -> Any:
    if isinstance(hint, types.UnionType) or typing.get_origin(hint) is typing.Union:
        if value is None:
            return None
        members = [m for m in typing.get_args(hint) if m is not type(None)]
        if isinstance(value, list):
            members = [m for m in members if typing.get_origin(m) is tuple] or members
        elif isinstance(value, Mapping):
            members = [m for m in members if dataclasses.is_dataclass(m)] or members
        elif isinstance(value, float) and int in members and float not in members:
            return int(value)
        else:
            return value
        return _build(members[0], value)
    if hint is int and isinstance(value, float):
        return int(value)  # 1e2: a whole number to JSON Schema, and one here
    if dataclasses.is_dataclass(hint) and isinstance(value, Mapping):
        return from_json(typing.cast("type[Any]", hint), value)
    if typing.get_origin(hint) is tuple and isinstance(value, list):
        return tuple(value)
    return value
