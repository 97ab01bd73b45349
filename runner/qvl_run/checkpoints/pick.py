"""Which folder to go on from: the highest step whose manifest verifies and whose key fits.

Not the newest by clock, not the highest by name. Every folder passed over is named with the reason.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from qvl_run.checkpoints import manifest as manifests
from qvl_run.checkpoints.manifest import Broken, Manifest


@dataclass(frozen=True, kw_only=True)
class Rejected:
    """A folder that was passed over. `broken` tells damage from settings that differ; `manifest` is there where it
    could be read."""

    folder: Path
    reason: str
    broken: bool
    manifest: Manifest | None = None


@dataclass(frozen=True, kw_only=True)
class Pick:
    """The folder to use, None where none fits, and what was passed over on the way."""

    folder: Path | None = None
    manifest: Manifest | None = None
    rejected: tuple[Rejected, ...] = field(default=())


def pick(
    folders: Iterable[Path], *, key: str, stage: str, kind: Literal["checkpoint", "output"]
) -> Pick:
    """The best of `folders`. Hashes from the highest step down and stops at the first that verifies.

    Raises OSError where a folder cannot be read: that says nothing about what it holds.
    """
    rejected: list[Rejected] = []
    fitting: list[tuple[int, Path, Manifest]] = []
    for folder in folders:
        if folder.name.startswith("final") != (kind == "output"):
            continue
        try:
            manifest = manifests.read(folder)
            _check_place(folder, manifest, stage, kind)
        except Broken as error:
            rejected.append(Rejected(folder=folder, reason=str(error), broken=True))
            continue
        if manifest.key != key:
            reason = "was made with other settings"
            rejected.append(Rejected(folder=folder, reason=reason, broken=False, manifest=manifest))
        else:
            fitting.append((manifest.step, folder, manifest))
    for _, folder, manifest in sorted(fitting, key=lambda f: f[0], reverse=True):
        try:
            manifests.verify(folder, manifest)
        except Broken as error:
            rejected.append(
                Rejected(folder=folder, reason=str(error), broken=True, manifest=manifest)
            )
            continue
        return Pick(folder=folder, manifest=manifest, rejected=tuple(rejected))
    return Pick(rejected=tuple(rejected))


def _check_place(folder: Path, manifest: Manifest, stage: str, kind: str) -> None:
    if manifest.kind != kind or manifest.stage != stage:
        raise Broken(f"its manifest is of the {manifest.kind} of stage {manifest.stage}")
    if kind == "checkpoint":
        step = folder.name.removeprefix("checkpoint-").partition(".")[0]
        if step != str(manifest.step):
            raise Broken(f"its manifest is of step {manifest.step}")
