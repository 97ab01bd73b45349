"""How much there is to do in one optimizer step, from the sizes of the model and the settings alone. Pure: no torch.

Counted are matrix products, 2 floating-point operations a weight and token, and attention's own. A weight that is not
trained needs no gradient of its own, only the one that is handed on.
"""

from __future__ import annotations

from dataclasses import dataclass

from qvl_run.contract import Work
from qvl_run.settings import StageSettings
from qvl_trl.memory import weights
from qvl_trl.memory.shape import Shape
from qvl_trl.models.architecture import Architecture
from qvl_trl.step import sampled_at_once, step_rows

PICTURE = 300
"""Tokens of a picture of 640 x 480 pixels, taken for the usual one."""
QUESTION = 64
ANSWER = 100
"""Tokens beside it of the usual row."""


def usual(settings: StageSettings) -> Shape:
    """A row as most are, within what `settings` admit. Sampled answers are taken to be as long as they may be."""
    limit = settings.training.max_seq_length
    image = PICTURE
    if bounds := settings.model.image_tokens:
        image = min(max(image, bounds[0]), bounds[1])
    answer = settings.options["max_completion_length"] if settings.uses == "grpo" else ANSWER
    if limit is not None:
        answer = min(answer, limit - 1)
        image = min(image, limit - answer)
    prompt = image + QUESTION if limit is None else min(image + QUESTION, limit - answer)
    return Shape(prompt=prompt, answer=answer, image_tokens=image)


def work(settings: StageSettings, architecture: Architecture, row: Shape) -> Work:
    """One optimizer step, all of whose rows are `row`."""
    step = _Step(settings=settings, architecture=architecture, row=row)
    return Work(flops=step.flops, passes=step.passes, decoding=step.decoding)


@dataclass(frozen=True, kw_only=True)
class _Step:
    settings: StageSettings
    architecture: Architecture
    row: Shape

    @property
    def flops(self) -> int:
        """Of all rows. What is sampled goes through the model once more, as it is sampled."""
        forward = self.text + self.vision
        ways = self.text * self.text_ways + self.vision * self.vision_ways
        ways += forward * (self.refers + self.samples)
        return step_rows(self.settings) * (2 if self.settings.uses == "dpo" else 1) * ways

    @property
    def passes(self) -> int:
        """Each way through a layer counts as one, whether or not its weights need gradients."""
        layers = self.architecture.text.num_hidden_layers
        depth = self.architecture.vision.depth if self.row.image_tokens else 0
        ways = layers * (2 + self.again)
        ways += depth * (2 + self.again if self.sees else 1)
        ways += (layers + depth) * self.refers
        return ways * self.settings.training.gradient_accumulation_steps

    @property
    def decoding(self) -> int:
        """Answers that are sampled at once are so side by side, and then the next of the step."""
        if not self.samples:
            return 0
        times = -(-step_rows(self.settings) // sampled_at_once(self.settings))
        return times * self.row.answer * self.architecture.text.num_hidden_layers

    @property
    def text(self) -> int:
        """Operations of one row on its way forward through the language model; only an answer's tokens are scored."""
        text, tokens = self.architecture.text, self.row.tokens
        layers = text.num_hidden_layers
        # Each token looks at those before it: half of all pairs.
        attention = 2 * layers * text.num_attention_heads * text.head_dim * tokens**2
        scores = 2 * text.embedding * self.row.answer
        return 2 * layers * text.layer_linear * tokens + attention + scores

    @property
    def vision(self) -> int:
        """The same for the vision tower, where each patch looks at all."""
        vision, patches = self.architecture.vision, self.row.patches
        blocks = vision.depth * (2 * vision.block_linear + 4 * vision.hidden_size * patches)
        embedding = 2 * vision.hidden_size * vision.patch_values
        mergers = 2 * vision.mergers * vision.merger_linear * self.row.image_tokens
        return patches * (blocks + embedding) + mergers

    @property
    def text_ways(self) -> int:
        """Forward, back, once more for the gradients of its weights, once more where activations are not kept."""
        return 2 + self.full + self.again

    @property
    def vision_ways(self) -> int:
        """Only forward where nothing of it is trained."""
        return 2 + self.full + self.again if self.sees else 1

    @property
    def full(self) -> int:
        """1 where all weights are trained."""
        return int(self.settings.model.lora is None)

    @property
    def again(self) -> int:
        """1 where activations are computed again."""
        return int(self.settings.training.gradient_checkpointing)

    @property
    def sees(self) -> bool:
        """Whether the vision tower is trained."""
        return weights.trains_vision(self.architecture.vision, self.settings.model.lora)

    @property
    def refers(self) -> int:
        """1 where there is a reference model."""
        uses = self.settings.uses
        return int(uses == "dpo" or (uses == "grpo" and self.settings.options["beta"] != 0))

    @property
    def samples(self) -> int:
        """1 where answers are sampled."""
        return int(self.settings.uses == "grpo")
