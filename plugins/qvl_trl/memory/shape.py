"""How large the rows of a stage are: what its activations grow with."""

from __future__ import annotations

from dataclasses import dataclass

from qvl_run.settings import StageSettings

PATCHES = 4
"""Patches of the vision tower that become one token (merge size 2 x 2)."""


@dataclass(frozen=True, kw_only=True)
class Shape:
    """The longest row. `prompt` and `answer` in tokens, the prompt's `image_tokens` (of all its pictures) included;
    `padded` says whether rows of a batch differ in length, so that attention needs a mask."""

    prompt: int
    answer: int
    image_tokens: int
    padded: bool = True

    @property
    def tokens(self) -> int:
        """Of the whole row."""
        return self.prompt + self.answer

    @property
    def patches(self) -> int:
        """Patches of the row's pictures."""
        return PATCHES * self.image_tokens


def longest(settings: StageSettings) -> Shape | None:
    """The longest row that `settings` admit, with one picture; None where they set no bound to its length.

    An answer may take all that the picture leaves: only its tokens are scored, which takes most memory.
    """
    training = settings.training
    limit = training.max_seq_length
    if limit is None:
        return None
    image = min(settings.model.image_tokens[1] if settings.model.image_tokens else limit, limit)
    if settings.uses == "grpo":
        answer = settings.options["max_completion_length"]
        return Shape(prompt=limit - answer, answer=answer, image_tokens=min(image, limit - answer))
    padded = training.per_device_train_batch_size > 1 or settings.uses == "dpo"
    return Shape(prompt=image, answer=limit - image, image_tokens=image, padded=padded)
