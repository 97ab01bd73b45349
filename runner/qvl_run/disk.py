"""The one place where checkpoints touch a file system, so that tests can fail, kill or delay any single effect.

Everything that saves, mirrors, verifies, prunes or adopts a checkpoint goes through a `Disk`. Each effect passes the
crash point `disk.effect` before and after it happens, and in the middle of a write.
"""

from __future__ import annotations

import errno
import hashlib
import os
import stat
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Literal

from qvl_run.faults import crash_point

CHUNK = 4 * 1024 * 1024
"""Bytes in memory at a time."""

Kind = Literal["file", "folder", "other"]


class Disk:
    """The file system as it is. Every method raises OSError as the system does."""

    def names(self, folder: Path) -> list[str]:
        """What lies in `folder`, sorted."""
        return sorted(os.listdir(folder))

    def kind(self, path: Path) -> tuple[Kind, int]:
        """What `path` is, links not followed ("other"), and its size in bytes."""
        found = os.lstat(path)
        if stat.S_ISREG(found.st_mode):
            return "file", found.st_size
        return ("folder" if stat.S_ISDIR(found.st_mode) else "other"), 0

    def device(self, path: Path) -> int:
        """The file system that `path` lies on."""
        return path.stat().st_dev

    def free(self, path: Path) -> int:
        """Bytes that may still be written at `path`."""
        found = os.statvfs(path)
        return found.f_bavail * found.f_frsize

    def read(self, path: Path) -> Iterator[bytes]:
        """The content of `path`, in chunks."""
        with path.open("rb") as file:
            while chunk := file.read(CHUNK):
                yield chunk

    def write(self, path: Path, chunks: Iterable[bytes], *, sync: bool = False) -> None:
        """Write `chunks` to `path`, replacing what is there; with `sync`, on the disk when this returns."""
        crash_point("disk.effect")
        with path.open("wb") as file:
            for chunk in chunks:
                file.write(chunk[: len(chunk) // 2])
                file.flush()
                crash_point("disk.effect")
                file.write(chunk[len(chunk) // 2 :])
            if sync:
                file.flush()
                os.fsync(file.fileno())
        crash_point("disk.effect")

    def make(self, folder: Path) -> None:
        """Make `folder`, whose parent is there. Raises FileExistsError where something has its name."""
        crash_point("disk.effect")
        folder.mkdir()
        crash_point("disk.effect")

    def rename(self, path: Path, target: Path) -> None:
        """Give `path` the name `target`; a file that has it is replaced, a folder that is not empty is not."""
        crash_point("disk.effect")
        path.rename(target)
        crash_point("disk.effect")

    def truncate(self, path: Path) -> None:
        """Cut the file `path` to nothing."""
        crash_point("disk.effect")
        os.truncate(path, 0)
        crash_point("disk.effect")

    def unlink(self, path: Path) -> None:
        """Remove the file or link `path`."""
        crash_point("disk.effect")
        path.unlink()
        crash_point("disk.effect")

    def rmdir(self, folder: Path) -> None:
        """Remove the empty `folder`."""
        crash_point("disk.effect")
        folder.rmdir()
        crash_point("disk.effect")

    def sync(self, path: Path) -> None:
        """Have the disk hold `path`, a file's bytes or a folder's entries, before going on."""
        crash_point("disk.effect")
        descriptor = os.open(path, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
        crash_point("disk.effect")


LOCAL = Disk()
"""This machine's own."""


def there(folder: Path) -> bool:
    """Whether `folder` exists. Raises OSError where that cannot be told: a dead mount calls everything missing, so
    the nearest folder above must be there and list no such name."""
    try:
        folder.stat()
    except FileNotFoundError:
        above, name = folder.parent, folder.name
        while not above.exists() and above != above.parent:
            above, name = above.parent, above.name
        if name in os.listdir(above):
            raise OSError(
                errno.EIO, "it is listed, but cannot be opened", str(above / name)
            ) from None
        return False
    return True


def sha256(chunks: Iterable[bytes]) -> str:
    """Hex digest of what `chunks` are together."""
    digest = hashlib.sha256()
    for chunk in chunks:
        digest.update(chunk)
    return digest.hexdigest()


def files_below(folder: Path, disk: Disk = LOCAL) -> Iterator[tuple[str, Kind, int]]:
    """Everything below `folder`: name with forward slashes, kind, size. Folders are entered, not yielded, unless
    they are empty."""
    for name in disk.names(folder):
        kind, size = disk.kind(folder / name)
        if kind != "folder":
            yield name, kind, size
            continue
        inner = list(files_below(folder / name, disk))
        if not inner:
            yield name, "folder", 0
        for below, its_kind, its_size in inner:
            yield f"{name}/{below}", its_kind, its_size


def make_all(folder: Path, disk: Disk = LOCAL, *, root: Path | None = None) -> None:
    """Make `folder` and those above it, where they are missing; never `root`: FileNotFoundError where that is gone."""
    missing = []
    while folder != root and not folder.is_dir():
        missing.append(folder)
        folder = folder.parent
    for path in reversed(missing):
        try:
            disk.make(path)
        except FileExistsError:
            if not path.is_dir():
                raise


def remove_all(folder: Path, disk: Disk = LOCAL, *, first: str = "") -> None:
    """Remove `folder` with all that is in it, the file called `first` before the rest. Files are cut to nothing
    before they go: a drive's trash counts against its quota (transformers #14922)."""
    if disk.kind(folder)[0] != "folder":
        disk.unlink(folder)  # a link: what it leads to is not ours
        return
    entries = list(files_below(folder, disk))
    for name, kind, size in sorted(entries, key=lambda entry: entry[0] != first):
        if kind == "folder":
            continue
        if kind == "file" and size:
            disk.truncate(folder / name)
        disk.unlink(folder / name)
    _remove_folders(folder, disk)


def _remove_folders(folder: Path, disk: Disk) -> None:
    for name in disk.names(folder):
        _remove_folders(folder / name, disk)
    disk.rmdir(folder)
