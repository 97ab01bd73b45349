"""What a stage has in memory, term by term: what its moments are made of."""

from __future__ import annotations

from dataclasses import dataclass

from qvl_run.contract import Peak
from qvl_run.settings import StageSettings
from qvl_trl.memory import weights
from qvl_trl.memory.attention import expands, saved_scores, scores
from qvl_trl.memory.layers import Layer
from qvl_trl.memory.shape import Shape
from qvl_trl.memory.tower import Tower
from qvl_trl.memory.weights import Numbers
from qvl_trl.models.architecture import Architecture
from qvl_trl.models.parts import Text, Vision

MARGIN = 0.02
"""Share of everything that is added: what no term stands for. Measured by `benchmarks/memory.py`."""
LIBRARIES = 64 * 2**20
"""Workspaces of cuBLAS, which lie in PyTorch's allocator: 32 MiB a thread that multiplies on a GPU of capability 9.0,
8 below (aten/src/ATen/cuda/CublasHandlePool.cpp)."""


@dataclass(frozen=True, kw_only=True)
class Footprint:
    """Of the stage `settings`, with a model of such `architecture` and rows of `shape`. In bytes, but for counts."""

    settings: StageSettings
    architecture: Architecture
    shape: Shape

    @property
    def text(self) -> Text:
        """The language model."""
        return self.architecture.text

    @property
    def vision(self) -> Vision:
        """The vision tower."""
        return self.architecture.vision

    @property
    def numbers(self) -> Numbers:
        """How numbers are held."""
        return weights.numbers(self.settings.model)

    @property
    def layer(self) -> Layer:
        """A layer of the language model."""
        expanded = expands(self.settings.model, padded=self.shape.padded)
        return Layer(text=self.text, model=self.settings.model, expanded=expanded)

    @property
    def tower(self) -> Tower:
        """What the vision tower takes."""
        return Tower(vision=self.vision, model=self.settings.model)

    @property
    def rows(self) -> int:
        """That go through the model at once. A pair is two."""
        pairs = 2 if self.settings.uses == "dpo" else 1
        return pairs * self.settings.training.per_device_train_batch_size

    @property
    def accumulation(self) -> int:
        """Batches of a step."""
        return self.settings.training.gradient_accumulation_steps

    @property
    def tokens(self) -> int:
        """Of all rows that go through the model at once."""
        return self.rows * self.shape.tokens

    @property
    def trained(self) -> int:
        """Parameters that are trained."""
        return weights.trained(self.architecture, self.settings.model.lora)

    @property
    def refers(self) -> bool:
        """Whether there is a reference model."""
        uses = self.settings.uses
        return uses == "dpo" or (uses == "grpo" and self.settings.options["beta"] != 0)

    @property
    def hidden(self) -> int:
        """Bytes of a token between the layers."""
        return self.text.hidden_size * self.numbers.residual

    @property
    def pixels(self) -> int:
        """Of all rows of an optimizer step: they are on the GPU before its first batch is."""
        patches = self.rows * self.accumulation * self.shape.patches
        return patches * self.vision.patch_values * 4

    @property
    def gradients(self) -> int:
        """In float32, as what is trained."""
        return 4 * self.trained

    @property
    def autocast(self) -> int:
        """Trained weights in half precision: autocast keeps what it has cast."""
        return self.trained * self.numbers.compute if self.numbers.mixed else 0

    @property
    def dequantized(self) -> int:
        """One quantized weight, the largest, as it is multiplied."""
        if self.settings.model.quantization == "none":
            return 0
        return 2 * self.text.hidden_size * self.text.intermediate_size

    @property
    def pictures(self) -> int:
        """What the vision tower hands over: its output, and what the first text layers take."""
        width, deep = self.text.hidden_size, len(self.vision.deepstack_visual_indexes)
        seen = self.rows * self.shape.image_tokens * width * self.numbers.compute
        return seen * self.vision.mergers + deep * self.tokens * self.hidden

    @property
    def kept(self) -> int:
        """For the backward pass: of all layers, and of the embedded tokens with the pictures put in."""
        layer = self.layer.input if self.recomputed else self.layer.saved
        layers = self.text.num_hidden_layers * (layer + self.layer.int8_inputs)
        masks = self.masks
        tower = self.tower.saved(self.patches, picture=self.picture, recomputed=self.recomputed)
        return (layers + 2 * self.hidden) * self.tokens + masks + self.pictures + tower

    @property
    def masks(self) -> int:
        """What attention adds to its scores where rows are padded, and the scores where it writes them: of every layer,
        or of the one that is recomputed."""
        kept = self.saved_scores
        if not kept and self.shape.padded:
            kept = self.rows * self.shape.tokens**2 * self.numbers.compute
        return kept if self.recomputed else self.text.num_hidden_layers * kept

    @property
    def saved_scores(self) -> int:
        """Of one layer."""
        pairs = self.rows * self.shape.tokens**2
        return saved_scores(self.settings.model, heads=self.text.num_attention_heads, pairs=pairs)

    def passing(self, rows: int, length: int) -> int:
        """The language model at work on rows of so many tokens, nothing saved."""
        tokens = rows * length
        attention = self.layer.attention_workspace * tokens + self.scores(tokens * length)
        return max(self.layer.forward_workspace * tokens, attention)

    def scores(self, pairs: int) -> int:
        """Of one layer, for so many pairs of tokens."""
        return scores(self.settings.model, heads=self.text.num_attention_heads, pairs=pairs)

    @property
    def recomputed(self) -> bool:
        """Whether layers are computed again in the backward pass (gradient checkpointing)."""
        return self.settings.training.gradient_checkpointing

    @property
    def patches(self) -> int:
        """Of the pictures that go through the vision tower at once."""
        return self.rows * self.shape.patches

    @property
    def picture(self) -> int:
        """Patches that attend to each other: those of a row, as if they were one picture's."""
        return self.shape.patches

    @property
    def vision_workspace(self) -> int:
        """The vision tower at work."""
        return self.tower.workspace(self.patches, picture=self.picture)

    @property
    def resting(self) -> dict[str, int]:
        """What is there between two steps."""
        return {**self.standing, "gradients": 0}

    @property
    def standing(self) -> dict[str, int]:
        """What is there in every moment of training after the first step."""
        model = self.settings.model
        base = weights.base(self.architecture, model)
        adapters = 0 if model.lora is None else 4 * self.trained
        # The reference: a frozen copy of what is trained.
        copies = 1 if self.refers else 0
        return {
            "weights": base + (copies * base if model.lora is None else 0),
            "adapters": adapters + copies * adapters,
            "gradients": self.gradients if self.accumulation > 1 else 0,
            "optimizer": weights.optimizer(self.architecture, self.settings),
            "batch": self.pixels,
            "libraries": LIBRARIES,
        }

    @staticmethod
    def at(phase: str, held: dict[str, int], **parts: int) -> Peak:
        """A moment: what is `held`, and `parts` beside it."""
        every = {name: held.get(name, 0) + parts.get(name, 0) for name in {**held, **parts}}
        every["margin"] = round(MARGIN * sum(every.values()))
        return Peak(phase=phase, parts={name: size for name, size in every.items() if size})
