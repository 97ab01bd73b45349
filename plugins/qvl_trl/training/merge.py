"""An adapter made part of its base, in 16 bit: one folder that needs neither peft nor this package.

The base is loaded unquantized, also where the adapter was trained on a quantized one. Each adapted weight is
base + scale x B A, computed in float32 and rounded once: PEFT adds its float32 product to the weight in place, so
torch computes in float32. (PEFT's `safe_merge` rounds the product first, so that the sum is rounded twice.)
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import psutil
import torch
from peft.tuners.lora import LoraLayer

from qvl_run.contract import Example, StageContext, StageError, StageResult
from qvl_run.disk import LOCAL
from qvl_run.units import show_size
from qvl_trl.downloads.watch import watched
from qvl_trl.evaluation.answers import accuracy, need_answers
from qvl_trl.memory.estimate import PROCESS, merged_precision
from qvl_trl.policy.artifact import save_artifact, usage
from qvl_trl.policy.load import load_policy
from qvl_trl.policy.lora import is_adapter
from qvl_trl.training.course import read_examples

GPU_MARGIN = 1024**3
"""Bytes beside the weights: the adapter, one layer in float32, the CUDA context's growth."""
DISK_MARGIN = 64 * 1024**2


def merge(ctx: StageContext) -> StageResult:
    """Run the stage. Its measure is `rounding_loss`. Raises StageStopped and StageError."""
    settings, start = ctx.settings, ctx.input
    if start is None:
        raise StageError(
            "there is nothing to merge: merge takes the adapter of the stage before it, or of init_from",
            failure="config",
        )
    if not is_adapter(start):
        raise StageError(
            f"there is nothing to merge: {start} is a full model already", failure="config"
        )
    evaluation = settings.evaluation
    questions: Sequence[Example] = ()
    if evaluation:
        with watched(ctx):
            questions = read_examples(evaluation.data, kind="prompt", cache=ctx.cache)
        need_answers(questions)
    ctx.progress("load")
    model = replace(settings.model, quantization="none", precision=merged_precision(settings))
    with watched(ctx):
        policy = load_policy(model, start=start, seed=settings.training.seed, place=_place)
    lost = rounding_loss(policy.model)
    policy = replace(policy, model=merged(policy.model))
    measures: dict[str, tuple[float | None, float | None]] = {"rounding_loss": (None, lost)}
    if evaluation:
        measures["accuracy"] = (None, accuracy(ctx, policy, questions, evaluation))
    ctx.progress("save")
    _need_room(policy.model, ctx.scratch)
    output = ctx.scratch / "final"
    save_artifact(policy, output)
    return StageResult(output=output, steps=0, measures=measures, usage=usage(policy))


def rounding_loss(model: Any) -> float:
    """What a PeftModel's merged weights would lose to their dtype, as a share of what the adapter changes: the norm of
    the rounding over the norm of the change, of all adapted weights together. At 1, the one is as large as the other.
    """
    lost = changed = 0.0
    for layer in model.modules():
        if isinstance(layer, LoraLayer):
            weight = layer.get_base_layer().weight.detach()
            change = layer.get_delta_weight("default").detach()
            exact = weight.float() + change
            lost += float((exact.to(weight.dtype).float() - exact).square().sum())
            changed += float(change.square().sum())
    return math.sqrt(lost / changed) if changed else 0.0


def merged(model: Any) -> Any:
    """The base of a PeftModel with its adapter added. The adapter must be float32; the model is used up.

    Raises StageError where a weight is no number, or too large for its dtype, or cannot be merged into.
    """
    try:
        full = model.merge_and_unload()
    except ValueError as error:
        raise StageError(f"the adapter cannot be merged: {error}", failure="config") from error
    for name, weight in full.named_parameters():
        if not bool(torch.isfinite(weight).all()):
            raise StageError(
                f"{name} is not finite once it is merged: if with.dtype is fp16, try bf16, which holds larger "
                "numbers; otherwise the adapter is broken",
                failure="nan",
            )
    return full


def place(weights: int, *, gpu: int, ram: int) -> str:
    """The device for `weights` bytes, where this process can have so many bytes of the GPU (0: none) and of RAM, with
    what it holds of that already.

    Raises StageError where neither holds them.
    """
    if weights + GPU_MARGIN <= gpu:
        return "cuda:0"
    if weights + PROCESS <= ram:
        return "cpu"
    raise StageError(
        f"merging takes {show_size(weights + GPU_MARGIN)} of a GPU, of which {show_size(gpu)} are free here, or "
        f"{show_size(weights + PROCESS)} of RAM, of which this process can have {show_size(ram)}: run this stage on a "
        "larger machine",
        failure="config",
    )


def _place(folder: Path) -> str:
    weights = sum(path.stat().st_size for path in folder.glob("*.safetensors"))
    gpu = torch.cuda.mem_get_info()[0] if torch.cuda.is_available() else 0
    held = psutil.Process().memory_info()
    # Pages that a file stands behind are counted as available.
    own = held.rss - getattr(held, "shared", 0)
    return place(weights, gpu=gpu, ram=psutil.virtual_memory().available + own)


def _need_room(model: Any, folder: Path) -> None:
    need = sum(weight.nbytes for weight in model.parameters())
    if (free := LOCAL.free(folder)) < need + DISK_MARGIN:
        raise StageError(
            f"the merged model takes {show_size(need)} in {folder}, which has {show_size(free)} left: "
            "free some space there, or set storage.scratch to a larger disk",
            failure="disk",
        )
