from __future__ import annotations

import pytest

from qvl_trl.rewards.answer_tags import reward as answer_tags
from qvl_trl.rewards.brevity import reward as brevity
from qvl_trl.rewards.exact_answer import reward as exact_answer


@pytest.mark.parametrize(
    ("completion", "answer", "score"),
    [
        ("left", "left", 1.0),
        (" Left. ", "left", 1.0),
        ("top   left", "Top left.", 1.0),
        ("left of it", "left", 0.0),
        ("", "left", 0.0),
        ("It is <answer>left</answer>, surely.", "left", 1.0),
        ("<answer>right</answer> no: <answer>left</answer>", "left", 1.0),
        ("So \\boxed{3}.", "3", 1.0),
        ("<answer>right</answer> left", "left", 0.0),
    ],
)
def test_exact_answer(completion: str, answer: str, score: float) -> None:
    assert exact_answer.score([completion], columns={"answer": [answer]}, options={}) == [score]


def test_brevity() -> None:
    texts = ["", "one two", "one two three", "one two three four", "one two three four five"]
    scores = brevity.score(texts, columns={}, options={"max_words": 2})
    assert scores == [0.0, 0.0, -0.5, -1.0, -1.0]


def test_answer_tags() -> None:
    texts = [
        "<answer>a</answer>",
        "a",
        "<answer> </answer>",
        "<answer>a</answer><answer>b</answer>",
    ]
    assert answer_tags.score(texts, columns={}, options={}) == [1.0, 0.0, 0.0, 0.0]
