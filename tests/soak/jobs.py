"""The jobs of the soak."""

from __future__ import annotations

from dataclasses import dataclass

STORAGE = "storage: {{drive: {drive}, scratch: {scratch}}}\n"
QUICKSTART = """
version: 1
extends: cpu_quickstart
name: quickstart
evaluation: {{data: {{with: {{size: 60}}}}}}   # fewer held-out rows: they decide nothing, and take half of the time
"""
TINY = """
version: 1
name: tiny
model: {{name: qvl-tiny, lora: {{r: 4, alpha: 8}}}}
training:
  per_device_train_batch_size: 4
  gradient_accumulation_steps: 1
  gradient_checkpointing: false
  save_steps: 1
  logging_steps: 1
stages:
  sft: {{uses: sft, data: {{format: spatial_scenes, with: {{size: 12}}}}}}
  dpo: {{uses: dpo, data: {{format: spatial_scenes, with: {{size: 12}}}}}}
  grpo:
    uses: grpo
    data: {{format: spatial_scenes, with: {{size: 6}}}}
    with: {{num_generations: 2, max_completion_length: 6, rewards: [exact_answer]}}
"""
COUNT = """
version: 1
name: count
model: {{name: none}}
training: {{save_steps: 5}}
stages:
  first: {{uses: count, with: {{to: 2000}}}}
  second: {{uses: count, with: {{to: 1400}}}}
  third: {{uses: count, with: {{to: 600}}}}
"""


@dataclass(frozen=True, kw_only=True)
class SoakJob:
    """`text` with fields for its folders. `result` is the file of a stage's output that is compared; `beats` and
    `starts` are what `plan.draw` wants; `longest` the seconds that a start may take."""

    name: str
    text: str
    stages: tuple[str, ...]
    result: str
    beats: int
    starts: int
    longest: float


JOBS = {
    job.name: job
    for job in (
        SoakJob(
            name="quickstart",
            text=QUICKSTART + STORAGE,
            stages=("sft", "dpo", "grpo"),
            result="adapter_model.safetensors",
            beats=150,
            starts=8,
            longest=1200,
        ),
        SoakJob(
            name="tiny",
            text=TINY + STORAGE,
            stages=("sft", "dpo", "grpo"),
            result="adapter_model.safetensors",
            beats=15,
            starts=6,
            longest=600,
        ),
        SoakJob(
            name="count",
            text=COUNT + STORAGE,
            stages=("first", "second", "third"),
            result="sum.json",
            beats=100,
            starts=14,
            longest=200,
        ),
    )
}
