"""What `init_from` names: a model, an adapter, a checkpoint or a stage's folder, made by this runner or by others."""

from __future__ import annotations

import os
from pathlib import Path

from qvl_run.checkpoints import manifest as manifests
from qvl_run.checkpoints.folder import FolderStore
from qvl_run.checkpoints.manifest import NAME, Broken
from qvl_run.checkpoints.pick import step_of
from qvl_run.checkpoints.store import Held
from qvl_run.checkpoints.structure import check_weights
from qvl_run.disk import there

_MODEL = ("adapter_config.json", "config.json")


def starting_point(folder: Path) -> Path:
    """The model or adapter that `folder` means: itself, or in a stage's folder its newest whole output, else its
    highest whole checkpoint. Raises Broken with what was found instead; OSError where the folder cannot be read."""
    if not there(folder):
        raise Broken("there is no such folder")
    if not folder.is_dir():
        raise Broken("it is no folder")
    if any((folder / name).is_file() for name in _MODEL):
        if (folder / NAME).exists():
            held = Held(FolderStore(folder.parent), folder.name)
            manifests.verify(held, manifests.read(held))
        check_weights(folder)
        return folder
    names = sorted(os.listdir(folder))
    outputs = sorted(
        (folder / name for name in names if name.startswith("final")),
        key=lambda path: path.stat().st_mtime,
        reverse=True,
    )
    checkpoints = sorted(
        (folder / name for name in names if name.startswith("checkpoint-")),
        key=lambda path: step_of(path.name),
        reverse=True,
    )
    reasons = []
    for candidate in (*outputs, *checkpoints):
        try:
            return starting_point(candidate)
        except Broken as error:
            reasons.append(f"{candidate.name}: {error}")
    raise Broken("; ".join(reasons) or "it holds no model, no adapter and no checkpoint")
