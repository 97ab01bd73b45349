"""What `init_from` and `--resume-from` name: folders that people point at, made by this runner or by other scripts."""

from __future__ import annotations

import json
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from qvl_run.checkpoints import manifest as manifests
from qvl_run.checkpoints.folder import FolderStore
from qvl_run.checkpoints.manifest import NAME, Broken, Manifest
from qvl_run.checkpoints.pick import step_of
from qvl_run.checkpoints.store import Held

_MODEL = ("adapter_config.json", "config.json")
_WEIGHTS = ("adapter_model.safetensors", "model.safetensors", "model.safetensors.index.json")


def starting_point(folder: Path) -> Path:
    """The model or adapter that `folder` means: itself, or in a stage's folder its newest whole output, else its
    highest whole checkpoint. Raises Broken with what was found instead; OSError where the folder cannot be read."""
    if not folder.is_dir():
        raise Broken("there is no such folder")
    if any((folder / name).is_file() for name in _MODEL):
        if (folder / NAME).exists():
            held = Held(FolderStore(folder.parent), folder.name)
            manifests.verify(held, manifests.read(held))
        _check_weights(folder)
        return folder
    outputs = sorted(folder.glob("final*"), key=lambda p: p.stat().st_mtime, reverse=True)
    checkpoints = sorted(
        folder.glob("checkpoint-*"), key=lambda path: step_of(path.name), reverse=True
    )
    reasons = []
    for candidate in (*outputs, *checkpoints):
        try:
            return starting_point(candidate)
        except Broken as error:
            reasons.append(f"{candidate.name}: {error}")
    raise Broken("; ".join(reasons) or "it holds no model, no adapter and no checkpoint")


def plain_checkpoint(
    folder: Path, *, stage: str, key: str, identity: Mapping[str, Any]
) -> Manifest:
    """A manifest for a checkpoint that another script's Trainer left, after its structure has been checked: the
    state's step is the folder's, the optimizer and the scheduler are there and are whole archives, the weights'
    header fits their size. Raises Broken. Nothing is unpickled."""
    try:
        state = json.loads((folder / "trainer_state.json").read_text(encoding="utf-8"))
        step, total = int(state["global_step"]), int(state["max_steps"])
    except FileNotFoundError:
        raise Broken(
            "it has no trainer_state.json: it cannot be resumed, only started from"
        ) from None
    except (ValueError, KeyError, TypeError):
        raise Broken("its trainer_state.json is damaged") from None
    if step_of(folder.name) != step:
        raise Broken(f"its trainer_state.json is of step {step}")
    for name in ("optimizer.pt", "scheduler.pt"):
        if not (folder / name).is_file():
            raise Broken(f"{name} is missing: it cannot be resumed, only started from")
        if not zipfile.is_zipfile(folder / name):
            raise Broken(f"{name} is cut short")
    _check_weights(folder)
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


def _check_weights(folder: Path) -> None:
    present = [name for name in _WEIGHTS if (folder / name).is_file()]
    if not present:
        raise Broken("it has no weights in safetensors format")
    shards = [folder / name for name in present if name.endswith(".safetensors")]
    for name in present:
        if name.endswith(".index.json"):
            try:
                index = json.loads((folder / name).read_text(encoding="utf-8"))
                shards += [folder / shard for shard in sorted(set(index["weight_map"].values()))]
            except (ValueError, KeyError, AttributeError):
                raise Broken(f"{name} is damaged") from None
    for shard in shards:
        _check_safetensors(shard)


def _check_safetensors(path: Path) -> None:
    """The header's offsets against the file's size (format: github.com/huggingface/safetensors, README)."""
    if not path.is_file():
        raise Broken(f"{path.name} is missing")
    size = path.stat().st_size
    with path.open("rb") as file:
        length = int.from_bytes(file.read(8), "little")
        if not 2 <= length <= min(size - 8, 100_000_000):
            raise Broken(f"{path.name} is cut short or no safetensors file")
        try:
            header = json.loads(file.read(length))
            ends = [
                entry["data_offsets"][1] for name, entry in header.items() if name != "__metadata__"
            ]
        except (ValueError, KeyError, TypeError, AttributeError, IndexError):
            raise Broken(f"{path.name} has a damaged header") from None
    if size != 8 + length + max(ends, default=0):
        raise Broken(f"{path.name} has {size} of {8 + length + max(ends, default=0)} bytes")
