"""The GPU's memory that a stage took, beside what was predicted for the rows it really saw."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch

from qvl_run.settings import StageSettings
from qvl_trl.memory.predict import training_peak
from qvl_trl.memory.shape import PATCHES, Shape
from qvl_trl.models.architecture import of_stage


@dataclass
class RowsSeen:
    """The longest rows that went through the model, kept on its device: nothing waits for it until it is asked."""

    tokens: int = 0
    rows: int = 0
    patches: int = 0
    scored: torch.Tensor | None = None
    padded: torch.Tensor | None = None

    def note(self, inputs: Mapping[str, Any]) -> None:
        """Note the rows of a batch, as one of TRL's trainers is given it."""
        if "prompt_ids" in inputs:
            ids, mask = inputs["completion_ids"], inputs["prompt_mask"]
            tokens, scored = mask.size(1) + ids.size(1), inputs["completion_mask"]
        else:
            ids, mask = inputs["input_ids"], inputs["attention_mask"]
            tokens = ids.size(1)
            scored = (
                inputs["completion_mask"]
                if "completion_mask" in inputs
                else inputs["labels"] != -100
            )
        most = scored.sum(dim=1).max()
        short = (mask == 0).any()
        self.tokens = max(self.tokens, tokens)
        self.rows = max(self.rows, len(ids))
        self.patches = max(self.patches, len(inputs.get("pixel_values", ())))
        self.scored = most if self.scored is None else torch.maximum(self.scored, most)
        self.padded = short if self.padded is None else self.padded | short

    def shape(self) -> Shape | None:
        """The longest row; None where there was none."""
        if self.scored is None or self.padded is None:
            return None
        answer = int(self.scored)
        return Shape(
            prompt=self.tokens - answer,
            answer=answer,
            image_tokens=-(-self.patches // (PATCHES * self.rows)),
            padded=bool(self.padded),
        )


@dataclass
class Meter:
    """Peaks of PyTorch's allocator, in bytes; nothing without a GPU."""

    settings: StageSettings
    facts: dict[str, float] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self._gpu = torch.cuda.is_available()
        if self._gpu:
            torch.cuda.reset_peak_memory_stats()

    @contextmanager
    def training(self, seen: RowsSeen) -> Iterator[None]:
        """The training loop, whose rows are noted in `seen`."""
        self._note("peak")
        yield
        self._note("training")
        shape, sizes = seen.shape(), of_stage(self.settings)
        if self._gpu and shape is not None and sizes is not None:
            self.facts["predicted"] = training_peak(self.settings, sizes, shape).total
            self.facts["tokens"] = shape.tokens
            self.facts["image_tokens"] = shape.image_tokens

    def read(self) -> Mapping[str, float]:
        """`peak`: the most that tensors took in all, `training` in the training loop, `predicted` for the rows seen
        there; `reserved` by the allocator; `tokens` and `image_tokens` of the longest row."""
        self._note("peak")
        return self.facts

    def _note(self, name: str) -> None:
        if not self._gpu:
            return
        most = torch.cuda.max_memory_allocated()
        self.facts[name] = max(self.facts.get(name, 0), most)
        self.facts["peak"] = max(self.facts.get("peak", 0), most)
        reserved = torch.cuda.max_memory_reserved()
        self.facts["reserved"] = max(self.facts.get("reserved", 0), reserved)
        torch.cuda.reset_peak_memory_stats()
