"""docs/hardware.md: what was measured, beside what is predicted for it today. `make docs` writes it.

The measurements lie in `measured/`, as `memory.py` and `jobs.py` wrote them; the predictions are made anew.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
if str(HERE) not in sys.path:
    sys.path.insert(0, str(HERE))

from memory import peak, predicted, to_setting  # noqa: E402
from memory_settings import Setting  # noqa: E402

from qvl_run import hardware, resources  # noqa: E402
from qvl_run.plan import vram  # noqa: E402
from qvl_run.plan.fit import fit  # noqa: E402
from qvl_run.spec.compose import Overlays  # noqa: E402
from qvl_run.spec.load import load_job  # noqa: E402
from qvl_trl.memory.shape import Shape  # noqa: E402

GIB = 2**30
JOBS = ("t4_full_pipeline", "t4_full_pipeline_4b", "a100_full_pipeline")
TIERS = ("t4", "l4", "a100-40gb", "a100-80gb", "h100", "g4")
STAGES = ("sft", "dpo", "grpo")
SIZES = ("2B", "4B", "8B", "32B")


@dataclass(frozen=True, kw_only=True)
class Measured:
    """One setting that was measured, in bytes."""

    setting: Setting
    shape: Shape
    gpu: str
    measured: int
    predicted: int
    phase: str

    @property
    def error(self) -> float:
        """Of the prediction, as a share of what was measured."""
        return self.predicted / self.measured - 1


def measurements() -> list[Measured]:
    """Every setting of `measured/`, predicted anew."""
    found = []
    for path in sorted((HERE / "measured").glob("memory-*.jsonl")):
        for text in path.read_text(encoding="utf-8").splitlines():
            one = json.loads(text)
            setting = to_setting(one["setting"])
            expected = predicted(one)
            found.append(
                Measured(
                    setting=setting,
                    shape=Shape(**one["shape"]),
                    gpu=one["gpu"],
                    measured=peak(one["measured"]),
                    predicted=expected.total,
                    phase=expected.phase,
                )
            )
    return found


def markdown() -> str:
    """The page."""
    found = measurements()
    held_out = [one for one in found if one.setting.held_out]
    worst, least = max(one.error for one in found), min(one.error for one in found)
    lines = [
        "# Hardware: will it fit?",
        "",
        "`qvl-run plan JOB` says it before anything is downloaded, `qvl-run plan JOB --assume t4` for a GPU that is "
        "not here, `qvl-run doctor` what this machine is. This page shows what those predictions are "
        "worth. It is made by "
        "`make docs` from `benchmarks/measured`; the predictions are those of the code beside it.",
        "",
        "A prediction counts every tensor that is alive at the moments when most are: weights as they are held, "
        "adapters and their reference, gradients, the optimizer's state, what each layer keeps, the vision tower, the "
        "tiles of logits, keys and values while answers are sampled. It is made from the sizes of the model and the "
        "settings alone. `plan` predicts for the longest rows that the job admits (`max_seq_length`, `image_tokens`), "
        "so it is an upper bound; `qvl-run report` shows, for the rows that a stage really saw, what is predicted "
        "and what was measured.",
        "",
        "Not counted: the CUDA context and its libraries (0.74 GiB are set aside for them), what fragmentation wastes "
        "(3 % are), and what other programs hold.",
        "",
        "## The shipped jobs",
        "",
        "At the longest rows that they admit, 2048 tokens with one picture, on the GPU that they are for:",
        "",
        *job_table(),
        "",
        "## Other models on other GPUs",
        "",
        "The same stages with quantization and the split of the global batch of 8 left to `auto`: layers computed "
        "again, rows of at most 2048 tokens, pictures of at most 512. The largest need of the three "
        "stages, the base where it "
        "is quantized, and the smallest micro-batch among them:",
        "",
        *model_table(),
        "",
        "## Runs of the shipped jobs",
        "",
        "Models of the real sizes with random weights (`random:`), pictures of 640 x 480, texts of 30 to 150 tokens, "
        "PyTorch's allocator held to the cap. An H100 is no T4: memory and numerics are those of the job, its speed "
        "is not; and where other programs were at work beside it on the same GPU, their number is told, and alone it "
        "would be faster. RAM: pages that no file stands behind. `benchmarks/jobs.py` repeats it.",
        "",
        *run_table(),
        "",
        "## Settings",
        "",
        f"{len(found)} settings, two optimizer steps each on the real trainers, on models of the real sizes: "
        f"predictions were {least:+.1%} to {worst:+.1%} off what was measured. {len(held_out)} of them were held out: "
        "measured after the terms were written down, and not used to change them; for those it was "
        f"{min(o.error for o in held_out):+.1%} to {max(o.error for o in held_out):+.1%}. "
        "`benchmarks/memory.py` repeats it; a test holds the predictions to what was measured.",
        "",
        *setting_table(found),
    ]
    return "\n".join(lines) + "\n"


def job_table() -> Iterator[str]:
    """Predictions for the shipped jobs."""
    yield "| job | stage | GPU | split | predicted | there | most in |"
    yield "|---|---|---|---|---|---|---|"
    for name in JOBS:
        job = load_job(resources.shipped_jobs()[name])
        assert job.hardware.tier is not None
        machine = hardware.profile(job.hardware.tier)
        assert machine.gpu is not None
        for stage, fitted in fit(job, machine).items():
            need = _need(fitted.spec, machine)
            training = fitted.spec.training
            split = (
                f"{training.per_device_train_batch_size} x {training.gradient_accumulation_steps}"
            )
            yield (
                f"| {name} | {stage} | {job.hardware.tier} | {split} | {_gib(need.total)} | "
                f"{_gib(vram.room(machine.gpu))} | {need.phase} |"
            )


def model_table() -> Iterator[str]:
    """What `auto` makes of a model on a GPU."""
    yield "| model | " + " | ".join(TIERS) + " |"
    yield "|---|" + "---|" * len(TIERS)
    for size in SIZES:
        cells = [_cell(size, hardware.profile(tier)) for tier in TIERS]
        yield f"| Qwen3-VL-{size} | " + " | ".join(cells) + " |"


def _cell(size: str, machine: hardware.Machine) -> str:
    changes = (
        f"model.name=Qwen/Qwen3-VL-{size}-Instruct",
        "model.quantization=auto",
    )
    overlays = Overlays(profiles=(), settings=changes)
    job = load_job(resources.shipped_jobs()["t4_full_pipeline"], overlays=overlays)
    assert machine.gpu is not None
    room = vram.room(machine.gpu)
    specs = [fitted.spec for fitted in fit(job, machine).values()]
    needs = [_need(spec, machine).total for spec in specs]
    if max(needs) > room:
        return f"no: {_gib(max(needs))} of {_gib(room)}"
    held = specs[0].model["quantization"]
    least = min(spec.training.per_device_train_batch_size for spec in specs)
    how = f"{held}, " if held != "none" else ""
    return f"{_gib(max(needs))}: {how}micro-batch {least}"


def _need(spec: Any, machine: hardware.Machine) -> Any:
    from qvl_run.plan.bench import Bench

    need = Bench(machine=machine).peak(spec)
    assert need is not None
    return need


def run_table() -> Iterator[str]:
    """What runs of the shipped jobs took."""
    yield (
        "| job | stage | GPU, cap | steps | longest row | predicted | measured | error | reserved | RAM | samples/s "
        "(programs beside it) | loss | fp16 scale |"
    )
    yield "|---|---|---|---|---|---|---|---|---|---|---|---|---|"
    shown = set()
    for one in _runs():
        memory, job, stage = one["memory"], one["shipped"], one["stage"]
        shown.add((job, stage))
        rate = one["steps"] * one["training"]["global_batch"] / one["loop_seconds"]
        losses = one["loss"]
        # GRPO's own is about 0 by its making.
        told = f"{losses[0]:.3f} to {losses[-1]:.3f}" if stage != "grpo" else "finite"
        # Where the job's own length of completions was not kept to.
        cut = f", completions of {one['completion']}" if one.get("completion") else ""
        ram = _gib(one["ram"]) if one["ram"] else "not noted"
        yield (
            f"| {job} | {stage} | {one['gpu'].removeprefix('NVIDIA ')}, {one['cap']} GiB | {one['steps']} | "
            f"{memory['tokens']:.0f} tokens{cut} | {_gib(memory['predicted'])} | {_gib(memory['training'])} | "
            f"{memory['predicted'] / memory['training'] - 1:+.1%} | {_gib(memory['reserved'])} | "
            f"{ram} | "
            f"{rate:.2f} ({one['beside']}) | {told} | {_scale(one)} |"
        )
    missing = [f"{job} {s}" for job in JOBS for s in STAGES if (job, s) not in shown]
    if missing:
        yield ""
        yield f"Not recorded in such a run yet: {', '.join(missing)}."


def _runs() -> list[dict[str, Any]]:
    found = []
    for path in sorted((HERE / "measured").glob("jobs-*.json")):
        for one in json.loads(path.read_text(encoding="utf-8")):
            name = one["job"].replace("-", "_")
            shipped = max((job for job in JOBS if name.startswith(job)), key=len)
            if one["memory"] and one["stage"] in STAGES:
                found.append({**one, "shipped": shipped})
    return sorted(found, key=lambda one: (JOBS.index(one["shipped"]), STAGES.index(one["stage"])))


def _scale(one: Mapping[str, Any]) -> str:
    return f"{one['scale']:.0f}, {one['applied']} steps applied" if one.get("scale") else "bf16"


def setting_table(found: Sequence[Measured]) -> Iterator[str]:
    """Every setting."""
    yield (
        "| stage | model | base | LoRA | batch | layers | picture | tokens | predicted | measured | error | most in | "
        "held out |"
    )
    yield "|---|---|---|---|---|---|---|---|---|---|---|---|---|"
    for one in sorted(found, key=lambda m: (m.setting.held_out, m.setting.uses, m.setting.model)):
        setting = one.setting
        size = setting.model.split("-VL-")[1].split("-")[0]
        base = setting.precision if setting.quantization == "none" else setting.quantization
        rank = "all weights" if setting.rank is None else f"r {setting.rank}"
        rank += ", plain attention" if setting.attention == "eager" else ""
        rank += ", vision too" if setting.targets == "all-linear" else ""
        rank += ", 8-bit Adam" if setting.optim == "adamw_8bit" else ""
        yield (
            f"| {setting.uses} | {size} | {base} | {rank} | {setting.batch} x {setting.accumulation} | "
            f"{'again' if setting.checkpointing else 'kept'} | {setting.image[0]} x {setting.image[1]} | "
            f"{one.shape.prompt} + {one.shape.answer} | {_gib(one.predicted)} | {_gib(one.measured)} | "
            f"{one.error:+.1%} | {one.phase} | {'yes' if setting.held_out else ''} |"
        )


def _gib(count: float) -> str:
    return f"{count / GIB:.2f} GiB"


if __name__ == "__main__":
    print(markdown())
