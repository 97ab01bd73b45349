"""Make the plan: a job, a machine, and what its storage holds. Reads; writes nothing."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import platformdirs

from qvl_run import plugins
from qvl_run.checkpoints import generation, start
from qvl_run.checkpoints import manifest as manifests
from qvl_run.checkpoints import pick as picking
from qvl_run.checkpoints.manifest import Broken
from qvl_run.checkpoints.store import FolderStore
from qvl_run.hardware import Machine
from qvl_run.plan import decide, identity, origin
from qvl_run.plan.plan import Plan, StagePlan
from qvl_run.run.attempt import committed
from qvl_run.spec.diagnostic import Diagnostic, JobError
from qvl_run.spec.job import Job, StageSpec


@dataclass(frozen=True, kw_only=True)
class Choices:
    """What the command line changes. `init_from` and `resume_from` speak of the stage that `only` names."""

    only: str | None = None
    resume_from: Path | None = None
    from_scratch: bool = False


@dataclass(frozen=True, kw_only=True)
class Places:
    """Where a job's files lie. `storage` outlives the machine; `scratch` is this machine's own."""

    storage: Path
    scratch: Path
    drive: bool
    run: Path
    """The job's own folder in storage: events, and what `--from-scratch` gave up."""

    def attempts(self, stage: str) -> Path:
        """Where the attempts of `stage` lie on this machine."""
        return self.scratch / "attempts" / stage

    @property
    def cache(self) -> Path:
        """Generated data."""
        return self.scratch / "cache"


def places(job: Job) -> Places:
    """Where `job` keeps its files, from its `storage`."""
    drive, scratch = job.storage.drive, job.storage.scratch
    storage = drive or Path.cwd() / "qvl-runs" / job.name
    if scratch is None and drive:
        scratch = Path(platformdirs.user_cache_dir("qvl-run"))
    return Places(
        storage=storage,
        # Jobs may share a drive; on the machine's disk each has its own folder.
        scratch=scratch / job.name if scratch else storage / "scratch",
        drive=drive is not None,
        run=storage / "runs" / job.name,
    )


def make_plan(job: Job, machine: Machine, *, choices: Choices | None = None) -> Plan:
    """The plan of `job` on `machine`. Raises OSError where the storage cannot be read: that decides nothing."""
    choices, where = choices or Choices(), places(job)
    done: dict[str, StagePlan] = {}
    for spec in job.stages:
        if choices.only in (None, spec.name):
            upstream = _upstream(spec, job, machine, where, done)
            done[spec.name] = plan_stage(
                spec, job, machine, where, upstream=upstream, choices=choices
            )
    return Plan(
        job=job,
        machine=machine,
        storage=where.storage,
        scratch=where.scratch,
        decisions=(decide.precision(machine.gpu), decide.attention()),
        stages=tuple(done.values()),
        findings=tuple(decide.check(job, machine)),
    )


def _upstream(
    spec: StageSpec, job: Job, machine: Machine, where: Places, done: Mapping[str, StagePlan]
) -> StagePlan | None:
    """The plan of the stage that `spec` starts from, also where it is not itself among those to run."""
    if spec.upstream is None or spec.upstream in done:
        return done.get(spec.upstream or "")
    above = next(s for s in job.stages if s.name == spec.upstream)
    return plan_stage(
        above, job, machine, where, upstream=_upstream(above, job, machine, where, done)
    )


def plan_stage(
    spec: StageSpec,
    job: Job,
    machine: Machine,
    where: Places,
    *,
    upstream: StagePlan | None = None,
    choices: Choices | None = None,
) -> StagePlan:
    """What will happen to `spec`. `upstream` is the plan of the stage it starts from."""
    choices = choices or Choices()
    settings = decide.resolve(spec, machine, wandb=wants_wandb(job))
    total = plugins.stage(spec.uses).estimate(settings).optimizer_steps
    if upstream is not None and upstream.state != "done":
        return StagePlan(
            spec=spec,
            state="waiting",
            settings=settings,
            total=total,
            reasons=(f"starts from the output of {upstream.spec.name}, which is not done yet",),
        )
    try:
        begin_at = start.starting_point(spec.init_from) if spec.init_from else None
    except (Broken, OSError) as error:
        reason = f"init_from {spec.init_from}: {error}"
        return StagePlan(
            spec=spec, state="no_input", settings=settings, total=total, reasons=(reason,)
        )
    above = upstream.manifest if upstream else None
    past = generation.read(where.run, spec.name)
    what = identity.identity(
        spec,
        upstream=above.content_digest if above else None,
        init_from=begin_at,
        generation=past.number + choices.from_scratch,
    )
    key = identity.key(what)
    known = StagePlan(
        spec=spec,
        state="run",
        settings=settings,
        identity=what,
        key=key,
        input=upstream.folder if upstream else begin_at,
        total=total,
    )
    if choices.resume_from:
        return _resume_from(known, choices.resume_from)
    store = FolderStore(where.storage)
    stored = list(store.folders(spec.name)) if _exists(where.storage) else []
    local = committed(where.attempts(spec.name))
    output = picking.pick([*stored, *local], key=key, stage=spec.name, kind="output")
    if output.manifest:
        return replace(
            known,
            state="done",
            folder=output.folder,
            manifest=output.manifest,
            rejected=output.rejected,
            total=output.manifest.step,
        )
    found = picking.pick([*stored, *local], key=key, stage=spec.name, kind="checkpoint")
    rejected = tuple(
        r for r in (*output.rejected, *found.rejected) if r.folder.name not in past.given_up
    )
    if choices.from_scratch:
        reason = "--from-scratch: what is there is kept, but not used"
        return replace(known, rejected=rejected, reasons=(reason,))
    if found.manifest:
        return replace(
            known,
            state="resume",
            folder=found.folder,
            manifest=found.manifest,
            rejected=rejected,
            total=found.manifest.total or total,
        )
    if any(r.broken for r in rejected):
        reason = "there are checkpoints, and none of them is whole"
        return replace(known, state="broken", rejected=rejected, reasons=(reason,))
    others = [r.manifest for r in rejected if r.manifest]
    if others:
        newest = max(others, key=lambda m: (m.kind == "output", m.step))
        changes = tuple(_changes(newest.identity, what, job, spec))
        return replace(known, state="rerun", rejected=rejected, reasons=changes)
    return known


def _changes(
    old: Mapping[str, Any], new: Mapping[str, Any], job: Job, spec: StageSpec
) -> Iterator[str]:
    """Each difference, with the line that set the new value."""
    for change in identity.differences(old, new):
        path: tuple[str, ...] = tuple(change.partition(":")[0].split("."))
        if path == ("training", "global_batch"):
            path = ("training", "gradient_accumulation_steps")
        if path[:2] == ("data", "options"):
            path = ("data", "with", *path[2:])
        place = origin.place_of(job.document, spec.name, path)
        yield f"{change} ({place})" if place else change


def _resume_from(known: StagePlan, folder: Path) -> StagePlan:
    """`known`, to go on from the very checkpoint that the user names. Raises JobError where that cannot be."""
    assert known.identity is not None
    assert known.key is not None
    try:
        if (folder / manifests.NAME).exists():
            manifest = manifests.read(folder)
            manifests.verify(folder, manifest)
        elif folder.is_dir():
            manifest = start.plain_checkpoint(
                folder, stage=known.spec.name, key=known.key, identity=known.identity
            )
        else:
            raise Broken("there is no such folder")
        if manifest.kind != "checkpoint":
            raise Broken("it is a finished output, not a checkpoint")
        if manifest.key != known.key:
            changes = "; ".join(identity.differences(manifest.identity, known.identity))
            raise Broken(f"it was made with other settings: {changes}")
    except Broken as error:
        message = f"--resume-from {folder}: {error}"
        hint = "--init-from starts the stage from its weights instead, at step 0"
        raise JobError([Diagnostic(code="QVL011", message=message, hint=hint)]) from None
    return replace(
        known, state="resume", folder=folder, manifest=manifest, total=manifest.total or known.total
    )


def wants_wandb(job: Job) -> bool:
    """Whether metrics go to Weights & Biases too."""
    from importlib.util import find_spec

    if job.wandb == "auto":
        return "WANDB_API_KEY" in os.environ and find_spec("wandb") is not None
    return job.wandb


def _exists(folder: Path) -> bool:
    try:
        folder.stat()
    except FileNotFoundError:
        return False
    return True
