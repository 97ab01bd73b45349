"""The settings whose memory is measured: every one that a stage's peak depends on, varied.

`held_out`: measured once the terms of `qvl_trl.memory` stood, and never used to change them: they show what a
prediction is worth.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal

TWO, FOUR, EIGHT = (f"random:Qwen/Qwen3-VL-{size}-Instruct" for size in ("2B", "4B", "8B"))


@dataclass(frozen=True, kw_only=True)
class Setting:
    """One run: `batch` rows at a time, `accumulation` times a step; pictures of `image` (width, height); texts of so
    many tokens, the shortest and the longest. `follows`: it starts from an adapter, so that there is a copy of it for
    reference."""

    uses: Literal["sft", "dpo", "grpo"]
    model: str = TWO
    precision: Literal["fp32", "fp16", "bf16"] = "bf16"
    quantization: Literal["none", "int8", "nf4"] = "none"
    rank: int | None = 16
    targets: Literal["language", "all-linear"] = "language"
    attention: Literal["sdpa", "eager"] = "sdpa"
    optim: Literal["adamw_torch", "adamw_8bit"] = "adamw_torch"
    batch: int = 1
    accumulation: int = 1
    checkpointing: bool = True
    image: tuple[int, int] = (640, 480)
    question: tuple[int, int] = (60, 60)
    answer: tuple[int, int] = (90, 90)
    generations: int = 4
    completion: int = 32
    follows: bool = False
    held_out: bool = False


def settings() -> list[Setting]:
    """All of them."""
    sft = Setting(uses="sft")
    dpo = Setting(uses="dpo", follows=True)
    grpo = Setting(uses="grpo", follows=True, batch=4, accumulation=2)
    t4, four = {"precision": "fp16"}, {"model": FOUR, "quantization": "nf4", "precision": "fp16"}
    whole = {"checkpointing": False}
    fitted = [
        replace(sft, **t4),
        replace(sft, **t4, accumulation=4, question=(40, 120), answer=(30, 150)),
        replace(sft, batch=4),
        replace(sft, batch=4, **whole),
        replace(sft, batch=4, question=(40, 120), answer=(30, 150), **whole),
        replace(sft, batch=1, **t4, **whole),
        replace(sft, batch=2, image=(1024, 1024), rank=64),
        replace(sft, batch=8, answer=(700, 700)),
        replace(sft, **t4, question=(700, 700), answer=(1000, 1000)),
        replace(sft, rank=128, optim="adamw_8bit", batch=2),
        replace(dpo, **t4),
        replace(dpo, batch=2, answer=(30, 150)),
        replace(dpo, batch=2, answer=(30, 150), **whole),
        replace(dpo, follows=False, batch=2, image=(1024, 768)),
        replace(grpo, **t4, batch=1, accumulation=8),
        replace(grpo),
        replace(grpo, batch=8, accumulation=1, completion=64, **whole),
        replace(grpo, batch=2, generations=8, accumulation=8, image=(1024, 768)),
        replace(sft, **four),
        replace(sft, **four, question=(40, 120), answer=(300, 600)),
        replace(sft, **four, batch=2, **whole),
        replace(dpo, **four),
        replace(grpo, **four, batch=1, accumulation=8),
        replace(sft, **{**four, "quantization": "none"}),
        replace(sft, **{**four, "quantization": "int8"}),
        replace(sft, quantization="int8", **t4, batch=2),
        replace(sft, quantization="nf4", precision="bf16", batch=4, **whole),
        replace(sft, batch=3, image=(512, 384), rank=8, answer=(200, 300)),
        replace(sft, batch=6, image=(320, 240), **whole),
        replace(sft, batch=1, image=(1280, 960), **t4, answer=(400, 500)),
        replace(sft, batch=2, **t4, rank=32, question=(300, 500), **whole),
        replace(sft, batch=16, image=(320, 320), answer=(20, 60)),
        replace(sft, **four, batch=2, image=(800, 600), rank=32, answer=(150, 250)),
        replace(sft, **four, image=(512, 512), optim="adamw_8bit", rank=64, **whole),
        replace(
            sft,
            **{**four, "quantization": "none", "precision": "bf16"},
            batch=2,
            answer=(250, 250),
            **whole,
        ),
        replace(dpo, batch=3, image=(512, 512), rank=32, answer=(100, 400)),
        replace(dpo, **t4, image=(1024, 1024), answer=(40, 80)),
        replace(dpo, batch=1, **t4, rank=8, **whole),
        replace(dpo, **four, image=(512, 384), answer=(200, 300)),
        replace(
            grpo, batch=2, accumulation=2, generations=2, completion=48, rank=32, image=(512, 512)
        ),
        replace(grpo, batch=16, accumulation=1, generations=8, completion=24, image=(320, 320)),
        replace(grpo, **t4, batch=2, accumulation=4, completion=80, question=(200, 300)),
        replace(grpo, **four, batch=2, accumulation=2, completion=40, image=(800, 600)),
        replace(sft, quantization="nf4", **t4, batch=4, question=(100, 200)),
    ]
    wide = {"image": (720, 704), "answer": (1400, 1400)}
    # The first runs of these showed what the terms lacked.
    fitted += [
        replace(sft, rank=None, optim="adamw_8bit", batch=2),
        replace(sft, **t4, quantization="int8", rank=8, accumulation=2, image=(800, 600)),
        replace(sft, **t4, quantization="int8", batch=4, answer=(400, 600)),
        replace(dpo, **t4, quantization="int8"),
        replace(grpo, **t4, quantization="int8", batch=2, accumulation=2, completion=24),
        replace(sft, model=EIGHT, quantization="int8", precision="fp16"),
        replace(sft, batch=2, targets="all-linear"),
        replace(sft, **t4, targets="all-linear", image=(1024, 768), **whole),
        replace(dpo, **t4, targets="all-linear", rank=8),
    ]
    # The three T4 and A100 jobs at the longest rows that they admit, and whatever else is far from the above.
    held_out = [
        replace(sft, **t4, batch=8, **wide),
        replace(dpo, **t4, batch=4, accumulation=2, **wide),
        replace(
            grpo,
            **t4,
            batch=8,
            accumulation=1,
            image=(720, 704),
            question=(1200, 1200),
            completion=64,
        ),
        replace(sft, **four, batch=4, accumulation=2, **wide),
        replace(dpo, **four, batch=2, accumulation=2, image=(720, 704), answer=(700, 700)),
        replace(
            grpo,
            **four,
            batch=4,
            accumulation=2,
            image=(720, 704),
            question=(600, 600),
            completion=24,
        ),
        replace(sft, answer=(1500, 1500), **whole),
        replace(sft, batch=12, rank=24, image=(256, 256)),
        replace(sft, **t4, batch=3, image=(448, 448), answer=(50, 150), **whole),
        replace(sft, quantization="nf4", batch=2, question=(100, 300), **whole),
        replace(dpo, batch=6, rank=64, image=(384, 384), answer=(20, 200)),
        replace(dpo, **t4, quantization="nf4", image=(512, 384), **whole),
        replace(grpo, batch=4, accumulation=1, image=(800, 600), completion=64, **whole),
        replace(
            grpo, **four, batch=1, accumulation=4, generations=2, image=(320, 240), completion=24
        ),
        replace(sft, model=FOUR, batch=4, rank=32, image=(1024, 1024)),
        replace(sft, rank=256, optim="adamw_8bit"),
        # A size that no term has seen, and all weights trained.
        replace(sft, model=EIGHT, batch=2),
        replace(dpo, model=EIGHT, rank=32, answer=(100, 200)),
        replace(grpo, model=EIGHT, batch=2, accumulation=2, completion=24),
        replace(sft, model=EIGHT, quantization="nf4", precision="fp16", answer=(300, 500)),
        replace(dpo, model=EIGHT, quantization="nf4", precision="fp16", image=(512, 384)),
        replace(sft, rank=None),
        replace(sft, rank=None, accumulation=2, batch=4, answer=(200, 400)),
        replace(dpo, rank=None, optim="adamw_8bit", follows=False),
        replace(sft, model=FOUR, rank=None, optim="adamw_8bit"),
        replace(grpo, **t4, batch=4, generations=4, completion=200),
        # Int8, adapters on the vision tower and plain attention, once their terms had been mended.
        replace(sft, **{**four, "quantization": "int8"}, batch=2, answer=(200, 300)),
        replace(dpo, quantization="int8", precision="bf16", image=(512, 512), batch=2),
        replace(grpo, **t4, quantization="int8", batch=4, accumulation=1, completion=24),
        replace(sft, batch=2, rank=32, targets="all-linear", **whole),
        replace(dpo, **t4, targets="all-linear", image=(800, 600), **whole),
        replace(sft, batch=3, targets="all-linear", image=(1024, 1024)),
        replace(sft, **t4, attention="eager", image=(1024, 768)),
        replace(sft, attention="eager", batch=2, answer=(500, 600), **whole),
        replace(grpo, **t4, attention="eager", question=(500, 500), completion=24),
    ]
    return fitted + [replace(one, held_out=True) for one in held_out]
