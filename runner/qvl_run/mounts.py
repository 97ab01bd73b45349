"""What file system a folder lies on, from the system's table of mounts."""

from __future__ import annotations

from pathlib import Path

import psutil


def file_system(folder: Path) -> str:
    """The type of the mount that `folder` lies on, or would lie on: `ext4`, `fuse.drive`; empty where it is not
    known."""
    path = folder.absolute()
    mounted = {Path(part.mountpoint): part.fstype for part in psutil.disk_partitions(all=True)}
    return next((mounted[above] for above in (path, *path.parents) if above in mounted), "")


def uploads_later(folder: Path) -> bool:
    """Whether what is written to `folder` is sent on afterwards, unseen: a mounted Google Drive (`fuse.drive`, see
    google/colab/drive.py) and every other file system in user space."""
    return file_system(folder).startswith("fuse") and file_system(folder) != "fuseblk"


def google_drive() -> Path | None:
    """Where Google Drive is mounted: the table has a line of type `fuse.drive`."""
    drives = (part for part in psutil.disk_partitions(all=True) if part.fstype == "fuse.drive")
    return next((Path(part.mountpoint) for part in drives), None)
