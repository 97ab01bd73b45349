"""Checkpoints that other scripts left, without a manifest: taken in only when asked for.

Their structure is checked, since nothing says what their bytes should be; then a manifest is written beside them, and
from then on they are as good as this runner's own. Whether they were made with the job's settings only the user knows.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from qvl_run.checkpoints import manifest as manifests
from qvl_run.checkpoints.folder import FolderStore
from qvl_run.checkpoints.manifest import NAME, Broken, Manifest
from qvl_run.checkpoints.pick import step_of
from qvl_run.checkpoints.store import Held
from qvl_run.checkpoints.structure import check_archives, check_weights


def plain_checkpoint(
    folder: Path, *, stage: str, key: str, identity: Mapping[str, Any]
) -> Manifest:
    """A manifest for a checkpoint of transformers' Trainer: the state's step is the folder's, the optimizer and the
    scheduler are there and are whole archives, the weights' header fits their size. Raises Broken, OSError."""
    try:
        state = json.loads((folder / "trainer_state.json").read_text(encoding="utf-8"))
        step, total = int(state["global_step"]), int(state["max_steps"])
    except FileNotFoundError:
        raise Broken(
            f"it has no trainer_state.json: it cannot be resumed, only started from (--init-from {folder})"
        ) from None
    except (ValueError, KeyError, TypeError):
        raise Broken("its trainer_state.json is damaged") from None
    if step_of(folder.name) != step:
        raise Broken(f"its trainer_state.json is of step {step}")
    check_archives(folder)
    check_weights(folder)
    for name in ("optimizer.pt", "scheduler.pt", "rng_state.pth"):
        if not (folder / name).is_file():
            raise Broken(
                f"it has no {name}: it cannot be resumed, only started from (--init-from {folder})"
            )
    return Manifest(
        kind="checkpoint",
        stage=stage,
        step=step,
        total=total,
        key=key,
        identity=identity,
        attempt="adopted",
        facts={},
        files=manifests.entries(folder),
    )


def adopt(held: Held, *, stage: str, key: str, identity: Mapping[str, Any]) -> Manifest:
    """Write a manifest for the plain checkpoint `held`, which lies in a folder. Raises Broken where it is none that
    can be resumed, OSError where it cannot be read or written."""
    assert isinstance(held.store, FolderStore), "plain checkpoints lie in folders"
    folder = held.store.root / held.name
    manifest = plain_checkpoint(folder, stage=stage, key=key, identity=identity)
    held.store.write(f"{held.name}/{NAME}", [manifests.text(manifest).encode()])
    return manifest
