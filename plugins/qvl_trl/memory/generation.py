"""The moments of a stage in which answers are sampled or held-out rows are scored: no gradient is kept."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from qvl_run.contract import Peak
from qvl_trl.memory.footprint import Footprint
from qvl_trl.step import sampled_at_once, step_rows

SCORED = 256
"""Tokens whose logits are there at once where held-out rows are scored (`qvl_trl.evaluation.likelihood`)."""
QUESTION = 512
"""Tokens beside the picture of a question that is only asked, which `max_seq_length` does not bound."""


@dataclass(frozen=True, kw_only=True)
class Generation(Footprint):
    """See `Footprint`."""

    def sampling(self) -> Peak:
        """However few rows are sampled at once, the pictures and the noise of the whole step are there."""
        rows, whole = sampled_at_once(self.settings), step_rows(self.settings)
        shape = self.shape
        sampled = self._generating("sampling", rows, shape.prompt, shape.tokens, there=whole)
        # Afterwards TRL copies the pictures to their batches, while the last step's are there still.
        shared = self.at("sampling", self.resting, batch=2 * self.pixels)
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
        return self.at("held-out rows", self.resting, activations=work, logits=logits)

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
        batch = self.resting["batch"] + pixels * there // rows
        held = {**self.resting, "batch": batch, "dequantized weight": self.dequantized}
        # A layer's keys and values are there twice while one token's are added; of all words several float32, one of
        # them noise.
        words = 4 * (4 * rows + there) * self.text.vocab_size
        writing = 2 * rows * whole * self.layer.cache + words
        moments = (
            {"vision": looking},
            {"cache": cache * prompt, "activations": reading},
            {"cache": cache * whole, "activations": writing},
        )
        return self.at(phase, held, **max(moments, key=lambda parts: sum(parts.values())))
