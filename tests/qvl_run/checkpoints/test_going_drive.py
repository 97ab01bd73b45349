"""A drive whose mount goes in the middle of a call: nothing is believed that fell on the disk below it."""

from __future__ import annotations

import errno
from collections.abc import Callable
from pathlib import Path

import pytest

from qvl_run.checkpoints.folder import FolderStore
from qvl_run.disk import Disk

CALLS: dict[str, Callable[[FolderStore, Path], object]] = {
    "write": lambda store, _: store.write("checkpoints/sft/file", [b"x"]),
    "claim": lambda store, _: store.claim("runs/job/claims/1"),
    "take": lambda store, folder: store.take(folder, "checkpoints/sft/checkpoint-1"),
}


class Going(Disk):
    """The file system as it is, until `armed`: then `root` is gone once it has been asked for."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.armed = False

    def device(self, path: Path) -> int:
        found = super().device(path)
        if self.armed and path == self.root:
            self.root.rename(self.root.with_name("elsewhere"))
            self.armed = False
        return found


class Below(Disk):
    """`root` is a mount point, mounted until `gone`: from then on the disk below it answers."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.gone = False

    def device(self, path: Path) -> int:
        mounted = path == self.root or self.root in path.parents
        return 1 if mounted and not self.gone else 2

    def make(self, folder: Path) -> None:
        self.gone = True
        super().make(folder)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    made = tmp_path / "local" / "checkpoint-1"
    made.mkdir(parents=True)
    (made / "file").write_bytes(b"x")
    return made


@pytest.mark.parametrize("name", CALLS)
def test_the_root_is_never_made_anew(name: str, tmp_path: Path, folder: Path) -> None:
    root = tmp_path / "mount" / "qvl"
    root.mkdir(parents=True)
    disk = Going(root)
    store = FolderStore(root, disk=disk)
    store.names("")
    disk.armed = True
    with pytest.raises(OSError, match="No such file"):
        CALLS[name](store, folder)
    assert not root.exists()


@pytest.mark.parametrize("name", ["write", "claim"])
def test_what_fell_below_the_mount_is_not_believed(name: str, tmp_path: Path, folder: Path) -> None:
    root = tmp_path / "mount"
    root.mkdir()
    store = FolderStore(root, disk=Below(root))
    store.names("")
    with pytest.raises(OSError, match="no longer mounted") as told:
        CALLS[name](store, folder)
    assert told.value.errno == errno.ENOTCONN
