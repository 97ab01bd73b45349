"""What keeps a run from starting on this machine, told before anything is touched or downloaded.

`run` and `doctor` ask `judged`, and `plan`, which has looked already, `findings`, so that they say the same.
"""

from __future__ import annotations

from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path

from qvl_run import hardware
from qvl_run.doctor.traps import kernels_missing
from qvl_run.hardware import Machine
from qvl_run.plan import limits, smaller
from qvl_run.plan.decide import FLASH
from qvl_run.plan.fit import fitted
from qvl_run.plan.make import Choices, make_plan
from qvl_run.plan.places import Places, store_missing
from qvl_run.spec.diagnostic import Diagnostic
from qvl_run.spec.job import Job

_COLAB_DRIVE = Path("/content/drive")
_LIBRARIES = ("torch", "transformers", "trl", "peft", "datasets", "accelerate", "PIL")


def machine_here(job: Job, where: Places) -> Machine:
    """The facts of this machine, with the space that is left where the job's files go. Of a drive that is not mounted
    nothing is known: what lies beneath it is this machine's own disk."""
    gone = any(drive_missing(job, where))
    return hardware.probe(scratch=where.scratch, storage=None if gone else where.storage)


def judged(
    job: Job, machine: Machine, where: Places, *, choices: Choices
) -> tuple[Diagnostic, ...]:
    """`findings` for the stages that would run. Those that are done ask nothing of the machine: before any is refused,
    storage is looked into. Raises OSError where it cannot be read then: that decides nothing."""
    found = findings(fitted(job, machine, only=choices.only), machine, where)
    refused = any(finding.severity == "error" for finding in found)
    readable = not any((*store_missing(job), *drive_missing(job, where)))
    if not (refused and readable and where.begun()):
        return found
    return findings(make_plan(job, machine, choices=choices).ahead, machine, where)


def findings(job: Job, machine: Machine, where: Places) -> tuple[Diagnostic, ...]:
    """All that `machine`, this one, cannot do for `job`, whose stages are those that will run, fitted to it: errors
    stop the run with exit code 3, warnings do not. Where another shipped job would run here, the hint names it."""
    last = where.downloads is not None
    found = (
        *limits.findings(job, machine, begun=where.begun(), downloads_last=last),
        *missing(job, machine, where),
        *kernels_missing(machine),
    )
    return smaller.advised(found, job, machine)


def missing(job: Job, machine: Machine, where: Places) -> Iterator[Diagnostic]:
    """What must be there besides the machine: the training libraries, the drive, what reads a bucket. Nothing is
    created."""
    yield from libraries_missing()
    quantized = any(s.model.get("quantization", "none") != "none" for s in job.stages)
    eight_bit = any(s.training.optim == "adamw_8bit" for s in job.stages)
    if (quantized or eight_bit) and machine.gpu and find_spec("bitsandbytes") is None:
        yield Diagnostic(
            code="QVL410",
            message="quantization and adamw_8bit need bitsandbytes, not installed here",
            hint='pip install "qvl-run[gpu]"',
        )
    flash = any(s.model.get("attention") == FLASH for s in job.stages)
    if flash and machine.gpu and find_spec("flash_attn") is None:
        yield Diagnostic(
            code="QVL410",
            message="attention: flash_attention_2 needs flash-attn, not installed here",
            hint="use attention: auto, which needs nothing; or: pip install flash-attn --no-build-isolation",
        )
    yield from store_missing(job)
    yield from drive_missing(job, where)


def libraries_missing() -> Iterator[Diagnostic]:
    """What no stage can train without."""
    absent = [name for name in _LIBRARIES if find_spec(name) is None]
    if absent:
        yield Diagnostic(
            code="QVL410",
            message=f"training needs {', '.join(absent)}, not installed here",
            hint='pip install "qvl-run[train]"',
        )


def drive_missing(job: Job, where: Places) -> Iterator[Diagnostic]:
    """That the drive is not there: what it holds is then not known."""
    drive = where.storage if where.drive else None
    if (
        drive is not None
        and _COLAB_DRIVE in drive.parents
        and not (_COLAB_DRIVE / "MyDrive").is_dir()
    ):
        mount = 'in a cell of the notebook: from google.colab import drive; drive.mount("/content/drive")'
        elsewhere = (
            "this is no machine of Colab's: set storage.drive to a folder of yours, or leave storage out "
            "(storage: !reset where it is inherited)"
        )
        yield Diagnostic(
            code="QVL411",
            message="Google Drive is not mounted",
            span=job.document.span(("storage", "drive")),
            hint=mount if hardware.on_colab() else elsewhere,
        )
    elif drive is not None and not drive.exists() and not drive.parent.is_dir():
        # Made by us, it would lie under a mount point that nothing is mounted at, and all would start anew.
        yield Diagnostic(
            code="QVL411",
            message=f"there is no folder {drive.parent} to hold storage.drive",
            span=job.document.span(("storage", "drive")),
            hint="mount the drive, or make the folder",
        )
