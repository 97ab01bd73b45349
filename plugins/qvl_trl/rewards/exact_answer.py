r"""`exact_answer`: 1 where the completion's answer is the row's, else 0.

The answer is what stands in `<answer>` tags or in `\boxed{}`, else the whole completion; case,
spacing and a full stop at the end do not count.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from qvl_trl.rewards.text import is_correct


class ExactAnswer:
    """Reads the column "answer"."""

    name = "exact_answer"
    columns = frozenset({"answer"})
    schema: Mapping[str, Any] = {
        "title": "exact_answer",
        "description": "Takes no options.",
        "type": "object",
        "additionalProperties": False,
        "properties": {},
    }

    def score(
        self,
        completions: Sequence[str],
        *,
        columns: Mapping[str, Sequence[Any]],
        options: Mapping[str, Any],  # noqa: ARG002
    ) -> list[float]:
        """1.0 or 0.0 for each completion."""
        pairs = zip(completions, columns["answer"], strict=True)
        return [float(is_correct(completion, str(answer))) for completion, answer in pairs]


reward = ExactAnswer()
