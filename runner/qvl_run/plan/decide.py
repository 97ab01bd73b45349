"""What `auto` means on a machine, each decision with the rule that took it. Pure."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from qvl_run import plugins
from qvl_run.hardware import Gpu, Machine
from qvl_run.plan import needs
from qvl_run.settings import Precision, StageSettings
from qvl_run.spec.diagnostic import Diagnostic, Span
from qvl_run.spec.job import Job, StageSpec
from qvl_run.spec.resolve import model_settings

BF16_CAPABILITY = (8, 0)
FLASH = "flash_attention_2"


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
        value, rule = "bf16", f"compute capability {gpu.dotted} has bf16 in hardware"
    else:
        value, rule = (
            "fp16",
            f"compute capability {gpu.dotted} is below 8.0: bf16 would be emulated",
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
        downloads=stage.downloads,
    )


def check(job: Job, machine: Machine) -> Iterator[Diagnostic]:
    """What `machine` cannot do that `job` asks for. Errors stop the run with exit code 3."""
    yield from needs.unmet(job, machine)
    yield from unable(job, machine)


def unable(job: Job, machine: Machine) -> Iterator[Diagnostic]:
    """What the stages of `job` ask of the kind of machine that `machine` is, a profile or not, and it cannot do."""
    yield from _unbounded(job, machine)
    gpu = machine.gpu
    for stage in job.stages:
        wanted = stage.model.get("precision", "auto")
        if wanted == "bf16" and gpu is not None and gpu.capability < BF16_CAPABILITY:
            yield Diagnostic(
                code="QVL403",
                message=f"bf16 on {gpu.name} (compute capability {gpu.dotted}) would be emulated",
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
                hint="use quantization: auto, which takes none without a GPU",
            )
        if stage.training.optim == "adamw_8bit" and gpu is None:
            span = job.document.stage_span(stage.name, "training", "optim")
            hint = "use optim: auto, which takes adamw_torch without a GPU"
            yield Diagnostic(code="QVL404", message="adamw_8bit needs a GPU", span=span, hint=hint)
        if stage.model.get("attention") == FLASH and (why := _no_flash(gpu, wanted)):
            yield Diagnostic(
                code="QVL405",
                message=f"FlashAttention 2 {why}",
                span=_model_span(job, stage, "attention"),
                hint="use attention: auto, which takes SDPA",
            )


def _unbounded(job: Job, machine: Machine) -> Iterator[Diagnostic]:
    names = [
        stage.name
        for stage in job.stages
        if stage.training.max_seq_length is None and plugins.stage(stage.uses).data_kind
    ]
    if machine.gpu is None or not names:
        return
    document = job.document
    yield Diagnostic(
        code="QVL231",
        severity="warning",
        message=f"nothing bounds the rows of {', '.join(names)}: GPU memory is not predicted, "
        "and nothing that says `auto` is fitted to it",
        span=document.key_span(
            ("training",) if document.has(("training",)) else ("stages", names[0])
        ),
        hint="set training.max_seq_length (for example 2048)",
    )


def _no_flash(gpu: Gpu | None, wanted: str) -> str:
    """Why FlashAttention 2 does not run in the precision `wanted`; empty where it does (flash-attn README)."""
    if gpu is None:
        return "needs a GPU; none was found"
    if gpu.capability < BF16_CAPABILITY:
        return f"needs compute capability 8.0; {gpu.name} has {gpu.dotted}"
    return "computes in half precision alone, not in fp32" if wanted == "fp32" else ""


def _model_span(job: Job, stage: StageSpec, key: str) -> Span:
    document = job.document
    own = document.data["stages"][stage.name].get("model", {})
    return document.span(("stages", stage.name, "model", key) if key in own else ("model", key))
