"""What a job asks of a machine under `hardware:`, held against the machine's facts. Pure.

What the facts do not tell is left out: a profile has no disk and no drive.
"""

from __future__ import annotations

from collections.abc import Iterator

from qvl_run.hardware.facts import Machine, dotted
from qvl_run.spec.diagnostic import Diagnostic, Severity
from qvl_run.spec.job import Job
from qvl_run.units import show_size, sold_as

NO_GPU = "on Colab: Runtime > Change runtime type > T4 GPU; elsewhere look at what nvidia-smi says"
UNMET = frozenset({"QVL401", "QVL402", "QVL406", "QVL407", "QVL412", "QVL413"})
"""Codes of needs that the machine does not meet: another job may."""


def unmet(job: Job, machine: Machine) -> Iterator[Diagnostic]:
    """Each need that `machine` does not meet, at its line; a warning where that cannot be told."""
    for check in (_gpu, _vram, _capability, _ram, _disk, _storage):
        yield from check(job, machine)


def wants_gpu(job: Job) -> bool:
    """Whether `job` says that it needs a GPU."""
    wants = job.hardware
    return (
        wants.tier not in (None, "cpu")
        or wants.min_vram is not None
        or wants.min_compute_capability is not None
    )


def _gpu(job: Job, machine: Machine) -> Iterator[Diagnostic]:
    if machine.gpu is not None or not wants_gpu(job):
        return
    wants = job.hardware
    if wants.tier not in (None, "cpu"):
        key, text = "tier", f"the job was written for a GPU ({wants.tier})"
    elif wants.min_vram is not None:
        key, text = "min_vram", f"the job needs a GPU with {show_size(wants.min_vram)}"
    else:
        assert wants.min_compute_capability is not None
        key = "min_compute_capability"
        text = f"the job needs a GPU of compute capability {dotted(wants.min_compute_capability)}"
    yield _finding(job, "QVL401", key, f"{text}; no GPU was found", NO_GPU)


def _vram(job: Job, machine: Machine) -> Iterator[Diagnostic]:
    gpu, least = machine.gpu, job.hardware.min_vram
    if gpu is None or least is None or gpu.usable >= least:
        return
    has = f"{gpu.name} has {show_size(gpu.vram)}"
    if gpu.usable < gpu.vram:
        has += f", of which PyTorch is told to keep to {show_size(gpu.usable)}"
    message = f"the job needs {show_size(least)} of GPU memory; {has}"
    hint = sold_as(gpu.vram, asked=least) or "choose a smaller model, or a job for a smaller GPU"
    yield _finding(job, "QVL402", "min_vram", message, hint)


def _capability(job: Job, machine: Machine) -> Iterator[Diagnostic]:
    gpu, least = machine.gpu, job.hardware.min_compute_capability
    if gpu is not None and least is not None and gpu.capability < least:
        message = f"the job needs compute capability {dotted(least)}; {gpu.name} has {gpu.dotted}"
        hint = "choose a newer GPU: 8.0 is an A100, 8.9 an L4"
        yield _finding(job, "QVL406", "min_compute_capability", message, hint)


def _ram(job: Job, machine: Machine) -> Iterator[Diagnostic]:
    least = job.hardware.min_ram
    if least is not None and machine.ram < least:
        of_colab = " of Colab" if machine.colab else ""
        what = f"a {machine.assumed} machine{of_colab}" if machine.assumed else "this machine"
        message = f"the job needs {show_size(least)} of RAM; {what} has {show_size(machine.ram)}"
        hint = "on Colab: Runtime > Change runtime type > High-RAM, where it is offered"
        yield _finding(job, "QVL407", "min_ram", message, hint)


def _disk(job: Job, machine: Machine) -> Iterator[Diagnostic]:
    least, disk = job.hardware.min_disk, machine.disk
    if least is None or disk is None or disk.free is None:
        return
    if disk.free < least:
        message = f"{show_size(disk.free)} are free on the disk of {disk.folder}; the job needs {show_size(least)}"
        hint = "free some space, or set storage.scratch to another disk"
        yield _finding(job, "QVL412", "min_disk", message, hint)


def _storage(job: Job, machine: Machine) -> Iterator[Diagnostic]:
    """A mounted drive reports what its cache or the account has left: which of them, its driver decides."""
    least, space = job.hardware.min_drive_space, machine.storage
    bucket = job.storage.bucket is not None and machine.assumed is None
    if least is None or (space is None and not bucket):
        return
    if space is None or space.free is None:
        where = "a bucket" if space is None else str(space.folder)
        message = f"the job needs {show_size(least)} where results go; {where} does not say how much is free"
        hint = "look at it yourself: the run is not held up"
        yield _finding(job, "QVL414", "min_drive_space", message, hint, severity="warning")
    elif space.free < least:
        message = (
            f"{show_size(space.free)} are free at {space.folder}, as its file system reports it; "
            f"the job needs {show_size(least)}"
        )
        hint = "free some space there; on Google Drive, files in the trash count too"
        yield _finding(job, "QVL413", "min_drive_space", message, hint)


def _finding(
    job: Job, code: str, key: str, message: str, hint: str, *, severity: Severity = "error"
) -> Diagnostic:
    span = job.document.span(("hardware", key))
    return Diagnostic(code=code, message=message, span=span, hint=hint, severity=severity)
