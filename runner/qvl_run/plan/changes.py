"""Changes to a stage that make it need less memory, by kind, those first that cost the result least. Pure."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from qvl_run.plan import chain
from qvl_run.plan.bench import filled
from qvl_run.plan.descent import AT_ONCE, value_of
from qvl_run.recovery.ladder import SHORTEST, Changes
from qvl_run.spec.batch import MICRO, SAMPLED, STEPS, WHOLE
from qvl_run.spec.job import StageSpec

RANK = 16
"""Of the adapters that a full fine-tune is offered."""
LEAST_RANK = 8
_LEAST_COMPLETION = 16
_MICRO, _STEPS = f"training.{MICRO}", f"training.{STEPS}"
_LORA, _RANK, _TARGETS = "model.lora", "model.lora.r", "model.lora.target_modules"


@dataclass(frozen=True, kw_only=True)
class Change:
    """One change: what to write, and what that makes of a stage, by dotted key and by option of its `with:`. `at` is
    the key that it stands at."""

    text: str
    at: str
    made: Changes = field(default_factory=dict)
    options: Mapping[str, Any] = field(default_factory=dict)

    def on(self, spec: StageSpec) -> StageSpec:
        """`spec` with it."""
        return filled(replace(spec, options={**spec.options, **self.options}), self.made)

    def within(self, other: Change) -> bool:
        """Whether nothing is left of it where `other` is made too: that says all of it anew, and perhaps more."""
        mine, others = ({*one.made, *one.options} for one in (self, other))
        return mine <= others


Kind = Callable[[StageSpec], Iterator[Change]]
"""What gives changes of one kind."""


def kinds(*, gpu: bool) -> Iterator[Kind]:
    """Each gives changes of one kind, every one needing less than the one before."""
    yield from (_micro, _sampling, _checkpointing, _evaluation)
    if gpu:
        yield _optim
    yield _adapters
    if gpu:
        yield _quantization
    yield from (
        _ranks,
        _targets,
        _images,
        _length,
        _global_batch,
        _completions,
    )


def _halves(start: int, least: int) -> Iterator[int]:
    while (start := start // 2) >= least:
        yield start


def _micro(spec: StageSpec) -> Iterator[Change]:
    micro, whole = _split(spec)
    for n in _halves(micro, 1):
        if whole % n == 0:
            text = f"{MICRO}: {n} and {STEPS}: {whole // n}"
            yield Change(text=text, at=_MICRO, made={_MICRO: n, _STEPS: whole // n})


def _sampling(spec: StageSpec) -> Iterator[Change]:
    rows = value_of(spec, AT_ONCE)
    for n in _halves(rows if isinstance(rows, int) else 1, 1):
        yield _option(SAMPLED, n)


def _split(spec: StageSpec) -> tuple[int, int]:
    """The micro-batch and the global batch."""
    micro = spec.training.per_device_train_batch_size
    return micro, micro * spec.training.gradient_accumulation_steps


def _checkpointing(spec: StageSpec) -> Iterator[Change]:
    if not spec.training.gradient_checkpointing:
        key = "training.gradient_checkpointing"
        yield Change(text="gradient_checkpointing: true", at=key, made={key: True})


def _evaluation(spec: StageSpec) -> Iterator[Change]:
    key = "evaluation.batch_size"
    for n in _halves(spec.evaluation.batch_size if spec.evaluation else 1, 1):
        yield Change(text=f"{key}: {n}", at=key, made={key: n})


def _optim(spec: StageSpec) -> Iterator[Change]:
    if _trains_all(spec) and spec.training.optim != "adamw_8bit":
        yield Change(
            text="optim: adamw_8bit", at="training.optim", made={"training.optim": "adamw_8bit"}
        )


def _trains_all(spec: StageSpec) -> bool:
    return spec.model.get("lora", {}) is None


def _quantization(spec: StageSpec) -> Iterator[Change]:
    if spec.model.get("quantization", "none") != "nf4" and not _trains_all(spec):
        made = {chain.QUANTIZATION: "nf4"}
        yield Change(text="quantization: nf4", at=chain.QUANTIZATION, made=made)


def _adapters(spec: StageSpec) -> Iterator[Change]:
    if _trains_all(spec):
        for rank in (RANK, LEAST_RANK):
            yield Change(text=f"lora: {{r: {rank}}}", at=_LORA, made={_LORA: {"r": rank}})


def _ranks(spec: StageSpec) -> Iterator[Change]:
    """What starts from an adapter of another run trains that, whose rank is given."""
    if not _trains_all(spec) and spec.init_from is None:
        for rank in _halves(value_of(spec, _RANK), LEAST_RANK):
            yield Change(text=f"lora.r: {rank}", at=_RANK, made={_RANK: rank})


def _targets(spec: StageSpec) -> Iterator[Change]:
    wide = not _trains_all(spec) and value_of(spec, _TARGETS) == "all-linear"
    if wide and spec.init_from is None:
        text = "lora.target_modules: language"
        yield Change(text=text, at=_TARGETS, made={_TARGETS: "language"})


def _images(spec: StageSpec) -> Iterator[Change]:
    images, length = spec.model.get("image_tokens"), spec.training.max_seq_length
    bounds = [images[1] if images else chain.BUDGETS[0] + 1, length or chain.BUDGETS[0] + 1]
    for most in chain.BUDGETS:
        if most < min(bounds):
            budget = [min(images[0], most), most] if images else chain.bounds(most)
            text = f"image_tokens: {budget}"
            yield Change(text=text, at=chain.IMAGES, made={chain.IMAGES: budget})


def _length(spec: StageSpec) -> Iterator[Change]:
    key = "training.max_seq_length"
    for length in _halves(spec.training.max_seq_length or 0, SHORTEST):
        yield Change(text=f"max_seq_length: {length}", at=key, made={key: length})


def _global_batch(spec: StageSpec) -> Iterator[Change]:
    """The pictures of all its rows are on the GPU at once."""
    for rows in _halves(_split(spec)[1], 1):
        yield _rows(spec, rows)


def _rows(spec: StageSpec, rows: int) -> Change:
    """A global batch of `rows`, said as the job says its own."""
    micro = spec.training.per_device_train_batch_size
    size = micro if rows % micro == 0 else 1
    texts = [f"{WHOLE}: {rows}" if _STEPS in spec.auto else f"{STEPS}: {rows // size}"]
    texts += [] if _MICRO in spec.auto else [f"{MICRO}: {size}"]
    return Change(
        text=" and ".join(texts),
        at=f"training.{texts[0].partition(':')[0]}",
        made={_MICRO: size, _STEPS: rows // size},
    )


def _completions(spec: StageSpec) -> Iterator[Change]:
    for length in _halves(spec.options.get("max_completion_length", 0), _LEAST_COMPLETION):
        yield _option("max_completion_length", length)


def _option(name: str, value: int) -> Change:
    key = f"with.{name}"
    return Change(text=f"{key}: {value}", at=key, options={name: value})
