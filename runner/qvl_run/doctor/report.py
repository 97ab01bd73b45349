"""A machine's facts for people and for programs."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict
from typing import Any

from qvl_run.hardware import Machine
from qvl_run.hardware.facts import dotted
from qvl_run.hardware.libraries import NAMES
from qvl_run.plan import decide
from qvl_run.units import show_size

WIDTH = 11


def lines(machine: Machine) -> Iterator[str]:
    """Five lines that decide how a job trains here, then the rest."""
    precision, attention = decide.precision(machine.gpu), decide.attention()
    yield _line("GPU", _gpu(machine))
    yield _line("VRAM", _vram(machine))
    yield _line("precision", f"{precision.value}: {precision.rule}")
    yield _line("attention", f"{attention.value}: {attention.rule}")
    yield _line("Drive", _drive(machine))
    yield ""
    available = (
        "" if machine.ram_available is None else f", {show_size(machine.ram_available)} available"
    )
    where = "Colab, " if machine.colab else ""
    yield _line("host", f"{where}{machine.cores} cores, {show_size(machine.ram)} RAM{available}")
    for name, space in (("scratch", machine.disk), ("results", machine.storage)):
        if space is not None:
            free = "unknown space" if space.free is None else show_size(space.free)
            yield _line(name, f"{free} free at {space.folder}")
    found = [f"{name} {version}" for name, version in machine.libraries.items()]
    absent = [name for name in NAMES if name not in machine.libraries]
    yield _line("versions", ", ".join([f"Python {machine.python}", *found]))
    if absent:
        yield _line("", f"not installed: {', '.join(absent)}")


def facts(machine: Machine) -> dict[str, Any]:
    """The same as data; sizes in bytes."""
    return asdict(machine)


def _line(name: str, text: str) -> str:
    return f"{name:<{WIDTH}}{text}"


def _gpu(machine: Machine) -> str:
    gpu, driver = machine.gpu, machine.driver
    if gpu is None:
        return "none that answers" if driver is not None and driver.problem else "none"
    text = f"{gpu.name}, compute capability {gpu.dotted}"
    if driver is not None and driver.version:
        text += f", driver {driver.version}"
        text += f" for CUDA {dotted(driver.cuda)}" if driver.cuda else ""
    return text


def _vram(machine: Machine) -> str:
    gpu = machine.gpu
    if gpu is None:
        return "none"
    text = show_size(gpu.vram)
    if gpu.free is not None:
        text += f", {show_size(gpu.free)} free"
    if gpu.usable < gpu.vram:
        text += f"; PyTorch is told to keep to {show_size(gpu.usable)}"
    return text


def _drive(machine: Machine) -> str:
    drive, space = machine.drive, machine.storage
    if drive is None:
        return "not mounted"
    on_it = space is not None and drive in (space.folder, *space.folder.parents)
    free = f", {show_size(space.free)} free as it reports" if on_it and space and space.free else ""
    return f"mounted at {drive}{free}"
