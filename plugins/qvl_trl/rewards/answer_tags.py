"""`answer_tags`: 1 where the completion holds exactly one `<answer>...</answer>` with text in it, else 0."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from qvl_trl.rewards.text import TAG


class AnswerTags:
    """Reads no column."""

    name = "answer_tags"
    columns: frozenset[str] = frozenset()
    schema: Mapping[str, Any] = {
        "title": "answer_tags",
        "description": "Takes no options.",
        "type": "object",
        "additionalProperties": False,
        "properties": {},
    }

    def score(
        self,
        completions: Sequence[str],
        *,
        columns: Mapping[str, Sequence[Any]],  # noqa: ARG002
        options: Mapping[str, Any],  # noqa: ARG002
    ) -> list[float]:
        """1.0 or 0.0 for each completion."""
        found = (TAG.findall(text) for text in completions)
        return [float(len(tags) == 1 and bool(tags[0].strip())) for tags in found]


reward = AnswerTags()
