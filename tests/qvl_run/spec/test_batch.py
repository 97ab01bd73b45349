"""The global batch, as a job says it in one, two or three keys."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from qvl_run.spec.batch import MICRO, STEPS, WHOLE, Contradiction, split

BOTH = frozenset({MICRO, STEPS})
NUMBER = st.integers(1, 64)
OPEN = st.one_of(st.none(), st.just("auto"))


@pytest.mark.parametrize(
    ("written", "micro", "steps", "auto"),
    [
        ({}, 1, 8, frozenset()),
        ({MICRO: 2}, 2, 8, frozenset()),
        ({WHOLE: None, STEPS: 4}, 1, 4, frozenset()),
        ({MICRO: "auto"}, 1, 8, BOTH),
        ({MICRO: "auto", STEPS: 32}, 1, 32, BOTH),
        ({MICRO: "auto", STEPS: "auto"}, 1, 8, BOTH),
        ({STEPS: "auto"}, 1, 8, {STEPS}),
        ({MICRO: 3, STEPS: "auto"}, 3, 8, {STEPS}),
        ({WHOLE: 16}, 1, 16, BOTH),
        ({WHOLE: 16, MICRO: "auto"}, 1, 16, BOTH),
        ({WHOLE: 16, MICRO: 4}, 4, 4, {STEPS}),
        ({WHOLE: 16, MICRO: "auto", STEPS: 2}, 8, 2, {MICRO}),
        ({WHOLE: 16, MICRO: 2, STEPS: 8}, 2, 8, frozenset()),
        ({WHOLE: 16.0, MICRO: 2.0}, 2, 8, {STEPS}),
    ],
)
def test_what_is_open_follows(
    written: dict[str, Any], micro: int, steps: int, auto: frozenset[str]
) -> None:
    found = split(written)
    assert (found.micro, found.steps, found.auto) == (micro, steps, auto)
    assert type(found.micro) is type(found.steps) is int


@pytest.mark.parametrize(
    ("written", "key"),
    [
        ({WHOLE: 8, MICRO: 2, STEPS: 8}, WHOLE),
        ({WHOLE: 8, MICRO: 3}, MICRO),
        ({WHOLE: 8, STEPS: 16, MICRO: "auto"}, STEPS),
    ],
)
def test_a_contradiction_names_a_key_that_is_written(written: dict[str, Any], key: str) -> None:
    with pytest.raises(Contradiction) as error:
        split(written)
    assert error.value.key == key
    assert error.value.hint


@given(st.one_of(OPEN, NUMBER), st.one_of(OPEN, NUMBER), st.one_of(st.none(), NUMBER))
def test_the_parts_always_multiply_to_what_is_asked_for(
    micro: Any, steps: Any, whole: int | None
) -> None:
    given_keys = {MICRO: micro, STEPS: steps, WHOLE: whole}
    written = {key: value for key, value in given_keys.items() if value is not None}
    try:
        found = split(written)
    except Contradiction:
        assert whole is not None
        numbers = [n for n in (micro, steps) if isinstance(n, int)]
        assert numbers[0] * (numbers[1] if numbers[1:] else 1) != whole
        assert numbers[1:] or whole % numbers[0]
        return
    for key, value in ((MICRO, found.micro), (STEPS, found.steps)):
        if isinstance(written.get(key), int) and key not in found.auto:
            assert written[key] == value
    if whole is not None:
        assert found.micro * found.steps == whole
