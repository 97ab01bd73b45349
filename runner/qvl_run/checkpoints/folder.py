"""A store in a folder: this machine's own disk, or a mounted drive.

Nothing is promised about when a mounted drive uploads, or in which order. A drive that was mounted and is no longer is
told from an empty one by the file system that its root lies on.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path, PurePosixPath

from qvl_run.checkpoints.store import Level
from qvl_run.disk import LOCAL, Disk, files_below, make_all, remove_all


class FolderStore:
    """See `Store`. `root` must be there before anything is written; `lasting` tells this machine's own disk from a
    mount whose uploads nobody sees."""

    finished: Level

    def __init__(self, root: Path, *, lasting: bool = True, disk: Disk = LOCAL) -> None:
        self.root = root
        self.place = str(root)
        self.finished = "durable" if lasting else "mirrored"
        self._disk = disk
        self._below: int | None = None
        self._seen: set[str] = set()
        """Names in the root that this process has written to: where they are not listed, nothing is to be believed."""

    def names(self, folder: str) -> Sequence[str]:
        """See `Store`."""
        self._alive()
        try:
            return self._disk.names(self.root / folder)
        except FileNotFoundError:
            self._prove_absent(folder)
            return []

    def sizes(self, folder: str) -> dict[str, int]:
        """See `Store`."""
        self._alive()
        try:
            below = list(files_below(self.root / folder, self._disk))
        except FileNotFoundError:
            self._prove_absent(folder)
            return {}
        return {name: size for name, kind, size in below if kind == "file"}

    def read(self, name: str) -> Iterator[bytes]:
        """See `Store`."""
        self._alive()
        try:
            yield from self._disk.read(self.root / name)
        except FileNotFoundError:
            self._prove_absent(name)
            raise

    def write(self, name: str, chunks: Iterable[bytes]) -> None:
        """See `Store`. A file of this machine's own disk is on it when this returns."""
        self._alive()
        path = self.root / name
        make_all(path.parent, self._disk, root=self.root)
        self._disk.write(path, chunks, sync=True)
        self._sync(path.parent)
        self._alive()
        self._seen.add(PurePosixPath(name).parts[0])

    def claim(self, folder: str) -> bool:
        """See `Store`: a local file system makes a folder once; Drive would make two of one name."""
        self._alive()
        path = self.root / folder
        make_all(path.parent, self._disk, root=self.root)
        try:
            self._disk.make(path)
        except FileExistsError:
            return False
        self._sync(path.parent)
        self._alive()
        return True

    def remove(self, folder: str, *, first: str) -> None:
        """See `Store`."""
        self._alive()
        remove_all(self.root / folder, self._disk, first=first)

    def free(self) -> int | None:
        """See `Store`."""
        return self._disk.free(self.root)

    def local(self, folder: str) -> Path | None:
        """See `Store`."""
        return self.root / folder if self.finished == "durable" else None

    def take(self, folder: Path, name: str) -> bool:
        """See `Store`: only within one file system, and only under a name that nothing has."""
        self._alive()
        target = self.root / name
        make_all(target.parent, self._disk, root=self.root)
        if self._disk.device(folder) != self._disk.device(target.parent):
            return False
        try:
            self._disk.kind(target)
        except FileNotFoundError:
            self._disk.sync(folder)
            try:
                self._disk.rename(folder, target)
            except OSError as error:
                if error.errno != errno.EXDEV:
                    raise
                return False  # one file system, mounted twice
            self._disk.sync(target.parent)
            return True
        raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST), str(target))

    def _sync(self, folder: Path) -> None:
        """Have this machine's own disk hold the names in `folder`; a mounted drive may not know how."""
        if self.finished == "durable":
            self._disk.sync(folder)

    def _prove_absent(self, name: str) -> None:
        """Raise OSError unless a listing shows that `name` is not there: a dead mount also says "not found" of files
        that exist (colabtools #3441)."""
        if not self._seen <= set(self._disk.names(self.root)):
            raise OSError(errno.EIO, "it does not list what was there", self.place)
        folder = self.root
        for part in PurePosixPath(name).parts:
            if part not in self._disk.names(folder):
                return
            folder = folder / part
            if self._disk.kind(folder)[0] == "other":
                return  # a link that leads nowhere
        raise OSError(errno.EIO, "it is listed, but cannot be opened", f"{self.place}/{name}")

    def _alive(self) -> None:
        """Raise OSError where the mount that held the root has gone, and only the disk below it is left."""
        device = self._disk.device(self.root)
        if self._below is None:
            self._below = self._device_below(device)
        elif device == self._below:
            raise OSError(errno.ENOTCONN, "it is no longer mounted", self.place)

    def _device_below(self, device: int) -> int:
        """The file system that the mount point of the root lies on; -1 where the root is not on a mount."""
        for parent in self.root.parents:
            if (outer := self._disk.device(parent)) != device:
                return outer
        return -1
