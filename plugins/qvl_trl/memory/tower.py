"""What the vision tower keeps for its backward pass, where it is trained, and what it needs for a moment. In bytes."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from qvl_run.settings import ModelSettings
from qvl_trl.memory import weights
from qvl_trl.memory.attention import saved_scores, scores
from qvl_trl.memory.weights import Linear, Numbers
from qvl_trl.models.parts import Vision

ROTARY = 34
"""Bytes a number of the tower's width and patch where most of it is alive: queries and keys are rotated in float32, out
of place."""


@dataclass(frozen=True, kw_only=True)
class Tower:
    """The vision tower, held and adapted as `model` says, and the mergers that hand its output on."""

    vision: Vision
    model: ModelSettings

    @property
    def numbers(self) -> Numbers:
        """How its numbers are held."""
        return weights.numbers(self.model)

    @property
    def trained(self) -> bool:
        """Whether any of it is."""
        return weights.trains_vision(self.vision, self.model.lora)

    def workspace(self, patches: int, *, picture: int) -> int:
        """While it is at work on so many patches, of pictures of `picture` each."""
        return patches * self.vision.hidden_size * ROTARY + self._scores(scores, picture**2)

    def saved(self, patches: int, *, picture: int, recomputed: bool) -> int:
        """For the backward pass. Where blocks are `recomputed` their inputs are kept; the mergers are in any case."""
        if not self.trained:
            return 0
        own = self.vision.hidden_size
        block = (
            patches * own * self.numbers.residual
            if recomputed
            else self.block(patches, picture=picture)
        )
        return self.vision.depth * block + self._mergers(patches)

    def block(self, patches: int, *, picture: int) -> int:
        """One block for its backward pass."""
        own, wide, size = (
            self.vision.hidden_size,
            self.vision.intermediate_size,
            self.numbers.compute,
        )
        # In float32 what goes into both norms; queries and keys as they are once rotated, what all three are views of,
        # and what attention gives; what goes into the activation.
        kept = 8 * own + size * (6 * own + wide) + self._linear(f"{weights.VISION}blocks.0.")
        return patches * kept + self._scores(saved_scores, patches * picture)

    def _mergers(self, patches: int) -> int:
        """What goes into the norm, in float32, and into the activation; and into what is trained."""
        tokens = patches // self.vision.spatial_merge_size**2
        merger = (4 + self.numbers.compute) * self.vision.merged_size
        return tokens * self.vision.mergers * (merger + self._linear(f"{weights.VISION}merger."))

    def _linear(self, where: str) -> int:
        """Of a patch, or of a token, what the linear layers below `where` keep: what goes into each that is trained,
        cast anew, and into the second half of its adapter."""
        lora, size = self.model.lora, self.numbers.compute
        return size * sum(
            one.inputs + (lora.r if lora is not None else 0)
            for one in weights.vision_linears(self.vision)
            if one.name.startswith(where) and self._trained(one)
        )

    def _trained(self, one: Linear) -> bool:
        lora = self.model.lora
        return lora is None or weights.adapts(lora.target_modules, one.name)

    def _scores(self, count: Callable[..., int], pairs: int) -> int:
        return count(self.model, heads=self.vision.num_heads, pairs=pairs)
