"""Whether there is space for what a run will write, where results go and on the machine's own disk. Pure.

Warnings only: what is there already, a model in a cache above all, is not known."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from qvl_run.contract import Estimate
from qvl_run.hardware import Machine, Space
from qvl_run.plan import decide
from qvl_run.plan.bench import Bench
from qvl_run.plan.space import KEPT, space
from qvl_run.settings import StageSettings
from qvl_run.spec.diagnostic import Diagnostic
from qvl_run.spec.job import Job
from qvl_run.units import show_size, show_unlike

Needs = Sequence[tuple[StageSettings, Estimate]]


def findings(job: Job, machine: Machine, *, downloads_last: bool) -> Iterator[Diagnostic]:
    """Where there is less space than the stages of `job` are predicted to write, nothing being there of it yet.
    `downloads_last` says that models are kept where results go."""
    bench = Bench(machine=machine)
    needs = [
        (decide.resolve(spec, machine, wandb=False), bench.estimate(spec)) for spec in job.stages
    ]
    lasting = space(needs, downloads=downloads_last)
    told = f", base models {show_size(lasting.downloads)} of it" if lasting.downloads else ""
    hint = "free some space there; on Google Drive, files in the trash count too"
    yield from _short(machine.storage, lasting.total, f"in the end{told}", hint)
    own, told = _own(needs, downloads=not downloads_last)
    hint = "free some space, or set storage.scratch to another disk"
    yield from _short(machine.disk, own, told, hint)


def _own(needs: Needs, *, downloads: bool) -> tuple[int, str]:
    """Bytes for the disk of scratch, and what they are: models, and what a stage saves before it is taken on."""
    fetched = space(needs, downloads=downloads).downloads or 0
    made: dict[str, int] = {}
    for settings, stage in needs:
        name = settings.model.name
        made[name] = max(made.get(name, 0), stage.generated or 0)
    saved = max(
        (KEPT * (stage.checkpoint or 0) + (stage.output or 0) for _, stage in needs), default=0
    )
    parts = {"downloads": fetched, "random weights": sum(made.values()), "checkpoints": saved}
    told = ", ".join(f"{name} {show_size(size)}" for name, size in parts.items() if size)
    return sum(parts.values()), f"at once: {told}"


def _short(there: Space | None, need: int, told: str, hint: str) -> Iterator[Diagnostic]:
    if there is None or there.free is None or need <= there.free:
        return
    one, other = show_unlike(need, there.free)
    yield Diagnostic(
        code="QVL434",
        severity="warning",
        message=f"the run will put {one} at {there.folder} ({told}); {other} are free there",
        hint=hint,
    )
