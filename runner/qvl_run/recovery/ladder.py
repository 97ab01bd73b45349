"""Less memory, one rung at a time: what to change after an out-of-memory, and what is remembered of it.

First what leaves the result as it is: the micro-batch is halved and accumulation grows, so that the global batch stays
(GRPO's groups too: they are counted in the global batch), then gradient checkpointing. What changes the result comes
after that, and only where a rule of the job names it. What is predicted to need more is passed over: between the
batches of a step gradients stay, which a step of one batch has no need of. The first kind is remembered for this kind
of GPU, the second for the job wherever it runs, since a checkpoint is of no use to other settings.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

from qvl_run.recovery.rules import NEUTRAL, Rung
from qvl_run.spec.batch import SAMPLED
from qvl_run.spec.job import StageSpec

ADAPTED = "adapted"
"""The event that remembers."""

SHORTEST = 512
"""Least `max_seq_length`: the guide's own advice."""
LEAST_RANK = 4
LEAST_IMAGE_TOKENS = 64

Changes = Mapping[str, Any]
"""Dotted keys below a stage, such as `training.per_device_train_batch_size`, with their new values."""
Needs = Callable[[StageSpec], int | None]
"""Bytes that a stage is predicted to need; None where that cannot be told."""
Accepts = Callable[[StageSpec], bool]
"""Whether a stage can run like that."""

_MICRO = "training.per_device_train_batch_size"
_ACCUMULATION = "training.gradient_accumulation_steps"
_NEUTRAL_KEYS = {
    _MICRO,
    _ACCUMULATION,
    "training.gradient_checkpointing",
    "training.dataloader_num_workers",
    "evaluation.batch_size",
    f"with.{SAMPLED}",
}
_BEFORE_BATCHES = frozenset({"setup", "download", "load"})
"""Sections in which no batch is in memory: a smaller one would free nothing."""
_WORKERS = "training.dataloader_num_workers"
_LORA = "model.lora."


@dataclass(frozen=True, kw_only=True)
class Step:
    """One rung: what it is called, what it changes, and that in words."""

    rung: Rung
    changes: Changes
    text: str


def next_step(
    spec: StageSpec,
    allowed: Sequence[Rung],
    *,
    section: str | None = None,
    needs: Needs = lambda _: None,
    accepts: Accepts = lambda _: True,
) -> Step | None:
    """The next rung for `spec`, as it was run last and failed in `section`; None where nothing is left that is
    `allowed`. One that `needs` more than `spec` does is none, nor one that leads to what is not accepted. As much is no
    reason: the peak of another moment hides what a rung saves in this one."""
    if not holds_batches(section):
        return None
    most = needs(spec)
    for rung in allowed:
        if rung == "eval_batch" and section != "eval":
            continue
        for step in _STEPS[rung](spec):
            after = apply(spec, step.changes)
            need = needs(after)
            if (most is None or need is None or need <= most) and accepts(after):
                return step
    return None


def apply(spec: StageSpec, changes: Changes) -> StageSpec:
    """`spec` with `changes` made."""
    model, options = dict(spec.model), dict(spec.options)
    training: dict[str, Any] = {}
    evaluation = spec.evaluation
    for path, value in changes.items():
        section, _, name = path.partition(".")
        if section == "evaluation":
            evaluation = replace(evaluation, **{name: value}) if evaluation else None
        elif section == "training":
            training[name] = value
        elif section == "with":
            options[name] = value
        elif name.startswith("lora."):
            model["lora"] = {**(model.get("lora") or {}), name.removeprefix("lora."): value}
        else:
            model[name] = value
    trained = replace(spec.training, **training)
    # What was changed is no longer the machine's to say.
    auto = spec.auto - frozenset(changes)
    return replace(
        spec, model=model, training=trained, evaluation=evaluation, options=options, auto=auto
    )


def within(spec: StageSpec, changes: Changes) -> dict[str, Any]:
    """`changes` without a micro-batch that is no smaller than that of `spec`: a machine that was predicted to hold less
    than it did when they were made takes the prediction."""
    kept = dict(changes)
    if kept.get(_MICRO, 0) >= spec.training.per_device_train_batch_size:
        del kept[_MICRO]
        kept.pop(_ACCUMULATION, None)
    return kept


def holds_batches(section: str | None) -> bool:
    """Whether batches are in memory in `section`, so that smaller ones help."""
    return section not in _BEFORE_BATCHES


def changes_result(changes: Iterable[str]) -> bool:
    """Whether any of `changes` makes another result than the job asks for."""
    return bool(set(changes) - _NEUTRAL_KEYS)


def digest(spec: StageSpec) -> str:
    """What memory depends on in the job file, so that a change there forgets what was remembered. `spec` is the stage
    as written: what `auto` comes to is the machine's."""
    training = asdict(spec.training)
    what: dict[str, Any] = {
        "uses": spec.uses,
        "model": dict(spec.model),
        "training": {
            name: training[name]
            for name in (
                "per_device_train_batch_size", "gradient_accumulation_steps", "gradient_checkpointing",
                "max_seq_length", "optim", "dataloader_num_workers",
            )
        },
        "evaluation": spec.evaluation.batch_size if spec.evaluation else None,
        "with": dict(spec.options),
    }  # fmt: skip
    if spec.auto:
        what["auto"] = sorted(spec.auto)
    return hashlib.sha256(json.dumps(what, sort_keys=True, default=str).encode()).hexdigest()[:12]


def remembered(
    records: Iterable[Mapping[str, Any]], stages: Sequence[StageSpec], stage: str, *, gpu: str
) -> dict[str, Any]:
    """The changes that hold for `stage` on a machine with that GPU, from any records of the run, in any order. A rank
    of LoRA holds for the stages that start from this one too: they train the same adapter."""
    records = [record for record in records if record.get("event") == ADAPTED]
    by_name = {spec.name: spec for spec in stages}
    line: list[StageSpec] = []
    at: str | None = stage
    while at is not None and at in by_name:
        line.append(by_name[at])
        at = by_name[at].upstream
    changes: dict[str, Any] = {}
    for spec in reversed(line):
        mine = [r for r in records if (r["stage"], r["settings"]) == (spec.name, digest(spec))]
        # Machines that did not know of each other may have made the same number of rungs: then always the same holds.
        for record in sorted(mine, key=lambda r: (int(r["rungs"]), _text(r["changes"]))):
            for path, value in record["changes"].items():
                # The rank is its first trainer's alone: later ones go on with that adapter.
                holds = spec.upstream is None if path.startswith(_LORA) else spec.name == stage
                if holds and (path not in _NEUTRAL_KEYS or record["gpu"] == gpu):
                    changes[path] = value
    return changes


def _text(changes: Changes) -> str:
    return json.dumps(changes, sort_keys=True)


def _eval_batch(spec: StageSpec) -> Iterator[Step]:
    size = spec.evaluation.batch_size if spec.evaluation else 1
    if size < 2:
        return
    yield Step(
        rung="eval_batch",
        changes={"evaluation.batch_size": size // 2},
        text=f"evaluation.batch_size {size} -> {size // 2}",
    )


def _micro_batch(spec: StageSpec) -> Iterator[Step]:
    training = spec.training
    micro = training.per_device_train_batch_size
    whole = micro * training.gradient_accumulation_steps
    smaller = micro
    while found := next((n for n in range(smaller // 2, 0, -1) if whole % n == 0), None):
        smaller = found
        yield Step(
            rung="micro_batch",
            changes={
                _MICRO: smaller,
                _ACCUMULATION: whole // smaller,
            },
            text=f"micro-batch {micro} -> {smaller}, accumulation {whole // micro} -> {whole // smaller}: "
            f"the global batch stays {whole}",
        )


def _gradient_checkpointing(spec: StageSpec) -> Iterator[Step]:
    if spec.training.gradient_checkpointing:
        return
    yield Step(
        rung="gradient_checkpointing",
        changes={"training.gradient_checkpointing": True},
        text="gradient checkpointing on: less memory, about a third more time",
    )


def _image_tokens(spec: StageSpec) -> Iterator[Step]:
    bounds = spec.model.get("image_tokens")
    if not bounds:
        return
    least, most = bounds
    smaller = max(most // 2, least, LEAST_IMAGE_TOKENS)
    if smaller >= most:
        return
    yield Step(
        rung="image_tokens",
        changes={"model.image_tokens": [least, smaller]},
        text=f"image_tokens at most {most} -> {smaller}: this changes the result",
    )


def _max_seq_length(spec: StageSpec) -> Iterator[Step]:
    length = spec.training.max_seq_length
    if length is None:
        return
    image = (spec.model.get("image_tokens") or (0, 0))[1]
    # Below this the image alone would not fit, which is an error and no saving.
    smaller = max(length // 2, SHORTEST, image + SHORTEST // 2)
    if smaller >= length:
        return
    yield Step(
        rung="max_seq_length",
        changes={"training.max_seq_length": smaller},
        text=f"max_seq_length {length} -> {smaller}: this changes the result",
    )


def _lora_rank(spec: StageSpec) -> Iterator[Step]:
    lora = spec.model.get("lora", {})
    # A stage that starts from an adapter trains that adapter, whose rank is given.
    if lora is None or spec.upstream is not None or spec.init_from is not None:
        return
    rank, alpha = int(lora.get("r", 16)), lora.get("alpha", 32)
    smaller = max(rank // 2, LEAST_RANK)
    if smaller >= rank:
        return
    yield Step(
        rung="lora_rank",
        # The scale alpha / r stays.
        changes={
            "model.lora.r": smaller,
            "model.lora.alpha": max(1, round(alpha * smaller / rank)),
        },
        text=f"lora.r {rank} -> {smaller}: this changes the result",
    )


def _workers(spec: StageSpec) -> Iterator[Step]:
    count = spec.training.dataloader_num_workers
    if count == 0:
        return
    yield Step(
        rung="workers",
        changes={_WORKERS: 0},
        text=f"dataloader_num_workers {count} -> 0: each worker holds memory of its own",
    )


_STEPS: Mapping[Rung, Callable[[StageSpec], Iterator[Step]]] = {
    "eval_batch": _eval_batch,
    "micro_batch": _micro_batch,
    "gradient_checkpointing": _gradient_checkpointing,
    "image_tokens": _image_tokens,
    "max_seq_length": _max_seq_length,
    "lora_rank": _lora_rank,
    "workers": _workers,
}
assert set(_STEPS) >= NEUTRAL
