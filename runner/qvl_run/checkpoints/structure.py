"""Whether files that nobody hashed are at least whole by their own structure. Nothing is unpickled."""

from __future__ import annotations

import json
import zipfile
from pathlib import Path

from qvl_run.checkpoints.manifest import Broken
from qvl_run.units import show_share

_WEIGHTS = ("adapter_model.safetensors", "model.safetensors", "model.safetensors.index.json")


def check_archives(folder: Path) -> None:
    """Every file that torch wrote in `folder` is a zip archive whose directory, at its end, is there. Raises
    Broken."""
    for path in sorted([*folder.glob("*.pt"), *folder.glob("*.pth")]):
        if not zipfile.is_zipfile(path):
            raise Broken(f"{path.name} is cut short, or nothing that torch saved")


def check_weights(folder: Path) -> None:
    """The weights in `folder` are whole: an adapter's or a model's, all shards of it. Raises Broken."""
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
    whole = 8 + length + max(ends, default=0)
    if size != whole:
        raise Broken(f"{path.name} has {show_share(size, whole)}")
