"""A checkpoint before training goes on from it: whole enough to go on exactly, and data alone.

torch writes the optimizer, the schedule and the random state as pickles, and a pickle can run code
when it is read. They are read here first, by torch's reader of tensors and numbers, so that a file
which holds anything else is refused by name; `tensors_only` keeps every later read to that reader.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from transformers.trainer_pt_utils import safe_globals

from qvl_run.contract import StageError

STATE = "trainer_state.json"
NEEDED = ("optimizer.pt", "scheduler.pt", "rng_state.pth")
"""Without one of these the trainer would go on with a fresh one and not say so."""
SCALER = "scaler.pt"
PICKLED_WEIGHTS = ("adapter_model.bin", "pytorch_model.bin", "pytorch_model.bin.index.json")
"""The trainer may take these instead of the safetensors beside them."""


@dataclass(frozen=True)
class Saved:
    """The trainer's state in a checkpoint."""

    step: int
    total: int
    log: list[dict[str, Any]]

    @property
    def finished(self) -> bool:
        """Whether training is over."""
        return self.step >= self.total

    @property
    def tokens(self) -> int:
        """Tokens trained on so far: every save is logged, and the log counts them."""
        counts = [entry["num_tokens"] for entry in self.log if "num_tokens" in entry]
        return int(counts[-1]) if counts else 0


def read_checkpoint(folder: Path) -> Saved:
    """The state in `folder`. Raises StageError where training cannot go on from it exactly and safely."""
    try:
        state = json.loads((folder / STATE).read_text(encoding="utf-8"))
        saved = Saved(int(state["global_step"]), int(state["max_steps"]), state["log_history"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise _refused(folder, STATE, "is missing or damaged") from error
    for name in PICKLED_WEIGHTS:
        if (folder / name).exists():
            raise _refused(folder, name, "must not be there: weights are read from safetensors")
    for name in NEEDED:
        if not (folder / name).is_file():
            raise _refused(folder, name, "is missing")
    for name in (*NEEDED, SCALER):
        if (folder / name).is_file():
            _check_pickle(folder, name)
    return saved


@contextmanager
def tensors_only() -> Iterator[None]:
    """Let `torch.load` read nothing but tensors and numbers, whatever its caller or the environment says."""
    wanted = {"TORCH_FORCE_WEIGHTS_ONLY_LOAD": "1", "TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD": "0"}
    before = {name: os.environ.get(name) for name in wanted}
    os.environ.update(wanted)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value


def _check_pickle(folder: Path, name: str) -> None:
    try:
        # Mapped, not read: an optimizer's tensors may take gigabytes.
        with tensors_only(), safe_globals():
            torch.load(folder / name, map_location="cpu", weights_only=True, mmap=True)
    except Exception as error:  # whatever a damaged or hostile file makes of the reader
        raise _refused(
            folder, name, "is damaged, or holds more than tensors and numbers"
        ) from error


def _refused(folder: Path, name: str, why: str) -> StageError:
    return StageError(
        f"cannot go on from the checkpoint {folder}: {name} {why}. Go on from another checkpoint, or"
        " start from this one's weights (--init-from)",
        failure="data",
    )
