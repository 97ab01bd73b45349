"""`qvl-run jobs`."""

from __future__ import annotations

import shutil
from pathlib import Path

import click

from qvl_run import resources
from qvl_run.spec.diagnostic import Diagnostic, JobError, did_you_mean


def main() -> None:
    """List the shipped jobs, a line each."""
    shipped = resources.shipped_jobs()
    width = max(map(len, shipped))
    for name, path in shipped.items():
        click.echo(f"{name:<{width}}  {summary(path)}")
    click.echo("\nqvl-run NAME runs one; qvl-run jobs copy NAME makes it yours to change")


def copy(name: str, path: Path | None) -> None:
    """Copy a shipped job to `path`, a file or a folder. Raises JobError; never replaces a file."""
    shipped = resources.shipped_jobs()
    key = Path(name).stem
    if key not in shipped:
        raise _wrong(f'there is no shipped job "{name}"', did_you_mean(key, shipped))
    target = path or Path(f"{key}.yaml")
    if target.is_dir():
        target = target / f"{key}.yaml"
    if target.exists():
        raise _wrong(f"{target} is there already", "name another file, or remove it first")
    if not target.parent.is_dir():
        raise _wrong(f"there is no folder {target.parent}")
    shutil.copyfile(shipped[key], target)
    click.echo(f"{target} written; qvl-run {target} runs it")


def summary(path: Path) -> str:
    """What a job says of itself: the first line of comment below the schema's."""
    for line in path.read_text(encoding="utf-8").splitlines():
        text = line.removeprefix("#").strip()
        if line.startswith("#") and text and not text.startswith("yaml-language-server"):
            return text
    return ""


def _wrong(message: str, hint: str = "") -> JobError:
    return JobError([Diagnostic(code="QVL010", message=message, hint=hint)])
