"""Known traps of a machine, as findings with what to do. Pure over its facts."""

from __future__ import annotations

import re
from collections.abc import Iterator

from qvl_run.doctor.versions import release
from qvl_run.hardware import Machine
from qvl_run.plan import needs, smaller
from qvl_run.plan.decide import BF16_CAPABILITY
from qvl_run.spec.diagnostic import Diagnostic
from qvl_run.spec.job import Job

TURING = (7, 5)
"""The oldest GPUs that builds of torch for CUDA 12.8 and later have kernels for (pytorch #172352)."""
_CUDA_BUILD = re.compile(r"cu(\d{2,})")
_KEEPS_VOLTA = 126
_DROPPED_VOLTA = (2, 10)


def gpu_traps(machine: Machine, job: Job | None = None) -> Iterator[Diagnostic]:
    """What is wrong with the GPU, or easily misread. With a `job` that needs none, a GPU that cannot be used stops
    nothing."""
    yield from _no_gpu(machine, job)
    gpu = machine.gpu
    if gpu is None:
        return
    if machine.gpus > 1:
        yield Diagnostic(
            code="QVL416",
            message=f"{machine.gpus} GPUs are visible; a job trains on one, the first",
            hint="CUDA_VISIBLE_DEVICES=1 qvl-run JOB takes another; several jobs may run beside each other",
            severity="warning",
        )
    if gpu.capability < BF16_CAPABILITY:
        yield Diagnostic(
            code="QVL417",
            message=f"torch says that {gpu.name} has bf16; it is emulated there, about twice as slow as fp16",
            hint="nothing is to be done: precision: auto takes fp16, by compute capability",
            severity="warning",
        )
    yield from kernels_missing(machine)
    if gpu.capability == TURING and "vllm" in machine.libraries:
        yield Diagnostic(
            code="QVL423",
            message=f"vLLM has no attention kernel for Qwen3-VL on {gpu.name} (vllm #29743)",
            hint="nothing is to be done for qvl-run, which generates with transformers; do not serve the result "
            "with vLLM here",
            severity="warning",
        )


def kernels_missing(machine: Machine) -> Iterator[Diagnostic]:
    """That the torch of `machine` has nothing that its GPU could run: an error; a warning where it is not here, and
    which torch it would have is not known."""
    gpu, torch = machine.gpu, machine.libraries.get("torch")
    if gpu is None or gpu.capability >= TURING:
        return
    if machine.assumed or _lacks_old_kernels(torch):
        what = "a torch for CUDA 12.8 or later" if machine.assumed else f"torch {torch}"
        yield Diagnostic(
            code="QVL424",
            message=f"{what} has no kernels for {gpu.name} (compute capability {gpu.dotted})",
            hint="install a build of torch for CUDA 12.6, which still has them, or take a T4",
            severity="warning" if machine.assumed else "error",
        )


def _no_gpu(machine: Machine, job: Job | None) -> Iterator[Diagnostic]:
    if machine.gpu is not None:
        return
    if machine.driver is not None and machine.driver.problem:
        wanted = job is None or needs.wants_gpu(job)
        yield Diagnostic(
            code="QVL415",
            message=f"the GPU's driver does not answer: {machine.driver.problem}",
            hint="see what nvidia-smi says; on Colab: Runtime > Disconnect and delete runtime, then connect anew",
            severity="error" if wanted else "warning",
        )
    elif job is None:
        yield Diagnostic(
            code="QVL401",
            message=f"no GPU was found: {_left(machine)}",
            hint=needs.NO_GPU,
            severity="warning",
        )


def _left(machine: Machine) -> str:
    """Which shipped jobs ask for no more than is here."""
    names = smaller.runnable(machine)
    return (
        f"of the shipped jobs, only {' and '.join(names)} can train here"
        if names
        else "no shipped job trains here"
    )


def _lacks_old_kernels(torch: str | None) -> bool:
    """Whether this is a published build of torch for CUDA 12.8 or later; of one's own builds nothing is known."""
    version = release(torch)
    if torch is None or version is None or version < _DROPPED_VOLTA:
        return False
    _, separator, local = torch.partition("+")
    built = _CUDA_BUILD.fullmatch(local)
    return not separator or (built is not None and int(built[1]) > _KEEPS_VOLTA)
