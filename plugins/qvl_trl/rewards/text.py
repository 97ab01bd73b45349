"""How an answer is read off a completion, and when two answers are the same: rewards and evaluation agree on it."""

from __future__ import annotations

import re

TAG = re.compile(r"<answer>(.*?)</answer>", re.DOTALL | re.IGNORECASE)
BOXED = re.compile(r"\\boxed\{([^{}]*)\}")


def given_answer(completion: str) -> str:
    r"""What stands in the last `<answer>` tag, else in the last `\boxed{}`, else the whole completion."""
    for pattern in (TAG, BOXED):
        if found := pattern.findall(completion):
            return str(found[-1])
    return completion


def normalised(text: str) -> str:
    """`text` in lower case, runs of space as one, without a full stop at the end or brackets around: the option
    "(A)." is "a"."""
    plain = " ".join(text.split()).casefold().removesuffix(".").rstrip()
    return plain[1:-1].strip() if plain.startswith("(") and plain.endswith(")") else plain


def is_correct(completion: str, answer: str) -> bool:
    """Whether the answer given in `completion` is `answer`, both normalised."""
    return normalised(given_answer(completion)) == normalised(answer)
