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
"""Seconds that a layer's kernels take to start on a GPU, in one direction, however few tokens go through it. Set by the
host more than by the card. Fitted, with `H100.flops`, to TRL alone on one H100: Qwen3-VL-2B, LoRA, rows of 464 tokens
(8 rows of SFT a step without checkpointing 0.70 s, with it 1.4; one at a time 4.7; 8 pairs of DPO 2.1)."""
DECODED = 2.5e-3
"""The same for a layer that one token of each answer goes through: 70 ms a token there, with 28 layers."""


@dataclass(frozen=True, kw_only=True)
class Rates:
    """What a machine does in training: `flops` a second, `one_pass` seconds to start a layer's kernels. `source` says
    where that comes from."""

    flops: float
    source: str
    one_pass: float = PASS
    decoded: float = DECODED


H100 = Rates(flops=2.0e14, source="measured on an H100")
H100_PUBLISHED = (989.0, 3350.0)
"""TFLOP/s in half precision, dense, summed in single precision; GB/s of memory."""
PUBLISHED: Mapping[str, tuple[float, float]] = {
    "L4": (121, 300),
    "V100": (125, 900),
    "A100": (312, 1555),
    "RTX PRO 6000": (504, 1597),
    "RTX 3060": (25.5, 360),
    "RTX 3090": (71, 936),
    "RTX 4090": (165, 1008),
    "RTX 5090": (210, 1792),
    "A10G": (70, 600),
    "L40S": (362, 864),
    "RTX A6000": (155, 768),
}
"""The same of other cards, by NVIDIA's data sheets and architecture papers."""
UNSURE = 3
"""How many times longer or shorter what is not measured may take: an estimate, no bound."""


def scaled(published: tuple[float, float]) -> float:
    """FLOP/s of a card beside the H100's. Half of the H100's time is taken to go by arithmetic, half by memory: a small
    card is not as slow as the one alone would have it."""
    arithmetic, memory = (card / h100 for card, h100 in zip(published, H100_PUBLISHED, strict=True))
    return H100.flops / (0.5 / arithmetic + 0.5 / memory)


# A T4 does not hold its published speed, at 70 W. Unsloth took 2119 s there for 120 steps of 8 packed rows of 2048
# tokens of Gemma-2B, which are 14 TFLOP/s, and TRL alone takes 1.64 times as long (huggingface/blog, unsloth-trl.md,
# Llama-2 7B). With this, 3000 steps of 16 rows of 128 tokens of ChatGLM-6B take 8 to 12 hours; somebody's took 7
# (27182812/ChatGLM-LLaMA-chinese-insturct #34). The Colab guide's 9 hours for the three stages of `t4_full_pipeline`
# are far more than all of these: it gives no settings to compare, and is an upper bound here.
# The two slow cores of Colab's free machine are taken to need twice as long to start a kernel.
_T4 = Rates(
    flops=8.5e12,
    source=f"by what other trainings took on a T4, within a factor of {UNSURE}",
    one_pass=2 * PASS,
    decoded=2 * DECODED,
)
_SCALED = f"scaled from an H100 by the card's published speed, within a factor of {UNSURE}"
_CARDS = {
    "T4": _T4,
    "H100": H100,
    **{name: Rates(flops=scaled(card), source=_SCALED) for name, card in PUBLISHED.items()},
}
CPU = Rates(flops=1.3e12, one_pass=1.3e-3, decoded=1.3e-3, source="")
"""Only how steps of one size and another compare where there is no GPU: fitted to qvl-tiny on two cores, 1 to 64 rows
at once. Rows are taken to be as long as usual ones, so these are no FLOP/s of any CPU."""


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
    others = "(?!.*\\b(Ti|SUPER|Laptop|D|Max-Q)\\b)"  # cards of their own
    return next((it for name, it in _CARDS.items() if re.search(rf"\b{name}\b{others}", gpu)), None)


def seconds(work: Work, known: Rates) -> float:
    """Seconds of a step."""
    starting = work.passes * known.one_pass + work.decoding * known.decoded
    return work.flops / known.flops + starting


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
            source = _source(one, stage, gpu)
            if share != 1:
                source += ", scaled by the work of a step"
            return Pace(step=one.step * share, source=source, measured=True)
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
    # Of a machine that nothing is known of, only how kernels and arithmetic compare is taken from another.
    known = CPU if gpu is None else rates(gpu) or H100
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
