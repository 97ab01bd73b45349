"""How long a step takes: what a stage says of its work, by what is known of the GPU, corrected by what was measured.

Pure. Without any measurement the numbers are rough, and say where they come from; as soon as some steps are behind a
stage on a GPU, its own pace is taken. Loading, evaluation and saving after the last step are not counted.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from qvl_run.checkpoints.manifest import Manifest
from qvl_run.contract import Work

PASS = 4.4e-3
"""Seconds that a layer's kernels take to start, in one direction, however few tokens go through it. Set by the host
more than by the card. Fitted, with `H100.flops`, to TRL alone on one H100: Qwen3-VL-2B, LoRA, rows of 464 tokens
(8 rows of SFT a step without checkpointing 0.70 s, with it 1.4; one at a time 4.7; 8 pairs of DPO 2.1)."""
DECODED = 2.5e-3
"""The same for a layer that one token of each answer goes through: 70 ms a token there, with 28 layers."""


@dataclass(frozen=True, kw_only=True)
class Rates:
    """What a GPU does: `flops` a second, in training in half precision. `source` says where that comes from."""

    flops: float
    source: str


H100 = Rates(flops=2.0e14, source="measured on an H100")
_SCALED = "scaled from an H100 by the card's published speed"
_PUBLISHED = 989.0
"""TFLOP/s of the H100: dense, in half precision, as for the cards below."""

# The T4's is no share of its published speed: with this, the three stages of `t4_full_pipeline` together take the 9
# hours that the guide gives them (1000 rows of SFT 4, 500 pairs of DPO 2, 300 prompts of GRPO 3), which is cautious.
_CARDS = (
    ("T4", Rates(flops=0.95e12, source="by the times that the Colab guide gives for a T4")),
    ("H100", H100),
    *(
        (name, Rates(flops=H100.flops * published / _PUBLISHED, source=_SCALED))
        for name, published in (("L4", 121), ("V100", 125), ("A100", 312), ("RTX PRO 6000", 500))
    ),
)


@dataclass(frozen=True, kw_only=True)
class Pace:
    """`step` is seconds of one optimizer step; `source` says for people how that is known, `measured` whether steps
    were timed on such a GPU."""

    step: float
    source: str
    measured: bool


@dataclass(frozen=True, kw_only=True)
class Timed:
    """Steps that were done: `step` is seconds of one, in the mean over `steps` of them. `gpu` is None without one."""

    stage: str
    uses: str
    key: str
    gpu: str | None
    work: Work | None
    step: float
    steps: int


def rates(gpu: str | None) -> Rates | None:
    """Of the GPU that its driver calls `gpu`; None where nothing is known of it, as of a slice of one (MIG)."""
    if gpu is None or "MIG" in gpu:
        return None
    return next((found for name, found in _CARDS if re.search(rf"\b{name}\b", gpu)), None)


def seconds(work: Work, known: Rates) -> float:
    """Seconds of a step."""
    return work.flops / known.flops + work.passes * PASS + work.decoding * DECODED


def expected(work: Work | None, gpu: str | None) -> float | None:
    """Seconds of a step where nothing was measured; None where that cannot be told."""
    known = rates(gpu)
    return None if work is None or known is None else seconds(work, known)


def timed(manifest: Manifest) -> Timed | None:
    """The steps that the attempt did that left `manifest`; None where it did none, or does not say."""
    facts = manifest.facts
    took, steps = facts.get("loop_seconds"), facts.get("loop_steps")
    if not took or not steps or "gpu" not in facts:
        return None
    return Timed(
        stage=manifest.stage,
        uses=str(manifest.identity.get("uses")),
        key=manifest.key,
        gpu=facts["gpu"],
        work=work_of(facts),
        step=took / steps,
        steps=steps,
    )


def work_of(facts: Mapping[str, Any]) -> Work | None:
    """The work of a step, as a manifest's facts have it; None where they have it otherwise than this version."""
    try:
        return Work(**facts["work"])
    except (KeyError, TypeError):
        return None


def pace(
    work: Work | None,
    *,
    stage: str,
    uses: str,
    key: str | None,
    gpu: str | None,
    half: bool,
    seen: Iterable[Timed],
) -> Pace | None:
    """Of the stage called `stage` on `gpu`; None where nothing is known.

    What was timed on that GPU goes before what is expected of it: of this very stage, then of this stage with other
    settings, then of another of its kind, each by how much more or less there is to do; of several, the longest. `half`
    is whether it computes in half precision: expectations are for that alone.
    """
    fitting = [one for one in seen if one.gpu == gpu and one.uses == uses]
    for one in sorted(fitting, key=lambda one: _nearness(one, stage, key), reverse=True):
        share = _share(work, one, gpu)
        if share is not None:
            return Pace(step=one.step * share, source=_source(one, stage, gpu), measured=True)
    known = rates(gpu)
    if work is None or known is None or not half:
        return None
    source = f"{known.source}; corrected by this job's own runs"
    return Pace(step=seconds(work, known), source=source, measured=False)


def _nearness(one: Timed, stage: str, key: str | None) -> tuple[bool, bool, int]:
    return one.stage == stage and one.key == key, one.stage == stage, one.steps


def _share(work: Work | None, one: Timed, gpu: str | None) -> float | None:
    """How much longer a step of `work` takes than one of those timed; None where that cannot be told."""
    if work == one.work:
        return 1.0
    if work is None or one.work is None:
        return None
    # Of a GPU that nothing is known of, only how kernels and arithmetic compare is taken from another.
    known = rates(gpu) or H100
    then = seconds(one.work, known)
    return seconds(work, known) / then if then else None


def _source(one: Timed, stage: str, gpu: str | None) -> str:
    where = "without a GPU" if gpu is None else "on this GPU"
    steps = "1 step" if one.steps == 1 else f"{one.steps} steps"
    return f"measured {where}, over {steps}" + ("" if one.stage == stage else f" of {one.stage}")


def all_timed(manifests: Iterable[Manifest | None]) -> Iterator[Timed]:
    """What is to be learnt from `manifests`."""
    for manifest in manifests:
        if manifest is not None and (found := timed(manifest)):
            yield found
