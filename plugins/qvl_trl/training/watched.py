"""TRL's trainers, watched: which rows every optimizer step takes, and whether its loss and gradient are finite.

A step that must not be applied raises StageError before the optimizer sees it: weights, and every checkpoint, stay as
the step before left them. The device is waited for once an optimizer step, not once a batch.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from transformers import Trainer

from qvl_run.contract import StageError
from qvl_trl.training.divergence import LOSSES, OVERFLOWS, Divergence, Part
from qvl_trl.training.memory import RowsSeen

SOURCES = "sources"
"""Under this key a batch carries the sources of its rows, from the worker that made it to the trainer."""
SHOWN = 16
"""Rows that a message names at most."""


@dataclass(frozen=True)
class Sourced:
    """A collator whose batches carry `SOURCES`. A class, so that worker processes can pickle it."""

    collate: Callable[[list[dict[str, Any]]], Mapping[str, Any]]

    def __call__(self, rows: list[dict[str, Any]]) -> dict[str, Any]:
        """The batch of `rows`, which the collator may change."""
        sources = _sources(rows)
        return {**self.collate(rows), SOURCES: sources}


class Watched(Trainer):
    """Comes before TRL's trainer among the bases."""

    sources: Sequence[Sequence[str]] = ()
    """Of the rows of the step under way, by batch."""
    done: Sequence[torch.Tensor] = ()
    """Of the batches of the step that went through the model: whether the loss is finite. On the device."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._divergence = Divergence()
        self.seen = RowsSeen()

    def get_batch_samples(self, *args: Any, **kwargs: Any) -> Any:
        """The batches of one optimizer step."""
        batches, items = super().get_batch_samples(*args, **kwargs)
        self.sources = [
            batch.pop(SOURCES) if isinstance(batch, dict) else _sources(batch) for batch in batches
        ]
        self.done = []
        return batches, items

    def compute_loss(self, model: Any, inputs: Any, *args: Any, **kwargs: Any) -> Any:
        """The loss of one batch."""
        self.seen.note(inputs)
        return super().compute_loss(model, inputs, *args, **kwargs)

    def training_step(self, *args: Any, **kwargs: Any) -> torch.Tensor:
        """Forward and backward of one batch."""
        loss: torch.Tensor = super().training_step(*args, **kwargs)
        self.done = [*self.done, loss.isfinite().all()]
        return loss

    def log(self, *args: Any, **kwargs: Any) -> None:
        """Called when the trainer has subtracted its sum of losses from itself, which leaves a NaN what it is."""
        super().log(*args, **kwargs)
        self._tr_loss.nan_to_num_(nan=0.0)

    def _get_grad_norm(self, *args: Any, **kwargs: Any) -> Any:
        """Asked for in every step, right before the optimizer."""
        norm = super()._get_grad_norm(*args, **kwargs)
        finite = torch.as_tensor(norm, device=self.done[0].device).isfinite()
        *losses, gradient = torch.stack([*self.done, finite]).tolist()
        scaled = self.accelerator.scaler is not None
        part = self._divergence.after(
            loss_finite=all(losses), gradient_finite=gradient, scaled=scaled
        )
        if part or (not gradient and self._nothing_applied()):
            raise StageError(
                _described(part, step=self.state.global_step + 1, in_a_row=scaled)
                + f" Its rows: {_listed(_suspects(self.sources, losses))}. Look at them, or lower"
                f" training.learning_rate or training.max_grad_norm{self._precision_advice()}",
                failure="nan",
            )
        return norm

    def _nothing_applied(self) -> bool:
        """Whether this is the last step and a scaler has left out every one before it: the schedule, saved in every
        checkpoint, moves with the steps that are applied."""
        last = self.state.global_step + 1 >= self.state.max_steps
        return last and self.lr_scheduler.state_dict()["last_epoch"] == 0

    def _precision_advice(self) -> str:
        if self.args.fp16:
            return ", or set model.precision to fp32, or to bf16 where the GPU has it"
        return ", or set model.precision to fp32" if self.args.bf16 else ""


def _sources(rows: Sequence[Mapping[str, Any]]) -> list[str]:
    return [row["example"].source for row in rows]


def _suspects(sources: Sequence[Sequence[str]], losses: Sequence[bool]) -> list[str]:
    """The rows of the batches whose loss is not finite; where all are, those of the whole step. Each once."""
    bad = [rows for rows, finite in zip(sources, losses, strict=True) if not finite]
    return list(dict.fromkeys(source for rows in bad or sources for source in rows))


def _listed(rows: Sequence[str]) -> str:
    more = f" and {len(rows) - SHOWN} more" if len(rows) > SHOWN else ""
    return ", ".join(rows[:SHOWN]) + more


def _described(part: Part | None, *, step: int, in_a_row: bool) -> str:
    if part is None:
        return f"the gradient overflowed in fp16 at every step up to the last, {step}: none was applied."
    before = f", as in the {(LOSSES if part == 'loss' else OVERFLOWS) - 1} steps before it"
    return (
        f"the {part} is NaN or infinite at step {step}{before if in_a_row else ''};"
        " that step was not applied."
    )
