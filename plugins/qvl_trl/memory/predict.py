"""The peak of a stage: the moment at which most is alive."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from qvl_run.contract import Peak
from qvl_run.settings import StageSettings
from qvl_trl.memory.footprint import Footprint
from qvl_trl.memory.generation import Generation
from qvl_trl.memory.shape import Shape
from qvl_trl.models.architecture import Architecture

TILE = 32768
"""Words of the vocabulary that TRL's fused output layer scores at once, for `TILE_TOKENS` tokens at most
(trl/kernels/chunked_logprob.py)."""
TILE_TOKENS = 4096


def evaluation_peak(
    settings: StageSettings, architecture: Architecture, shape: Shape
) -> Peak | None:
    """Of what is measured before and after training; None where nothing is."""
    stage = Generation(settings=settings, architecture=architecture, shape=shape)
    return max(stage.measuring(), key=lambda one: one.total, default=None)


def without_rows(settings: StageSettings, architecture: Architecture) -> int:
    """Bytes that no row changes, in the optimizer's step: a bound from below, with nothing added for safety."""
    nothing = Shape(prompt=0, answer=0, image_tokens=0, padded=False)
    peak = _Training(settings=settings, architecture=architecture, shape=nothing).update()
    return peak.total - peak.parts["margin"]


def training_peak(settings: StageSettings, architecture: Architecture, shape: Shape) -> Peak:
    """Of the training loop, with rows of `shape`."""
    return max(phases(settings, architecture, shape), key=lambda one: one.total)


def phases(settings: StageSettings, architecture: Architecture, shape: Shape) -> Iterator[Peak]:
    """The moments of the training loop that may be its peak."""
    stage = _Training(settings=settings, architecture=architecture, shape=shape)
    yield stage.vision_forward()
    yield stage.loss()
    yield stage.backward()
    yield stage.update()
    if stage.tower.trained:
        yield stage.vision_backward()
    if settings.uses == "dpo":
        yield stage.reference()
    if settings.uses == "grpo":
        yield Generation(settings=settings, architecture=architecture, shape=shape).sampling()


@dataclass(frozen=True, kw_only=True)
class _Training(Footprint):
    def vision_forward(self) -> Peak:
        return self.at(
            "vision tower", self.standing, vision=self.vision_workspace, autocast=self.autocast
        )

    def loss(self) -> Peak:
        scored = self.rows * self.shape.answer
        # The last norm's input in float32 and its output; of what is scored a copy, and its gradient in float32.
        norm = self.tokens * (4 * self.text.hidden_size + self.hidden)
        copies = scored * (self.hidden + 4 * self.text.hidden_size)
        tile = min(scored, TILE_TOKENS) * TILE * self.numbers.compute
        if self.numbers.weight != self.numbers.compute:
            # The weights of a tile are cast, and the next are before those are given back.
            words = min(TILE, self.text.vocab_size)
            tile += 2 * words * self.text.hidden_size * self.numbers.compute
        if self.settings.model.lora is None:
            # The output layer's own gradient, before it is added to the embedding's.
            tile += 4 * self.text.embedding
        return self.at(
            "loss",
            self.standing,
            activations=self.kept + norm,
            logits=tile + copies,
            autocast=self.autocast,
        )

    def backward(self) -> Peak:
        recomputed, layer = self.recomputed, self.layer
        work = (layer.recomputed if recomputed else layer.backward_workspace) * self.tokens
        # Scores that were written out have gradients as large; the work around the activation is over by then.
        attention = self.saved_scores
        if attention and recomputed:
            attention += layer.saved * self.tokens
        kept = self.kept + max(work, attention)
        layers = self.text.num_hidden_layers if recomputed else 1
        parts = {
            "activations": kept,
            "autocast": self.autocast // layers,
            "dequantized weight": self.dequantized,
        }
        if self.accumulation == 1:
            # The gradients grow while what is kept is given back.
            each = layer.input if recomputed else layer.saved
            shrinking = self.text.num_hidden_layers * each * self.tokens
            parts["gradients"] = max(0, self.gradients - shrinking)
        return self.at("backward", self.standing, **parts)

    def vision_backward(self) -> Peak:
        """The language model's part is done: its gradients are there, its activations are not."""
        tower, patches = self.tower, self.patches
        kept = tower.saved(patches, picture=self.picture, recomputed=self.recomputed)
        if self.recomputed:
            kept += tower.block(patches, picture=self.picture)
        parts = {"vision": kept + self.vision_workspace, "gradients": self.gradients}
        return self.at("vision backward", {**self.standing, "gradients": 0}, **parts)

    def update(self) -> Peak:
        eight_bit = self.settings.training.optim == "adamw_8bit"
        work = 0 if eight_bit else 4 * self.trained
        if self.settings.model.lora is None:
            # Of the embedding two gradients: as the input and as the output layer.
            work = max(work, 4 * self.text.embedding)
        held = {**self.standing, "gradients": self.gradients}
        return self.at("optimizer step", held, **{"optimizer's work": work})

    def reference(self) -> Peak:
        passing = self.passing(self.rows, self.shape.tokens)
        work = max(passing + self.pictures, self.vision_workspace)
        parts = {"activations": self.kept, "reference": work, "autocast": self.autocast}
        return self.at("reference", self.standing, **parts)
