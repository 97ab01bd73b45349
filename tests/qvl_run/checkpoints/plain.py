"""Checkpoints as other scripts leave them: what transformers' Trainer writes, without a manifest."""

import json
import zipfile
from pathlib import Path


def safetensors(size: int = 4) -> bytes:
    """A whole file of one tensor of `size` bytes."""
    header = json.dumps({"w": {"dtype": "U8", "shape": [size], "data_offsets": [0, size]}}).encode()
    return len(header).to_bytes(8, "little") + header + bytes(size)


def plain_checkpoint(folder: Path, *, step: int, total: int = 20) -> None:
    """An adapter's checkpoint."""
    folder.mkdir(parents=True)
    state = {"global_step": step, "max_steps": total}
    (folder / "trainer_state.json").write_text(json.dumps(state))
    (folder / "adapter_config.json").write_text("{}")
    (folder / "adapter_model.safetensors").write_bytes(safetensors())
    for name in ("optimizer.pt", "scheduler.pt", "rng_state.pth"):
        with zipfile.ZipFile(folder / name, "w") as archive:
            archive.writestr("data.pkl", "x" * 50)
