"""Where a job keeps its files: what outlives the machine, and the machine's own disk."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import platformdirs

from qvl_run import mounts, plugins
from qvl_run.checkpoints import pick as picking
from qvl_run.checkpoints.folder import FolderStore
from qvl_run.checkpoints.pick import Entry
from qvl_run.checkpoints.store import Held, Store
from qvl_run.disk import make_all, there
from qvl_run.run.attempt import committed
from qvl_run.spec.diagnostic import Diagnostic
from qvl_run.spec.job import Job


@dataclass(frozen=True, kw_only=True)
class Places:
    """Where a job's files lie. `storage`, or what the URL `bucket` names, outlives the machine; exactly one of them is
    there. `scratch` is this machine's own."""

    storage: Path | None
    bucket: str | None = None
    scratch: Path
    drive: bool
    run: str
    """The job's own folder in the store: events, who is at work, and what `--from-scratch` gave up."""

    def attempts(self, stage: str) -> Path:
        """Where the attempts of `stage` lie on this machine."""
        return self.scratch / "attempts" / stage

    @property
    def cache(self) -> Path:
        """Generated data."""
        return self.scratch / "cache"

    @property
    def place(self) -> str:
        """What outlives the machine, for people."""
        return self.bucket or str(self.storage)

    @property
    def downloads(self) -> Path | None:
        """The folder that keeps downloads for other machines; None where they go anywhere on this one."""
        return self.storage if self.drive else None

    def begun(self) -> bool:
        """Whether something of the run may lie in its places already; a bucket is not asked. True where that cannot be
        told."""
        if self.storage is None or self.scratch.joinpath("attempts").is_dir():
            return True
        try:
            return any(there(self.storage / name) for name in (self.run, "checkpoints"))
        except OSError:
            return True

    def prepare(self) -> None:
        """Make what must be there before anything is stored. Raises OSError."""
        if self.storage is not None:
            make_all(self.storage)

    def store(self) -> Store:
        """The store that outlives the machine. Raises OSError where it cannot be reached."""
        if self.storage is None:
            assert self.bucket is not None
            return plugins.store(self.bucket.partition("://")[0]).open(self.bucket)
        return FolderStore(self.storage, lasting=not mounts.uploads_later(self.storage))

    def committed(self, stage: str) -> list[Entry]:
        """What the attempts of `stage` on this machine have committed, whole on its disk. Raises OSError."""
        return [
            picking.entry_of(Held(FolderStore(folder.parent), folder.name), stage=stage)
            for folder in committed(self.attempts(stage))
        ]


def places(job: Job) -> Places:
    """Where `job` keeps its files, from its `storage`."""
    drive, bucket, scratch = job.storage.drive, job.storage.bucket, job.storage.scratch
    here = Path.cwd() / "qvl-runs" / job.name
    if scratch is None and (drive or bucket):
        scratch = Path(platformdirs.user_cache_dir("qvl-run"))
    return Places(
        storage=None if bucket else drive or here,
        bucket=bucket,
        # Jobs may share a drive; on the machine's disk each has its own folder.
        scratch=scratch / job.name if scratch else here / "scratch",
        drive=drive is not None,
        run=f"runs/{job.name}",
    )


def store_missing(job: Job) -> Iterator[Diagnostic]:
    """What must be installed before the store of `job` can be opened."""
    if job.storage.bucket is None:
        return
    scheme = job.storage.bucket.partition("://")[0]
    if missing := plugins.store(scheme).missing():
        yield Diagnostic(
            code="QVL410",
            message=f"storage.bucket needs {', '.join(missing)}, not installed here",
            span=job.document.span(("storage", "bucket")),
            hint=f"pip install {' '.join(missing)}",
        )
