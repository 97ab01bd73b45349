"""The tables that a run ends with and that `qvl-run report` prints."""

from __future__ import annotations

import sys
from collections.abc import Collection, Iterable, Sequence

from qvl_run.checkpoints.manifest import Manifest
from qvl_run.run import costs, report

WIDTH = 120
"""Columns where there is no terminal to ask."""
ELSEWHERE = "* measured on other held-out rows than the job names now: not comparable with the rest"
_STAGES = ("stage", ">steps", ">time", ">accuracy", "its own measure")
_MEMORY = (
    "GPU memory", "on", ">planned, at most", ">predicted", ">training", ">in all", ">reserved", "longest row",
)  # fmt: skip
_TIME = ("time", "on", ">a step", ">predicted", ">rows a second")


def print_stages(outputs: Sequence[Manifest], elsewhere: Collection[str]) -> None:
    """A row a stage: steps, time, accuracy, its own measure; and, where it was measured, the GPU's memory."""
    cells = [report.cells(row) for row in report.rows(outputs, elsewhere)]
    _print(_STAGES, cells)
    if elsewhere:
        print(ELSEWHERE)
    if line := costs.memory_line(costs.cost(manifest) for manifest in outputs):
        print(f"\n{line}")


def print_costs(outputs: Sequence[Manifest]) -> None:
    """What each stage took of the GPU's memory and of time, beside what was predicted, each below an empty line."""
    every = [costs.cost(manifest) for manifest in outputs]
    if known := [one for one in every if one.peak is not None]:
        print()
        _print(_MEMORY, [costs.memory_cells(one) for one in known])
    if known := [one for one in every if one.step is not None]:
        print()
        _print(_TIME, [costs.time_cells(one) for one in known])


def _print(head: Sequence[str], rows: Iterable[Sequence[str]]) -> None:
    """A table without lines. A column whose name begins with `>` is set to the right; one that is empty is left out, as
    where nothing was predicted since there is no GPU."""
    from rich.console import Console
    from rich.table import Table

    columns = [(name, cells) for name, *cells in zip(head, *rows, strict=True) if any(cells)]
    table = Table(box=None, pad_edge=False, header_style="bold")
    for name, _ in columns:
        right = name.startswith(">")
        table.add_column(name.removeprefix(">"), justify="right" if right else "left")
    for row in zip(*(cells for _, cells in columns), strict=True):
        table.add_row(*row)
    Console(width=None if sys.stdout.isatty() else WIDTH).print(table)
