"""A stage's needs from its settings alone: memory of the GPU and of the host, downloads, disk, and its work."""

from __future__ import annotations

from dataclasses import replace

from qvl_run.contract import Estimate, Peak
from qvl_run.settings import Precision, StageSettings
from qvl_trl.memory import weights
from qvl_trl.memory.predict import evaluation_peak, training_peak, without_rows
from qvl_trl.memory.shape import longest
from qvl_trl.models.architecture import RANDOM, Architecture, of_stage, on_hub
from qvl_trl.work import usual, work

PROCESS = 3 * 1024**3
"""Bytes of RAM of a process with the training libraries and CUDA loaded, beside weights that lie there: 2.0 to 2.8 GiB
that no file stands behind were seen on an H100 (`benchmarks/host_memory.py`). Weights go to the GPU as they are read;
a file of them is in memory once more while it is written."""
SMALL_FILES, WORD = 64 * 1024, 80
"""Bytes of a folder's small files, and of a word in its tokenizer.json: 36 KiB for `qvl-tiny`, 11 MB for Qwen3-VL."""
UNBOUNDED = "training.max_seq_length sets no bound to its rows"
UNKNOWN = "the sizes of its model are not known before its config.json is here"
PUBLISHED = 2
"""Bytes of a published weight: bfloat16."""


def estimate(settings: StageSettings, *, optimizer_steps: int | None) -> Estimate:
    """The needs of a stage that trains. Everything but its steps is None where the model's sizes cannot be told yet,
    its memory also where `max_seq_length` sets no bound to its rows."""
    sizes = of_stage(settings)
    if sizes is None:
        return Estimate(optimizer_steps=optimizer_steps, unknown=UNKNOWN)
    shape = longest(settings)
    vram = evaluation = None
    if shape is not None:
        vram = training_peak(settings, sizes, shape)
        evaluation = evaluation_peak(settings, sizes, shape)
    trained = 4 * weights.trained(sizes, settings.model.lora)
    state = weights.optimizer(sizes, settings)
    return Estimate(
        optimizer_steps=optimizer_steps,
        work=work(settings, sizes, usual(settings)),
        vram=vram,
        evaluation=evaluation,
        at_least=without_rows(settings, sizes),
        unknown="" if shape is not None else UNBOUNDED,
        ram=PROCESS,
        download=download(settings.model.name, sizes),
        generated=generated(settings.model.name, sizes),
        checkpoint=trained + state + small_files(sizes),
        output=trained + small_files(sizes),
    )


def small_files(sizes: Architecture) -> int:
    """Bytes of what lies beside the weights: tokenizer, processor, the trainer's state."""
    return SMALL_FILES + WORD * sizes.text.vocab_size


def download(name: str, sizes: Architecture) -> int:
    """Bytes that come from the hub before the model called `name` can be loaded."""
    return PUBLISHED * sizes.parameters if on_hub(name) else 0


def generated(name: str, sizes: Architecture) -> int:
    """Bytes of the random weights that the model called `name` stands for."""
    return PUBLISHED * sizes.parameters if name.startswith(RANDOM) else 0


def estimate_merge(settings: StageSettings) -> Estimate:
    """The needs of a stage that makes an adapter part of its base: the whole model in 16 bit, wherever it has room."""
    sizes = of_stage(settings)
    if sizes is None:
        return Estimate(optimizer_steps=None, unknown=UNKNOWN)
    whole = PUBLISHED * sizes.parameters
    return Estimate(
        optimizer_steps=None,
        vram=Peak(phase="merging", parts={"weights": whole}),
        evaluation=_merged_evaluation(settings, sizes),
        at_least=whole,
        ram=PROCESS,
        movable=True,
        checkpoint=0,
        download=download(settings.model.name, sizes),
        generated=generated(settings.model.name, sizes),
        output=whole + small_files(sizes),
    )


def merged_precision(settings: StageSettings) -> Precision:
    """What a merge's option `dtype` stands for."""
    chosen = settings.options["dtype"]
    if chosen == "auto":
        chosen = settings.model.precision
    return "fp16" if chosen == "fp16" else "bf16"


def _merged_evaluation(settings: StageSettings, sizes: Architecture) -> Peak | None:
    """Of the merged model, in 16 bit: as of a policy whose adapter, optimizer and batch are not there."""
    model = replace(settings.model, quantization="none", precision=merged_precision(settings))
    training = replace(
        settings.training, per_device_train_batch_size=1, gradient_accumulation_steps=1
    )
    policy = replace(settings, model=model, training=training)
    shape = longest(policy)
    peak = None if shape is None else evaluation_peak(policy, sizes, shape)
    if peak is None:
        return None
    parts = {name: n for name, n in peak.parts.items() if name not in ("adapters", "optimizer")}
    return replace(peak, parts=parts)
