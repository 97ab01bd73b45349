"""What earlier attempts left on this machine that nothing reads again: killed saves, and copies that were fetched.

Logs, errors, records and reports stay, and so does every folder with a manifest: the mirror decides about those. A
crash at any point leaves the rest for the next call.
"""

from __future__ import annotations

import contextlib
from collections.abc import Collection, Iterable
from pathlib import Path

from qvl_run.checkpoints.manifest import NAME
from qvl_run.disk import LOCAL, Disk, files_below, remove_all
from qvl_run.run.attempt import AttemptFolder, number_of


def leftovers(files: Iterable[str], *, keep: Collection[str] = ()) -> list[str]:
    """The topmost folders, relative to an attempt's work folder, that hold nothing to stay. `files` are the names of
    everything below it, with forward slashes; a folder stays with a manifest in it, below it or above it, and with
    one of the folders `keep`. Pure."""
    every = {folder for name in files for folder in _above(name)}
    whole = {name.rpartition("/")[0] for name in files if name.rpartition("/")[2] == NAME}
    whole |= set(keep)
    staying = {folder for one in whole for folder in (one, *_above(one))}
    inside = {f for f in every if any(f.startswith(f"{one}/") or not one for one in whole)}
    going = every - staying - inside
    return sorted(folder for folder in going if not going.intersection(_above(folder)))


def tidy_attempts(
    parent: Path,
    *,
    keep_running: str | None = None,
    keep: Iterable[Path] = (),
    disk: Disk = LOCAL,
) -> None:
    """Delete what the attempts below `parent` left unfinished; not of the newest, nor of the one called
    `keep_running`, nor the folders `keep`, which something is about to load from. The caller holds the lock of this
    machine. Raises OSError."""
    found = sorted(path for path in parent.glob("attempt-*") if path.is_dir())
    newest = max(found, key=lambda path: number_of(path.name), default=None)
    for path in found:
        work = AttemptFolder(path).work
        if path == newest or path.name == keep_running or not work.is_dir():
            continue
        kept = [_below(one, work) for one in keep if one.resolve().is_relative_to(work.resolve())]
        # The mirror may be deleting one of these folders: then the next call finds the rest.
        with contextlib.suppress(FileNotFoundError):
            names = [name + "/" * (kind == "folder") for name, kind, _ in files_below(work, disk)]
            for name in leftovers(names, keep=kept):
                remove_all(work / name, disk)


def tidy_fetched(fetched: Path, *, wanted: Collection[str] = (), disk: Disk = LOCAL) -> None:
    """Delete copies in `fetched` that no attempt is going to load from; those called as `wanted` says stay, and `fetch`
    takes of them what it needs. Raises OSError."""
    if not fetched.is_dir():
        return
    for name in disk.names(fetched):
        if name not in wanted:
            remove_all(fetched / name, disk)


def _below(folder: Path, work: Path) -> str:
    """`folder` as `leftovers` names it."""
    name = folder.resolve().relative_to(work.resolve()).as_posix()
    return "" if name == "." else name


def _above(name: str) -> list[str]:
    """The folders that `name` lies in."""
    parts = name.split("/")
    return ["/".join(parts[:count]) for count in range(1, len(parts))]
