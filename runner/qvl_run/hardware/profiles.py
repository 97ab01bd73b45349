"""Machines that are not here: what Colab offers, by tier, and cards that people have at home or rent. Of their disks
and drives nothing is known."""

from __future__ import annotations

from collections.abc import Mapping

from qvl_run.hardware.facts import GIB, Gpu, Machine

# tier, GPU, its memory in GiB as `Gpu.vram` has it, compute capability (developer.nvidia.com/cuda-gpus), RAM in GiB,
# cores. That memory is what PyTorch calls the "total capacity" when it runs out: newer drivers hold more for
# themselves, so of several reports the least counts, on Linux. Where they are from:
#   t4 14.74: Colab, of the 15.0 that nvidia-smi shows       v100 15.78: Colab, googlecolab/colabtools #2001
#   l4 22.03: such reports; Colab's have been up to 22.16    a100-40gb 39.49: TianheWu/CoSeR #10, and others
#   a100-80gb 79.14: lianqi1008/Control-GIC #6               h100 79.11: measured, of the 79.65 that nvidia-smi shows
#   g4 94.97: reports of the Server Edition                  rtx3060-12gb 11.62: reports; older drivers 11.75
#   rtx3090 23.55: reports; older drivers 23.68              rtx4090 23.51: reports; older drivers 23.64
#   rtx5090 31.34: reports; TrajectoryCrafter #20 has 31.36  a10g 22.03: as an L4, in nvidia-smi too
#   l40s 44.39: QwenLM/Qwen3-VL #2097 has 44.40 of an L40    a6000 47.43: reports; 44.43 with ECC on
# RAM and cores of the t4 and cpu machines are the free ones'; the rest are what paid machines have shown, those of
# h100 and g4 unproved.
_COLAB = (
    ("cpu", "", 0.0, (0, 0), 12.7, 2),
    ("t4", "Tesla T4", 14.74, (7, 5), 12.7, 2),
    ("v100", "Tesla V100-SXM2-16GB", 15.78, (7, 0), 12.7, 2),
    ("l4", "NVIDIA L4", 22.03, (8, 9), 53.0, 12),
    ("a100-40gb", "NVIDIA A100-SXM4-40GB", 39.49, (8, 0), 83.5, 12),
    ("a100-80gb", "NVIDIA A100-SXM4-80GB", 79.14, (8, 0), 167.0, 12),
    ("h100", "NVIDIA H100 80GB HBM3", 79.11, (9, 0), 200.0, 16),
    ("g4", "NVIDIA RTX PRO 6000 Blackwell Server Edition", 94.97, (12, 0), 180.0, 24),
)
# Around these cards anything may stand: taken is a machine of 32 GiB and 8 cores.
_ELSEWHERE = tuple(
    (*card, 32.0, 8)
    for card in (
        ("rtx3060-12gb", "NVIDIA GeForce RTX 3060", 11.62, (8, 6)),
        ("rtx3090", "NVIDIA GeForce RTX 3090", 23.55, (8, 6)),
        ("rtx4090", "NVIDIA GeForce RTX 4090", 23.51, (8, 9)),
        ("rtx5090", "NVIDIA GeForce RTX 5090", 31.34, (12, 0)),
        ("a10g", "NVIDIA A10G", 22.03, (8, 6)),
        ("l40s", "NVIDIA L40S", 44.39, (8, 9)),
        ("a6000", "NVIDIA RTX A6000", 47.43, (8, 6)),
    )
)

GONE: Mapping[str, str] = {"v100": "Colab no longer offers it"}
"""Tiers that jobs may still name, and why they are hard to come by (google-colab-cli README)."""

PROFILES: Mapping[str, Machine] = {
    tier: Machine(
        gpu=Gpu(name=name, vram=round(vram * GIB), capability=capability) if name else None,
        gpus=1 if name else 0,
        ram=round(ram * GIB),
        cores=cores,
        colab=colab,
        assumed=tier,
    )
    for colab, cards in ((True, _COLAB), (False, _ELSEWHERE))
    for tier, name, vram, capability, ram, cores in cards
}
"""By tier. `colab`: whether it is a machine of Colab's."""


def profile(tier: str) -> Machine:
    """The facts of `tier`. Raises KeyError where there is no such tier."""
    return PROFILES[tier]


def named(word: str) -> str | None:
    """The tier that is called `word`, in whatever case; None where there is none."""
    return word.lower() if word.lower() in PROFILES else None


def meant(word: str) -> str:
    """A hint with the tiers that `word`, which is none, can only mean; else with all. Names this short resemble each
    other: a100 looks like v100."""
    bare = _bare(word)
    near = [f'"{tier}"' for tier in PROFILES if len(bare) > 1 and bare in _bare(tier)]
    if near:
        return f"did you mean {' or '.join(near)}?"
    return f"known: {', '.join(PROFILES)}"


def _bare(name: str) -> str:
    return "".join(character for character in name.lower() if character.isalnum())
