"""How large the rows of a stage are: what its activations grow with."""

from __future__ import annotations

from dataclasses import dataclass

from qvl_run.settings import StageSettings

PATCHES = 4
"""Patches of the vision tower that become one token (merge size 2 x 2)."""


@dataclass(frozen=True, kw_only=True)
class Shape:
    """The longest row. `prompt` and `answer` in tokens; `image_tokens` are those of all its pictures; `padded` says
    whether rows of a batch differ in length, so that attention needs a mask."""

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
    """A bound on the rows that `settings` admit, with one picture each; None where they set none to the length.

    It takes the largest picture and, for the answer, the room that the smallest leaves: no row is both, and none takes
    more than the two together.
    """
    training = settings.training
    limit = training.max_seq_length
    if limit is None:
        return None
    least, most = settings.model.image_tokens or (0, limit)
    least, most = min(least, limit), min(most, limit)
    if settings.uses == "grpo":
        answer = settings.options["max_completion_length"]
        prompt = limit - answer
        return Shape(prompt=prompt, answer=answer, image_tokens=min(most, prompt))
    padded = training.per_device_train_batch_size > 1 or settings.uses == "dpo"
    return Shape(prompt=least, answer=limit - least, image_tokens=most, padded=padded)
