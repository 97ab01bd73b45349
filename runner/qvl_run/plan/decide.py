"""What `auto` means on a machine, each decision with the rule that took it. Pure."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from qvl_run.hardware import Gpu, Machine
from qvl_run.settings import Precision, StageSettings
from qvl_run.spec.diagnostic import Diagnostic, Span
from qvl_run.spec.job import Job, StageSpec
from qvl_run.spec.resolve import model_settings
from qvl_run.units import show_size

BF16_CAPABILITY = (8, 0)
NO_GPU = "on Colab: Runtime > Change runtime type > T4 GPU; elsewhere look at what nvidia-smi says"


@dataclass(frozen=True, kw_only=True)
class Decision:
    """A value that the plan chose, and why."""

    name: str
    value: str
    rule: str


def precision(gpu: Gpu | None) -> Decision:
    """The dtype of the computation. Decided by compute capability: torch reports bf16 on a T4, where it is
    emulated and about twice as slow (torch/cuda/__init__.py, `is_bf16_supported`)."""
    value: Precision
    if gpu is None:
        value, rule = "fp32", "no GPU: half precision is slow on a CPU"
    elif gpu.capability >= BF16_CAPABILITY:
        value, rule = "bf16", f"compute capability {_dotted(gpu)} has bf16 in hardware"
    else:
        value, rule = (
            "fp16",
            f"compute capability {_dotted(gpu)} is below 8.0: bf16 would be emulated",
        )
    return Decision(name="precision", value=value, rule=rule)


def attention() -> Decision:
    """The attention kernel."""
    return Decision(name="attention", value="sdpa", rule="works on every GPU; no extra package")


def capability_decisions(stage: StageSpec, machine: Machine) -> Iterator[Decision]:
    """Those of precision and attention, where `stage` leaves them open."""
    if stage.model.get("precision", "auto") == "auto":
        yield precision(machine.gpu)
    if stage.model.get("attention", "auto") == "auto":
        yield attention()


def resolve(stage: StageSpec, machine: Machine, *, wandb: bool) -> StageSettings:
    """`stage`, fitted (see `plan.fit`), with precision and attention decided for `machine` too."""
    return StageSettings(
        name=stage.name,
        uses=stage.uses,
        model=model_settings(
            stage.model, precision=precision(machine.gpu).value, attention=attention().value
        ),
        training=stage.training,
        data=stage.data,
        eval_data=stage.eval_data,
        evaluation=stage.evaluation,
        options=stage.options,
        wandb=wandb,
    )


def check(job: Job, machine: Machine) -> Iterator[Diagnostic]:
    """What `machine` cannot do that `job` asks for. Errors stop the run with exit code 3."""
    gpu, wants, document = machine.gpu, job.hardware, job.document
    if wants.tier not in (None, "cpu") and gpu is None:
        yield Diagnostic(
            code="QVL401",
            message=f"the job was written for a GPU ({wants.tier}); no GPU was found",
            span=document.span(("hardware", "tier")),
            hint=NO_GPU,
        )
    if wants.min_vram is not None:
        span = document.span(("hardware", "min_vram"))
        if gpu is None and wants.tier in (None, "cpu"):
            yield Diagnostic(
                code="QVL401",
                message=f"the job needs a GPU with {show_size(wants.min_vram)}; no GPU was found",
                span=span,
                hint=NO_GPU,
            )
        elif gpu and gpu.vram < wants.min_vram:
            yield Diagnostic(
                code="QVL402",
                message=f"the job needs {show_size(wants.min_vram)} of GPU memory; "
                f"{gpu.name} has {show_size(gpu.vram)}",
                span=span,
                hint="choose a smaller model, or a job for a smaller GPU",
            )
    for stage in job.stages:
        at = ("stages", stage.name)
        wanted = stage.model.get("precision", "auto")
        if wanted == "bf16" and gpu is not None and gpu.capability < BF16_CAPABILITY:
            yield Diagnostic(
                code="QVL403",
                message=f"bf16 on {gpu.name} (compute capability {_dotted(gpu)}) would be emulated",
                span=_model_span(job, stage, "precision"),
                hint="use precision: auto, which takes fp16 there",
            )
        if wanted == "fp16" and gpu is None:
            yield Diagnostic(
                code="QVL403",
                message="fp16 training needs a GPU",
                span=_model_span(job, stage, "precision"),
                hint="use precision: auto, which takes fp32 on a CPU",
            )
        if stage.model.get("quantization", "none") not in ("none", "auto") and gpu is None:
            yield Diagnostic(
                code="QVL404",
                message=f"quantization {stage.model['quantization']} needs a GPU",
                span=_model_span(job, stage, "quantization"),
            )
        if stage.training.optim == "adamw_8bit" and gpu is None:
            yield Diagnostic(
                code="QVL404", message="adamw_8bit needs a GPU", span=document.key_span(at)
            )
        if (
            stage.model.get("attention") == "flash_attention_2"
            and gpu is not None
            and gpu.capability < BF16_CAPABILITY
        ):
            yield Diagnostic(
                code="QVL405",
                message=f"FlashAttention 2 needs compute capability 8.0; {gpu.name} has {_dotted(gpu)}",
                span=_model_span(job, stage, "attention"),
                hint="use attention: auto",
            )


def _model_span(job: Job, stage: StageSpec, key: str) -> Span:
    document = job.document
    own = document.data["stages"][stage.name].get("model", {})
    return document.span(("stages", stage.name, "model", key) if key in own else ("model", key))


def _dotted(gpu: Gpu) -> str:
    return f"{gpu.capability[0]}.{gpu.capability[1]}"
