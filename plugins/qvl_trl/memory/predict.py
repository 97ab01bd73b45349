"""The peak of a stage: the moment at which most is alive."""

from __future__ import annotations

from collections.abc import Iterator
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
from qvl_trl.step import sampled_at_once, step_rows

TILE = 32768
"""Words of the vocabulary that TRL's fused output layer scores at once, for `TILE_TOKENS` tokens at most
(trl/kernels/chunked_logprob.py)."""
TILE_TOKENS = 4096
MARGIN = 0.02
"""Share of everything that is added: what no term stands for. Measured by `benchmarks/memory.py`."""
LIBRARIES = 64 * 2**20
"""Workspaces of cuBLAS, which lie in PyTorch's allocator: 32 MiB a thread that multiplies on a GPU of capability 9.0,
8 below (aten/src/ATen/cuda/CublasHandlePool.cpp)."""
SCORED = 256
"""Tokens whose logits are there at once where held-out rows are scored (`qvl_trl.evaluation.likelihood`)."""
QUESTION = 512
"""Tokens beside the picture of a question that is only asked, which `max_seq_length` does not bound."""


def evaluation_peak(
    settings: StageSettings, architecture: Architecture, shape: Shape
) -> Peak | None:
    """Of what is measured before and after training; None where nothing is."""
    stage = _Stage(settings=settings, architecture=architecture, shape=shape)
    return max(stage.measuring(), key=lambda one: one.total, default=None)


def without_rows(settings: StageSettings, architecture: Architecture) -> int:
    """Bytes that no row changes, in the optimizer's step: a bound from below, with nothing added for safety."""
    nothing = Shape(prompt=0, answer=0, image_tokens=0, padded=False)
    peak = _Stage(settings=settings, architecture=architecture, shape=nothing).update()
    return peak.total - peak.parts["margin"]


def training_peak(settings: StageSettings, architecture: Architecture, shape: Shape) -> Peak:
    """Of the training loop, with rows of `shape`."""
    return max(phases(settings, architecture, shape), key=lambda one: one.total)


def phases(settings: StageSettings, architecture: Architecture, shape: Shape) -> Iterator[Peak]:
    """The moments of the training loop that may be its peak."""
    stage = _Stage(settings=settings, architecture=architecture, shape=shape)
    yield stage.seeing()
    yield stage.loss()
    yield stage.backward()
    yield stage.update()
    if stage.tower.trained:
        yield stage.vision_backward()
    if settings.uses == "dpo":
        yield stage.reference()
    if settings.uses == "grpo":
        yield stage.sampling()


@dataclass(frozen=True, kw_only=True)
class _Stage:
    settings: StageSettings
    architecture: Architecture
    shape: Shape

    @property
    def text(self) -> Text:
        return self.architecture.text

    @property
    def vision(self) -> Vision:
        return self.architecture.vision

    @property
    def numbers(self) -> Numbers:
        return weights.numbers(self.settings.model)

    @property
    def layer(self) -> Layer:
        expanded = expands(self.settings.model, padded=self.shape.padded)
        return Layer(text=self.text, model=self.settings.model, expanded=expanded)

    @property
    def tower(self) -> Tower:
        return Tower(vision=self.vision, model=self.settings.model)

    @property
    def rows(self) -> int:
        """That go through the model at once. A pair is two."""
        pairs = 2 if self.settings.uses == "dpo" else 1
        return pairs * self.settings.training.per_device_train_batch_size

    @property
    def accumulation(self) -> int:
        return self.settings.training.gradient_accumulation_steps

    @property
    def tokens(self) -> int:
        return self.rows * self.shape.tokens

    @property
    def trained(self) -> int:
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

    def seeing(self) -> Peak:
        return self._at(
            "vision tower", self._standing, vision=self.vision_workspace, autocast=self.autocast
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
        return self._at(
            "loss",
            self._standing,
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
        return self._at("backward", self._standing, **parts)

    def vision_backward(self) -> Peak:
        """The language model's part is done: its gradients are there, its activations are not."""
        tower, patches = self.tower, self.patches
        kept = tower.saved(patches, picture=self.picture, recomputed=self.recomputed)
        if self.recomputed:
            kept += tower.block(patches, picture=self.picture)
        parts = {"vision": kept + self.vision_workspace, "gradients": self.gradients}
        return self._at("vision backward", {**self._standing, "gradients": 0}, **parts)

    def update(self) -> Peak:
        eight_bit = self.settings.training.optim == "adamw_8bit"
        work = 0 if eight_bit else 4 * self.trained
        if self.settings.model.lora is None:
            # Of the embedding two gradients: as the input and as the output layer.
            work = max(work, 4 * self.text.embedding)
        held = {**self._standing, "gradients": self.gradients}
        return self._at("optimizer step", held, **{"optimizer's work": work})

    def reference(self) -> Peak:
        passing = self.passing(self.rows, self.shape.tokens)
        work = max(passing + self.pictures, self.vision_workspace)
        parts = {"activations": self.kept, "reference": work, "autocast": self.autocast}
        return self._at("reference", self._standing, **parts)

    def sampling(self) -> Peak:
        """However few rows are sampled at once, the pictures and the noise of the whole step are there."""
        rows, whole = sampled_at_once(self.settings), step_rows(self.settings)
        shape = self.shape
        sampled = self._generating("sampling", rows, shape.prompt, shape.tokens, there=whole)
        # Afterwards TRL copies the pictures to their batches, while the last step's are there still.
        shared = self._at("sampling", self._resting, batch=2 * self.pixels)
        return max(sampled, shared, key=lambda one: one.total)

    def measuring(self) -> Iterator[Peak]:
        """What is measured before and after training."""
        evaluation = self.settings.evaluation
        if evaluation is not None:
            prompt = min(self.shape.tokens, self.shape.image_tokens + QUESTION)
            whole = prompt + evaluation.max_new_tokens
            yield self._generating("evaluation", evaluation.batch_size, prompt, whole)
        if self.settings.eval_data is not None and self.settings.uses != "grpo":
            yield self.scoring()

    def scoring(self) -> Peak:
        """Held-out rows: of some scored tokens all words' logits, as they come and twice in float32."""
        scored = self.rows * self.shape.answer
        logits = min(scored, SCORED) * self.text.vocab_size * (self.numbers.compute + 8)
        passing = self.passing(self.rows, self.shape.tokens)
        work = passing + self.pictures + 2 * self.tokens * self.hidden
        return self._at("held-out rows", self._resting, activations=work, logits=logits)

    def _generating(
        self, phase: str, rows: int, prompt: int, whole: int, *, there: int | None = None
    ) -> Peak:
        """`rows` answers at once, of `there`, to prompts of `prompt` tokens, until they are `whole` tokens long."""
        there, share = there or rows, rows / self.rows
        pixels = round(share * self.pixels / self.accumulation)
        patches = rows * self.shape.patches
        looking = self.tower.workspace(patches, picture=self.picture)
        looking += pixels // 4 * self.numbers.weight
        cache = rows * self.layer.cache * self.text.num_hidden_layers
        seen = rows * self.shape.image_tokens * self.text.hidden_size * self.numbers.compute
        reading = self.passing(rows, prompt) + rows * prompt * 4 * self.hidden
        reading += seen * self.vision.mergers
        # The pictures of these rows, beside those that are there anyway.
        batch = self._resting["batch"] + pixels * there // rows
        held = {**self._resting, "batch": batch, "dequantized weight": self.dequantized}
        # A layer's keys and values are there twice while one token's are added; of all words several float32, one of
        # them noise.
        words = 4 * (4 * rows + there) * self.text.vocab_size
        writing = 2 * rows * whole * self.layer.cache + words
        moments = (
            {"vision": looking},
            {"cache": cache * prompt, "activations": reading},
            {"cache": cache * whole, "activations": writing},
        )
        return self._at(phase, held, **max(moments, key=lambda parts: sum(parts.values())))

    @property
    def _resting(self) -> dict[str, int]:
        """What is there between two steps."""
        return {**self._standing, "gradients": 0}

    @property
    def _standing(self) -> dict[str, int]:
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
    def _at(phase: str, held: dict[str, int], **parts: int) -> Peak:
        every = {name: held.get(name, 0) + parts.get(name, 0) for name in {**held, **parts}}
        every["margin"] = round(MARGIN * sum(every.values()))
        return Peak(phase=phase, parts={name: size for name, size in every.items() if size})
