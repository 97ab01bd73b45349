"""`brevity`: 0 up to a number of words, then falling to -1 at twice that number."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any


class Brevity:
    """Reads no column."""

    name = "brevity"
    columns: frozenset[str] = frozenset()
    schema: Mapping[str, Any] = {
        "title": "brevity",
        "description": "How long an answer may be.",
        "type": "object",
        "additionalProperties": False,
        "properties": {
            "max_words": {
                "title": "Words",
                "description": "Words that cost nothing; each further one costs 1 / max_words, at most 1 in all.",
                "type": "integer",
                "minimum": 1,
                "default": 50,
            }
        },
    }

    def score(
        self,
        completions: Sequence[str],
        *,
        columns: Mapping[str, Sequence[Any]],  # noqa: ARG002
        options: Mapping[str, Any],
    ) -> list[float]:
        """Between -1.0 and 0.0 for each completion."""
        limit: int = options["max_words"]
        return [-min(max(len(text.split()) / limit - 1, 0.0), 1.0) for text in completions]


reward = Brevity()
