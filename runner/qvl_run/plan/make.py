"""Make the plan: a job, a machine, and what its storage holds. Reads; writes nothing."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from qvl_run import plugins
from qvl_run.checkpoints import adopt, start
from qvl_run.checkpoints import manifest as manifests
from qvl_run.checkpoints import pick as picking
from qvl_run.checkpoints.folder import FolderStore
from qvl_run.checkpoints.manifest import Broken
from qvl_run.checkpoints.store import Held, Wait
from qvl_run.hardware import Machine
from qvl_run.plan import decide, identity, limits, origin
from qvl_run.plan import pace as paces
from qvl_run.plan.fit import Fits, fit
from qvl_run.plan.past import Past, look
from qvl_run.plan.places import Places, places, store_missing
from qvl_run.plan.plan import Plan, StagePlan
from qvl_run.plan.space import space
from qvl_run.recovery import ladder
from qvl_run.spec import batch
from qvl_run.spec.diagnostic import Diagnostic, JobError
from qvl_run.spec.document import Document
from qvl_run.spec.job import Job, StageSpec


@dataclass(frozen=True, kw_only=True)
class Choices:
    """What the command line changes. `init_from` and `resume_from` speak of the stage that `only` names."""

    only: str | None = None
    resume_from: Path | None = None
    from_scratch: bool = False


def make_plan(job: Job, machine: Machine, *, choices: Choices | None = None) -> Plan:
    """The plan of `job` on `machine`. Raises OSError where the storage cannot be read: that decides nothing; JobError
    where nothing is installed that could read it."""
    if missing := list(store_missing(job)):
        raise JobError(missing)
    choices, where = choices or Choices(), places(job)
    fits = fit(job, machine)
    begun = where.begun()
    past = look(job, where)
    done: dict[str, StagePlan] = {}
    for spec in job.stages:
        if choices.only in (None, spec.name):
            upstream = _upstream(spec, job, machine, where, past, done, fits=fits)
            done[spec.name] = plan_stage(
                spec, job, machine, where, past, fits=fits, upstream=upstream, choices=choices
            )
    seen = _timed(job, where, past)
    done = {name: replace(stage, pace=_pace(stage, machine, seen)) for name, stage in done.items()}
    plan = Plan(
        job=job,
        machine=machine,
        storage=where.place,
        scratch=where.scratch,
        stages=tuple(done.values()),
        space=space(
            ((stage.settings, stage.needs) for stage in done.values()),
            downloads=where.downloads is not None,
        ),
    )
    limited = limits.findings(
        plan.ahead, machine, begun=begun, downloads_last=where.downloads is not None
    )
    return replace(plan, findings=tuple(limited))


def _timed(job: Job, where: Places, past: Past) -> list[paces.Timed]:
    """What the checkpoints and outputs of `job`, here and in storage, tell of the time that steps take."""
    entries = (
        entry
        for spec in job.stages
        for entry in (*where.committed(spec.name), *past.index.of(spec.name))
    )
    return list(paces.all_timed(entry.manifest for entry in entries))


def _pace(stage: StagePlan, machine: Machine, seen: Sequence[paces.Timed]) -> paces.Pace | None:
    return paces.pace(
        stage.needs.work,
        stage=stage.spec.name,
        uses=stage.spec.uses,
        key=stage.key,
        gpu=machine.gpu.name if machine.gpu else None,
        half=stage.settings.model.precision != "fp32",
        seen=seen,
    )


def _upstream(
    spec: StageSpec,
    job: Job,
    machine: Machine,
    where: Places,
    past: Past,
    done: Mapping[str, StagePlan],
    *,
    fits: Fits,
) -> StagePlan | None:
    """The plan of the stage that `spec` starts from, also where it is not itself among those to run."""
    if spec.upstream is None or spec.upstream in done:
        return done.get(spec.upstream or "")
    above = next(s for s in job.stages if s.name == spec.upstream)
    further = _upstream(above, job, machine, where, past, done, fits=fits)
    return plan_stage(above, job, machine, where, past, fits=fits, upstream=further)


def plan_stage(
    spec: StageSpec,
    job: Job,
    machine: Machine,
    where: Places,
    past: Past,
    *,
    fits: Fits,
    upstream: StagePlan | None = None,
    choices: Choices | None = None,
    wait: Wait = lambda _: None,
) -> StagePlan:
    """What will happen to `spec`, as the job has it. `fits` are the job's stages, fitted to `machine`: what recovery
    remembers is laid over that. `upstream` is the plan of the stage it starts from; `wait` as in `choose`."""
    choices = choices or Choices()
    gpu = machine.gpu.name if machine.gpu else "cpu"
    fitted = fits[spec.name]
    changes = ladder.remembered(past.ledger, job.stages, spec.name, gpu=gpu)
    changes = ladder.within(fitted.spec, changes)
    spec = ladder.apply(fitted.spec, changes)
    settings = decide.resolve(spec, machine, wandb=wants_wandb(job))
    needs = plugins.stage(spec.uses).estimate(settings)
    total = needs.optimizer_steps
    known = StagePlan(
        spec=spec,
        state="run",
        settings=settings,
        decisions=fitted.decisions,
        needs=needs,
        changes=changes,
        estimate=total,
        total=total,
    )
    if upstream is not None and upstream.state != "done":
        reason = f"starts from the output of {upstream.spec.name}, which is not done yet"
        return replace(known, state="waiting", reasons=(reason,))
    try:
        begin_at = start.starting_point(spec.init_from) if spec.init_from else None
    except (Broken, FileNotFoundError) as error:
        reason = f"init_from {spec.init_from}: {error}"
        return replace(known, state="no_input", reasons=(reason,))
    above = upstream.manifest if upstream else None
    what = identity.identity(
        spec, upstream=above.content_digest if above else None, init_from=begin_at
    )
    base = identity.key(what)
    number = past.generations[spec.name].numbers.get(base, 0) + choices.from_scratch
    if number:
        what = {**what, "generation": number}
    known = replace(
        known,
        identity=what,
        base_key=base,
        key=identity.key(what),
        input=_input(upstream, begin_at),
    )
    if choices.resume_from:
        return _resume_from(known, choices.resume_from)
    return choose(known, job, where, past, from_scratch=choices.from_scratch, wait=wait)


def choose(
    known: StagePlan,
    job: Job,
    where: Places,
    past: Past,
    *,
    from_scratch: bool = False,
    wait: Wait = lambda _: None,
) -> StagePlan:
    """`known` with what this machine and storage hold of it: done, resume, run, rerun or broken. `wait` is told of each
    chunk that is verified. Raises OSError."""
    assert known.identity is not None
    assert known.key is not None
    key, what, name = known.key, known.identity, known.spec.name
    known = replace(known, held=None, manifest=None, total=known.estimate)
    # This machine's disk first: it is fast, and what is there needs no drive.
    entries = [*where.committed(name), *past.index.of(name)]
    output = picking.pick(entries, key=key, kind="output", wait=wait)
    if output.manifest:
        return replace(
            known,
            state="done",
            held=output.held,
            manifest=output.manifest,
            rejected=output.rejected,
            total=output.manifest.step,
        )
    found = picking.pick(entries, key=key, kind="checkpoint", wait=wait)
    given_up = past.generations[name].given_up
    rejected = tuple(r for r in (*output.rejected, *found.rejected) if r.held.last not in given_up)
    if from_scratch:
        reason = "--from-scratch: what is there is kept, but not used"
        return replace(known, state="run", rejected=rejected, reasons=(reason,))
    if found.manifest:
        return replace(
            known,
            state="resume",
            held=found.held,
            manifest=found.manifest,
            rejected=rejected,
            total=found.manifest.total or known.estimate,
        )
    others = [r.manifest for r in rejected if r.manifest and not r.broken]
    newest = max(others, key=lambda m: (m.kind == "output", m.step)) if others else None
    changes = tuple(_changes(newest.identity, what, job, known.spec)) if newest else ()
    # Where recovery has made something smaller that changes the result, nothing was expected to be there.
    if any(r.broken for r in rejected) and not ladder.changes_result(known.changes):
        reasons: tuple[str, ...] = ("there are checkpoints, and none of them is whole",)
        if newest:
            reasons = (
                "there are checkpoints that are not whole, and those that are were made with other settings",
                *changes,
            )
        return replace(known, state="broken", rejected=rejected, reasons=reasons)
    if newest:
        return replace(known, state="rerun", rejected=rejected, reasons=changes)
    return replace(known, state="run", reasons=())


def _input(upstream: StagePlan | None, begin_at: Path | None) -> Held | None:
    if upstream:
        return upstream.held
    return Held(FolderStore(begin_at.parent), begin_at.name) if begin_at else None


def _changes(
    old: Mapping[str, Any], new: Mapping[str, Any], job: Job, spec: StageSpec
) -> Iterator[str]:
    """Each difference, with the line that set the new value."""
    for change in identity.differences(old, new):
        path: tuple[str, ...] = tuple(change.partition(":")[0].split("."))
        if path == ("training", "global_batch"):
            path = _batch_key(job.document, spec.name)
        if path[:2] == ("data", "options"):
            path = ("data", "with", *path[2:])
        if path == ("data", "rows") and spec.data is not None and spec.data.path:
            change, path = f"the content of {spec.data.path} has changed", ("data", "path")
        place = origin.place_of(job.document, spec.name, path)
        yield f"{change} ({place})" if place else change


def _batch_key(document: Document, stage: str) -> tuple[str, ...]:
    """The key that says what the global batch is."""
    keys = [("training", name) for name in (batch.WHOLE, batch.STEPS, batch.MICRO)]
    return next((key for key in keys if origin.place_of(document, stage, key)), keys[1])


def _resume_from(known: StagePlan, folder: Path) -> StagePlan:
    """`known`, to go on from the very checkpoint that the user names. Raises JobError where that cannot be."""
    assert known.identity is not None
    assert known.key is not None
    held = Held(FolderStore(folder.parent), folder.name)
    try:
        if not folder.is_dir():
            raise Broken("there is no such folder")
        if (folder / manifests.NAME).exists():
            manifest = manifests.read(held)
            manifests.verify(held, manifest)
        else:
            manifest = adopt.plain_checkpoint(
                folder, stage=known.spec.name, key=known.key, identity=known.identity
            )
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
        known, state="resume", held=held, manifest=manifest, total=manifest.total or known.estimate
    )


def wants_wandb(job: Job) -> bool:
    """Whether metrics go to Weights & Biases too."""
    from importlib.util import find_spec

    if job.wandb == "auto":
        return "WANDB_API_KEY" in os.environ and find_spec("wandb") is not None
    return job.wandb
