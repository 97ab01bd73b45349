"""What must be there before a run starts: the training libraries, GPU memory for what was fitted to it, the drive, what
reads a bucket, room on the disk."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path

from qvl_run.hardware import Machine
from qvl_run.plan import misfit
from qvl_run.plan.fit import fit
from qvl_run.plan.make import Places, store_missing
from qvl_run.spec.diagnostic import Diagnostic
from qvl_run.spec.job import Job
from qvl_run.units import show_size

_COLAB_DRIVE = Path("/content/drive")
_LIBRARIES = ("torch", "transformers", "trl", "peft", "datasets", "accelerate", "PIL")


def preflight(job: Job, machine: Machine, where: Places) -> Iterator[Diagnostic]:
    """What is missing. Nothing is created."""
    missing = [name for name in _LIBRARIES if find_spec(name) is None]
    if missing:
        yield Diagnostic(
            code="QVL410",
            message=f"training needs {', '.join(missing)}, not installed here",
            hint='pip install "qvl-run[train]"',
        )
    fits = fit(job, machine)
    yield from misfit.findings(job, machine, fits)
    stages = [fitted.spec for fitted in fits.values()]
    quantized = any(s.model.get("quantization", "none") != "none" for s in stages)
    eight_bit = any(s.training.optim == "adamw_8bit" for s in stages)
    if (quantized or eight_bit) and machine.gpu and find_spec("bitsandbytes") is None:
        yield Diagnostic(
            code="QVL410",
            message="quantization and adamw_8bit need bitsandbytes, not installed here",
            hint='pip install "qvl-run[gpu]"',
        )
    yield from store_missing(job)
    yield from drive_missing(job, where)
    if job.hardware.min_disk is not None:
        free = shutil.disk_usage(_existing(where.scratch)).free
        if free < job.hardware.min_disk:
            yield Diagnostic(
                code="QVL412",
                message=f"{show_size(free)} are free on the disk of {where.scratch}; "
                f"the job needs {show_size(job.hardware.min_disk)}",
                span=job.document.span(("hardware", "min_disk")),
            )


def drive_missing(job: Job, where: Places) -> Iterator[Diagnostic]:
    """That the drive is not there: what it holds is then not known."""
    drive = where.storage if where.drive else None
    if (
        drive is not None
        and _COLAB_DRIVE in drive.parents
        and not (_COLAB_DRIVE / "MyDrive").is_dir()
    ):
        yield Diagnostic(
            code="QVL411",
            message="Google Drive is not mounted",
            span=job.document.span(("storage", "drive")),
            hint='in a cell of the notebook: from google.colab import drive; drive.mount("/content/drive")',
        )
    elif drive is not None and not drive.exists() and not drive.parent.is_dir():
        # Made by us, it would lie under a mount point that nothing is mounted at, and all would start anew.
        yield Diagnostic(
            code="QVL411",
            message=f"there is no folder {drive.parent} to hold storage.drive",
            span=job.document.span(("storage", "drive")),
            hint="mount the drive, or make the folder",
        )


def _existing(folder: Path) -> Path:
    while not folder.exists():
        folder = folder.parent
    return folder
