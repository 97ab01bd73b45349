"""What storage holds of a job: read once, before anything is decided."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from qvl_run.checkpoints import generation
from qvl_run.checkpoints.folder import FolderStore
from qvl_run.checkpoints.index import Index
from qvl_run.checkpoints.store import Store
from qvl_run.disk import there
from qvl_run.plan.places import Places
from qvl_run.run import events
from qvl_run.spec.job import Job


@dataclass(frozen=True, kw_only=True)
class Past:
    """What storage held when it was looked into: see `Index`. `generations` by stage; `ledger` are the records that
    recovery counts on, this machine's too."""

    index: Index
    generations: Mapping[str, generation.Generation]
    ledger: Sequence[events.Record] = ()


def opened(where: Places) -> Store | None:
    """The store, None where nothing was ever written to it. Raises OSError where that cannot be told."""
    written = where.storage is None or there(where.storage)
    return where.store() if written else None


def look(job: Job, where: Places, store: Store | None = None) -> Past:
    """Read what storage, open as `store` where it is, holds of `job`'s stages. Raises OSError where it cannot be
    read: that decides nothing."""
    names = [spec.name for spec in job.stages]
    store = store or opened(where)
    here = events.here(where.scratch / "events", ledger=True)
    if store is None:
        nothing = {name: generation.Generation() for name in names}
        index = Index(FolderStore(Path(where.place)), ())
        return Past(index=index, generations=nothing, ledger=here)
    return Past(
        index=Index(store, names),
        generations={name: generation.read(store, where.run, name) for name in names},
        ledger=events.merged(events.stored(store, where.run, ledger=True), here),
    )
