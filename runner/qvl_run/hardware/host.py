"""This machine, from the driver, the operating system and the table of mounts."""

from __future__ import annotations

import os
import platform
import shutil
from pathlib import Path

import psutil

from qvl_run import mounts
from qvl_run.hardware import driver, libraries
from qvl_run.hardware.facts import Machine, Space
from qvl_run.run.bounded import within

PATIENCE = 5.0
"""Seconds to wait for a file system that may have died."""


def probe(*, scratch: Path | None = None, storage: Path | None = None) -> Machine:
    """The facts of this machine; how much is free of those folders that are given, which need not be there yet."""
    seen, memory = driver.look(), psutil.virtual_memory()
    return Machine(
        gpu=seen.gpu,
        gpus=seen.gpus,
        driver=seen.driver,
        ram=memory.total,
        ram_available=memory.available,
        cores=len(os.sched_getaffinity(0))
        if hasattr(os, "sched_getaffinity")
        else os.cpu_count() or 1,
        colab=on_colab(),
        boot_time=psutil.boot_time(),
        disk=None if scratch is None else Space(folder=scratch, free=free(scratch)),
        storage=None if storage is None else Space(folder=storage, free=free(storage)),
        drive=mounts.google_drive(),
        python=platform.python_version(),
        libraries=libraries.installed(),
    )


def on_colab() -> bool:
    """Whether this is a machine of Colab's."""
    return Path("/content").is_dir() and "COLAB_RELEASE_TAG" in os.environ


def free(folder: Path, *, patience: float = PATIENCE) -> int | None:
    """Bytes that may still be written at `folder`, or where it would lie; None where the file system does not say:
    a dead mount raises or hangs, and some report no size at all."""
    found: list[int] = []

    def ask() -> None:
        try:
            above = next(path for path in (folder, *folder.absolute().parents) if path.exists())
            usage = shutil.disk_usage(above)
        except (OSError, StopIteration):
            return
        if usage.total:
            found.append(usage.free)

    within(patience, ask, name="qvl-free-space")
    return found[0] if found else None
