"""`qvl-run checkpoints`: what there is of a job's stages, and what may go."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import click
from filelock import FileLock, Timeout

from qvl_run import exit_codes, hardware
from qvl_run.checkpoints import manifest as manifests
from qvl_run.checkpoints.adopt import adopt
from qvl_run.checkpoints.folder import FolderStore
from qvl_run.checkpoints.manifest import NAME, Broken
from qvl_run.checkpoints.pick import Entry, step_of
from qvl_run.checkpoints.store import Level, Store
from qvl_run.checkpoints.transfer import surplus
from qvl_run.plan.make import make_plan
from qvl_run.plan.past import Past, look, opened
from qvl_run.plan.places import Places, places
from qvl_run.plan.plan import StagePlan
from qvl_run.run.lease import Lease, Owned, boot
from qvl_run.run.preflight import drive_missing
from qvl_run.spec.job import Job
from qvl_run.spec.render import render
from qvl_run.units import show_size
from qvl_run.verbs.job import Options, chosen, warn

_WORDS: dict[Level, str] = {
    "written": "written (this machine's disk alone)",
    "mirrored": "mirrored (copied, read back; its upload cannot be seen from here)",
    "durable": "durable",
}


@dataclass(frozen=True, kw_only=True)
class Row:
    """One folder, as it is listed. `trouble` says why it cannot be used, empty where nothing speaks against it."""

    entry: Entry
    level: Level
    verified: bool
    trouble: str
    fits: bool

    def text(self) -> str:
        """One line."""
        manifest = self.entry.manifest
        size = show_size(manifest.size) if manifest else "?"
        step = f"step {manifest.step}" if manifest else ""
        if self.trouble:
            state = f"not whole: {self.trouble}"
        else:
            state = f"{_WORDS[self.level]}, {'verified' if self.verified else 'sizes fit'}"
            state += "" if self.fits else "; other settings than the job's"
        return f"  {self.entry.held.last:28} {step:>10} {size:>10}  {state}"


def main(job: str, *, verify: bool, prune: bool, adopting: bool, yes: bool, **options: Any) -> int:
    """List, verify, prune or adopt; the exit code is one of `qvl_run.exit_codes`."""
    loaded, choices = chosen(job, Options(**options))
    warn(loaded)
    where = places(loaded)
    if missing := list(drive_missing(loaded, where)):
        print(render(missing), file=sys.stderr)
        return exit_codes.MACHINE
    plan = make_plan(loaded, hardware.probe(), choices=choices)
    store = opened(where)
    if store is None:
        click.echo(f"there is nothing in {where.place} yet")
        return exit_codes.DONE
    if not (prune or adopting):
        past = look(loaded, where, store)
        for stage in plan.stages:
            _list(stage, _rows(stage, past, where, store, verify=verify))
        return exit_codes.DONE
    try:
        where.scratch.mkdir(parents=True, exist_ok=True)
        with FileLock(where.scratch / "runner.lock", timeout=0):
            lease = Lease(
                store=store,
                run=where.run,
                memory=where.scratch / "owned",
                pause=lambda _: False,
                tell=click.echo,
            )
            lease.acquire()
            try:
                past = look(loaded, where, store)
                if adopting:
                    return _adopt(loaded, plan.stages, past)
                return _prune(plan.stages, past, store, yes=yes)
            finally:
                lease.release()
    except (Timeout, Owned, KeyboardInterrupt) as error:
        print(f"nothing was changed: a qvl-run is at work on this job ({error})", file=sys.stderr)
        return exit_codes.OWNED


def _rows(
    stage: StagePlan, past: Past, where: Places, store: Store, *, verify: bool
) -> Iterator[Row]:
    stored = past.index.of(stage.spec.name)
    there = [entry.manifest for entry in stored]
    local = [e for e in where.committed(stage.spec.name) if e.manifest not in there]
    for entry, level in [(e, None) for e in stored] + [(e, "written") for e in local]:
        trouble = entry.broken
        if entry.manifest:
            try:
                check = manifests.verify if verify else manifests.check_sizes
                check(entry.held, entry.manifest)
            except Broken as error:
                trouble = str(error)
        yield Row(
            entry=entry,
            level="written" if level else _level(entry, store),
            verified=verify,
            trouble=trouble,
            fits=entry.manifest is not None and entry.manifest.key == stage.key,
        )


def _level(entry: Entry, store: Store) -> Level:
    """What is seen by another machine than the one that wrote it has come through the store."""
    made_on = entry.manifest.facts.get("machine") if entry.manifest else None
    return "durable" if made_on not in (None, boot()) else store.finished


def _list(stage: StagePlan, rows: Iterable[Row]) -> None:
    click.echo(stage.spec.name)
    lines = [row.text() for row in sorted(rows, key=_order)]
    click.echo("\n".join(lines) if lines else "  nothing yet")


def _order(row: Row) -> tuple[bool, int, str]:
    name = row.entry.held.last
    return name.startswith("final"), step_of(name), name


def _prune(stages: Iterable[StagePlan], past: Past, store: Store, *, yes: bool) -> int:
    """Remove what the rules allow, after showing it."""
    going: list[Entry] = []
    for stage in stages:
        entries = past.index.of(stage.spec.name)
        for key in {e.manifest.key for e in entries if e.manifest}:
            ours = [e for e in entries if e.manifest and e.manifest.key == key]
            found = surplus(entries, [e.held.name for e in ours if _whole(e)], key=key, torn=True)
            going += [entry for entry in found if entry not in going]
    if not going:
        click.echo("nothing may go: two whole checkpoints of each stage and its output stay")
        return exit_codes.DONE
    for entry in going:
        size = f", {show_size(entry.manifest.size)}" if entry.manifest else ""
        reason = "two newer ones are whole" if entry.manifest else f"torn: {entry.broken}"
        click.echo(f"  {entry.held}{size} ({reason})")
    count = "1 folder" if len(going) == 1 else f"{len(going)} folders"
    if not yes and not click.confirm(f"delete {count}?", default=False):
        click.echo("nothing was deleted")
        return exit_codes.DONE
    for entry in going:
        store.remove(entry.held.name, first=NAME)
    click.echo(f"deleted {count}")
    return exit_codes.DONE


def _whole(entry: Entry) -> bool:
    assert entry.manifest is not None
    try:
        manifests.verify(entry.held, entry.manifest)
    except Broken:
        return False
    return True


def _adopt(job: Job, stages: Iterable[StagePlan], past: Past) -> int:
    """Take in the checkpoints without a manifest whose structure is right."""
    seen = 0
    for stage in stages:
        for entry in past.index.of(stage.spec.name):
            folder = entry.held
            if entry.manifest or not folder.last.startswith("checkpoint-"):
                continue
            if not isinstance(folder.store, FolderStore) or NAME in folder.sizes():
                continue
            seen += 1
            if stage.key is None or stage.identity is None:
                reason = (
                    f"{stage.spec.upstream} is not done: what the stage starts from is not known"
                )
                click.echo(f"  {folder}: not taken: {reason}")
                continue
            try:
                adopt(folder, stage=stage.spec.name, key=stage.key, identity=stage.identity)
            except Broken as error:
                click.echo(f"  {folder}: not taken: {error}")
            else:
                click.echo(f"  {folder}: taken; {job.name} goes on from it if it is the newest")
    if not seen:
        click.echo("there is no checkpoint without a manifest")
    return exit_codes.DONE
