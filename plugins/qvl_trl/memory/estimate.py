"""A stage's needs from its settings alone: memory of the GPU and of the host, downloads, disk, and its work."""

from __future__ import annotations

from qvl_run.contract import Estimate
from qvl_run.settings import StageSettings
from qvl_trl.memory import weights
from qvl_trl.memory.predict import peak
from qvl_trl.memory.shape import longest
from qvl_trl.models.architecture import Architecture, architecture, on_hub
from qvl_trl.work import usual, work

PROCESS = 4 * 1024**3
"""Bytes of RAM of a process with the training libraries and CUDA loaded; weights go to the GPU as they are read."""
FILES = 32 * 1024**2
"""Bytes of a folder's small files: tokenizer, processor, the trainer's state."""
PUBLISHED = 2
"""Bytes of a published weight: bfloat16."""


def estimate(settings: StageSettings, *, optimizer_steps: int | None) -> Estimate:
    """The needs of a stage that trains. Everything but its steps is None where the model's sizes cannot be told yet,
    its memory also where `max_seq_length` sets no bound to its rows."""
    sizes = architecture(settings.model.name, revision=settings.model.revision)
    if sizes is None:
        return Estimate(optimizer_steps=optimizer_steps)
    shape = longest(settings)
    vram = None if shape is None else peak(settings, sizes, shape)
    trained = 4 * weights.trained(sizes, settings.model.lora)
    gpu = settings.model.precision != "fp32"
    return Estimate(
        optimizer_steps=optimizer_steps,
        work=work(settings, sizes, usual(settings)),
        vram=vram,
        ram=PROCESS if gpu or vram is None else PROCESS + vram.total,
        download=download(settings.model.name, sizes),
        checkpoint=trained + weights.optimizer(sizes, settings) + FILES,
        output=trained + FILES,
    )


def download(name: str, sizes: Architecture) -> int:
    """Bytes that come from the hub before the model called `name` can be loaded."""
    return PUBLISHED * sizes.parameters if on_hub(name) else 0


def estimate_merge(settings: StageSettings) -> Estimate:
    """The needs of a stage that makes an adapter part of its base: the whole model in 16 bit, wherever it has room."""
    sizes = architecture(settings.model.name, revision=settings.model.revision)
    if sizes is None:
        return Estimate(optimizer_steps=None)
    whole = PUBLISHED * sizes.parameters
    return Estimate(
        optimizer_steps=None,
        ram=PROCESS + whole,
        download=download(settings.model.name, sizes),
        output=whole + FILES,
    )
