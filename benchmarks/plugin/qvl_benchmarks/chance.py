"""`chance`: a reward that says nothing, for measuring. What a model with random weights writes is worth nothing either,
but completions must differ in reward, or there is no gradient."""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar


class Chance:
    """Between 0 and 1, drawn."""

    name = "chance"
    columns: frozenset[str] = frozenset()
    schema: ClassVar[Mapping[str, Any]] = {
        "title": "chance",
        "description": "A reward drawn at random.",
        "type": "object",
        "additionalProperties": False,
        "properties": {},
    }

    def __init__(self) -> None:
        self._draw = random.Random(0)

    def score(
        self,
        completions: Sequence[str],
        *,
        columns: Mapping[str, Sequence[Any]],  # noqa: ARG002
        options: Mapping[str, Any],  # noqa: ARG002
    ) -> list[float]:
        """One number a completion."""
        return [self._draw.random() for _ in completions]


reward = Chance()
