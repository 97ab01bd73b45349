"""The plugin contract: what a stage, a data format, a reward, a bundled model and a store are to the runner.

Each is an object behind an entry point (`qvl.stages`, `qvl.data_formats`, `qvl.rewards`, `qvl.models`, `qvl.stores`).
Importing the module that holds it must stay cheap: no torch, no transformers; `run`, `examples`, `score` and `open` may
import what they like. `schema` is a JSON Schema (draft 2020-12) of the object's `with:`, closed by
`additionalProperties: false`, with a title, a description and a default for every key that has one.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, NamedTuple, Protocol, runtime_checkable

from qvl_run.checkpoints.store import Store
from qvl_run.settings import DataSettings, StageSettings

Kind = Literal["sft", "preference", "prompt"]
Section = Literal["setup", "download", "load", "first_step", "step", "eval", "rollout", "save"]


class StageStopped(Exception):
    """Raised by `StageContext.progress` where a stop was asked for and nothing needs saving first, and by a stage
    that stopped after saving. The run ends as stopped early (exit code 75), resumable."""


class StageError(Exception):
    """A failure that the user can act on. `failure` is one of the runner's failure classes.

    The message must say what is wrong and what to do; no traceback is shown for it.
    """

    def __init__(
        self,
        message: str,
        *,
        failure: Literal["config", "data", "download", "nan", "disk", "oom", "error"],
    ) -> None:
        super().__init__(message)
        self.failure = failure


class DataError(StageError):
    """A row or a file of the data that cannot be used. `source` is where: `file:line`, or a hub id and a row. `hint`
    says what to set; it is shown where rows are checked before anything runs."""

    def __init__(self, message: str, *, source: str, hint: str = "") -> None:
        super().__init__(f"{source}: {message}", failure="data")
        self.source, self.hint = source, hint


class Finding(NamedTuple):
    """What a stage has against its settings: a key path below the stage (`with.num_generations`, `with.rewards.0`),
    what is wrong there, what to do. A warning stops nothing.

    Where settings contradict each other, the path may be several, spaces between: the first of them that the job
    writes is pointed at.
    """

    path: str
    message: str
    hint: str = ""
    severity: Literal["error", "warning"] = "error"


@dataclass(frozen=True, kw_only=True)
class Peak:
    """Memory of the GPU at the moment of a stage when most of it is in use, as PyTorch's allocator counts it: the CUDA
    context and its libraries lie outside.

    `phase` is that moment in a word or two ("backward", "sampling"); `parts` are bytes by what holds them ("weights",
    "optimizer", "activations", "logits").
    """

    phase: str
    parts: Mapping[str, int]

    @property
    def total(self) -> int:
        """Bytes of all parts."""
        return sum(self.parts.values())


@dataclass(frozen=True, kw_only=True)
class Work:
    """What one optimizer step is made of, whatever machine does it, for rows of a usual length.

    `flops` are floating-point operations, of forward and backward, of what is computed again, of a reference and of
    sampling. `passes` counts layers that are gone through one after another, each way and each time: however small a
    batch, none takes less than it takes to start its kernels. `decoding` counts those that are gone through to sample,
    one token at a time.
    """

    flops: int
    passes: int = 0
    decoding: int = 0


@dataclass(frozen=True, kw_only=True)
class Estimate:
    """What a stage will need, from its settings alone, at the longest rows that they admit; in bytes. None where that
    cannot be told before something is downloaded or read; `unknown` says why, for people, where `vram` is None.

    `work` is that of one step. `vram` is the peak of training, `evaluation` of what is measured beside it, whose
    batches recovery makes smaller without touching the training: neither is ever less than what is taken. `at_least`
    is what no row changes: weights and what is trained of them. `ram` is the process on the host, without what `vram`
    counts: where there is no GPU, that lies there too; `movable` says that it may in any case. `download` is the base
    model, `generated` what is made in its place, once, below the cache; `checkpoint` and `output` one folder of
    either.
    """

    optimizer_steps: int | None
    work: Work | None = None
    vram: Peak | None = None
    evaluation: Peak | None = None
    at_least: int | None = None
    unknown: str = ""
    ram: int | None = None
    movable: bool = False
    download: int | None = None
    generated: int | None = None
    checkpoint: int | None = None
    output: int | None = None


@dataclass(frozen=True, kw_only=True)
class StageResult:
    """What a finished stage leaves: `output`, a folder in its scratch holding the artifact that the next stage (or
    plain transformers and peft) loads; `steps`, optimizer steps done in all; `measures`, named numbers for the
    report, each (before, after), either None where it was not measured; `usage`, lines of Python that load it,
    with `{path}` where its folder goes; `memory`, bytes of the GPU: `peak`, `training` and `predicted` (what was
    predicted for the rows that were trained on), with what else is worth keeping. Empty without a GPU."""

    output: Path
    steps: int
    measures: Mapping[str, tuple[float | None, float | None]] = field(default_factory=dict)
    usage: str = ""
    memory: Mapping[str, float] = field(default_factory=dict)


class StageContext(Protocol):
    """What a stage may ask of the runner while it runs. All paths are local and absolute."""

    @property
    def settings(self) -> StageSettings:
        """What this stage is told to do."""

    @property
    def input(self) -> Path | None:
        """The upstream stage's output, or what `init_from` names: an adapter or a full model. None: base model."""

    @property
    def scratch(self) -> Path:
        """An empty folder of this attempt alone."""

    @property
    def cache(self) -> Path:
        """A folder for generated data that attempts and stages share; what is in it can be made again."""

    @property
    def resume_from(self) -> Path | None:
        """A verified checkpoint of this stage to go on from."""

    def progress(
        self,
        section: Section,
        *,
        step: int | None = None,
        total: int | None = None,
        metrics: Mapping[str, float] | None = None,
    ) -> None:
        """Say where the stage is. Cheap enough for every step. Raises StageStopped outside of the training loop
        (sections other than "step", "rollout" and "save") when a stop was asked for."""

    def commit_checkpoint(self, folder: Path, *, step: int) -> None:
        """Hand over a whole checkpoint, written below `scratch`. Its manifest is written here; the runner takes it
        to storage. `folder` must not be written to afterwards."""

    def stop_requested(self) -> bool:
        """True once the run should save and stop. It may become true with a save: ask after `commit_checkpoint` too."""

    def save_requested(self) -> bool:
        """True, once, where a checkpoint should be saved at the end of this step, whatever `save_steps` says."""

    def earlier(self, failure: str) -> int:
        """How many attempts of this stage in a row, right before this one, ended by that class of failure."""

    def record(self, name: str, values: Mapping[str, float]) -> None:
        """Keep numbers that a later attempt of this stage must not measure again (a baseline, say)."""

    def recorded(self, name: str) -> Mapping[str, float] | None:
        """What `record` kept under `name` in any attempt of this stage with the same settings, else None."""


@runtime_checkable
class Stage(Protocol):
    """One kind of stage, chosen in a job by `uses:`."""

    name: str
    schema: Mapping[str, Any]
    """An option called `generation_micro_batch_size`, a number or `auto`, is known to the runner: how many rows are
    sampled at once. The plan fits `auto`, and it is no part of what decides the result."""
    data_kind: Kind | None
    """The kind of rows it trains on; None where it takes no data."""

    def estimate(self, settings: StageSettings) -> Estimate:
        """From the settings and the number of rows (`DataFormat.count`), without importing anything heavy. Asked for
        many settings in a row where `auto` is fitted to a GPU: a call should take about a millisecond. A smaller image
        budget, fewer rows sampled at once and gradient checkpointing must not need more `vram`, nor a smaller
        micro-batch at the same global batch. There one thing is different: with an accumulation of 1 gradients need
        not stay beside the activations, so that any other split may need more than that one."""

    def check(self, settings: StageSettings) -> Iterable[Finding]:
        """Each setting that cannot work. Empty where all is well. Pure, but for a look at the local files that settings
        name."""

    def check_row(self, settings: StageSettings, example: Example) -> Iterable[DataError]:
        """What keeps a row of a local file from being trained on, beside what its kind demands: a column that it
        lacks, pictures too large for the sequence. Asked for every row before anything runs: a look at the headers
        of its pictures at most. Rows that have the same wrong with them should have the same message."""

    def run(self, ctx: StageContext) -> StageResult:
        """Do the stage's work, in a process of its own. Raises StageError for what the user can mend and
        StageStopped where it stopped early, as asked."""


@dataclass(frozen=True, kw_only=True)
class Example:
    """One row of data, whatever file it came from. `images` are local files or encoded bytes, not yet decoded.

    `question` and `answer` for kinds "sft" and "prompt"; `question`, `chosen` and `rejected` for "preference".
    `source` names the row for people (`rows.jsonl:17`). `columns` are further columns, which rewards may read.
    """

    images: tuple[Path | bytes, ...]
    question: str
    answer: str | None = None
    chosen: str | None = None
    rejected: str | None = None
    source: str
    columns: Mapping[str, Any] = field(default_factory=dict)

    def column(self, name: str) -> Any:
        """The answer for "answer", else the further column of that name; None where the row has none."""
        return self.answer if name == "answer" else self.columns.get(name)


@runtime_checkable
class DataFormat(Protocol):
    """One way to read rows, chosen in a job by `data.format`."""

    name: str
    schema: Mapping[str, Any]
    kinds: frozenset[Kind]
    location: Literal["file", "hub", "generated"]
    """What `data.path` must name: a local file, a hub dataset id, or nothing."""

    def check(self, data: DataSettings, *, kind: Kind) -> Iterator[DataError]:
        """All problems that can be found without a network and without heavy imports: rows without an image, images
        that cannot be read. Reads only the rows that `data.max_samples` admits. Rows that have the same wrong with
        them should have the same message: it is told once."""

    def count(self, data: DataSettings) -> int | None:
        """How many rows there are, at most `data.max_samples`; None where that is not known without a network or heavy
        imports. Cheap: asked again and again."""

    def fingerprint(self, data: DataSettings, *, kind: Kind) -> str:
        """What decides which rows come out, as a short text: a digest of the files, or id and revision."""

    def examples(self, data: DataSettings, *, kind: Kind, cache: Path) -> Sequence[Example]:
        """The rows, in order, at most `data.max_samples`. May download or generate below `cache`."""


@runtime_checkable
class Reward(Protocol):
    """One reward function for GRPO, chosen in a job by `with.rewards`."""

    name: str
    schema: Mapping[str, Any]
    columns: frozenset[str]
    """Columns that a row must have: "answer", or a name in `Example.columns`."""

    def score(
        self,
        completions: Sequence[str],
        *,
        columns: Mapping[str, Sequence[Any]],
        options: Mapping[str, Any],
    ) -> list[float]:
        """One number a completion, higher is better. `columns[name][i]` belongs to `completions[i]`."""


@runtime_checkable
class BundledModel(Protocol):
    """A model that a distribution ships as package data, chosen in a job by `model.name`."""

    name: str

    def folder(self) -> Path:
        """The folder that `from_pretrained` takes."""


@runtime_checkable
class StoreScheme(Protocol):
    """One kind of store, chosen in a job by the scheme of `storage.bucket`. `tests/qvl_run/checkpoints/test_stores.py`
    holds what every store must do."""

    name: str
    """The scheme, without `://`."""

    def missing(self) -> Sequence[str]:
        """What `pip install` must bring before `open` works; empty where all is there. Imports none of it."""

    def check(self, url: str) -> Iterable[str]:
        """Pure: what is wrong with `url`, for people. It has the right scheme, no user and no password."""

    def open(self, url: str) -> Store:
        """The store whose root `url` is. Credentials come from elsewhere. Raises OSError where it cannot be made; it
        need not be reached yet."""
