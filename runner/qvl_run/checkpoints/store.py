"""The folder that outlives the machine: `checkpoints/<stage>/` with checkpoints and outputs.

A folder is never written twice: where its plain name is taken, the key's first eight digits are appended. The
manifest arrives last and leaves first, so that what is half there never looks whole. Nothing is promised about when
a mounted drive uploads; that is why everything is verified when read.
"""

from __future__ import annotations

import errno
import os
import shutil
from collections.abc import Iterator
from pathlib import Path

from qvl_run.checkpoints import manifest as manifests
from qvl_run.checkpoints.manifest import NAME, Manifest
from qvl_run.faults import crash_point


def same_disk(one: Path, other: Path) -> bool:
    """Whether both lie on one file system."""
    return one.stat().st_dev == other.stat().st_dev


class FolderStore:
    """A store in a folder, local or mounted."""

    def __init__(self, root: Path) -> None:
        self.root = root

    def stage_folder(self, stage: str) -> Path:
        """Where everything of `stage` lies."""
        return self.root / "checkpoints" / stage

    def folders(self, stage: str) -> Iterator[Path]:
        """Every folder of `stage`: checkpoints and outputs, whole or not. Raises OSError where it cannot tell."""
        parent = self.stage_folder(stage)
        try:
            names = sorted(os.listdir(parent))
        except FileNotFoundError:
            # A dead mount also says "not found" (colabtools #3441): only a live root proves that there is nothing.
            os.listdir(self.root)
            return
        for name in names:
            if name.startswith(("checkpoint-", "final")) and (parent / name).is_dir():
                yield parent / name

    def put(self, folder: Path, manifest: Manifest) -> Path:
        """Take `folder`, whole and on a local disk, into the store; returns where it is now."""
        plain = "final" if manifest.kind == "output" else f"checkpoint-{manifest.step}"
        target = self._free(self.stage_folder(manifest.stage), plain, manifest.key[:8])
        target.parent.mkdir(parents=True, exist_ok=True)
        crash_point("mirror.first_file")
        try:
            folder.rename(target)
        except OSError as error:
            if error.errno != errno.EXDEV:
                raise
            try:
                self._copy(folder, manifest, target)
            except OSError:
                shutil.rmtree(target, ignore_errors=True)
                raise
        crash_point("mirror.after_manifest")
        return target

    def fetch(self, folder: Path, manifest: Manifest, into: Path) -> Path:
        """`folder` as a local folder that can be loaded from: itself on the same disk, else a verified copy of the
        files that the manifest names. Raises Broken where the copy does not verify."""
        into.parent.mkdir(parents=True, exist_ok=True)
        if same_disk(folder, into.parent):
            return folder
        shutil.rmtree(into, ignore_errors=True)
        self._copy(folder, manifest, into)
        manifests.verify(into, manifest)
        return into

    def remove(self, folder: Path) -> None:
        """Delete `folder`, its manifest first. Files are cut to nothing before they go: a drive's trash counts
        against its quota (transformers #14922)."""
        (folder / NAME).unlink(missing_ok=True)
        for path in sorted(folder.rglob("*"), reverse=True):
            if path.is_dir() and not path.is_symlink():
                path.rmdir()
                continue
            if path.is_file() and not path.is_symlink():
                os.truncate(path, 0)
            path.unlink()
        folder.rmdir()

    def _copy(self, folder: Path, manifest: Manifest, target: Path) -> None:
        for entry in manifest.files:
            (target / entry.name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(folder / entry.name, target / entry.name)
        crash_point("mirror.before_manifest")
        manifests.copy(manifest, target)

    def _free(self, parent: Path, plain: str, key: str) -> Path:
        number = 1
        target = parent / plain
        while target.exists():
            target = parent / (f"{plain}.{key}" if number == 1 else f"{plain}.{key}-{number}")
            number += 1
        return target
