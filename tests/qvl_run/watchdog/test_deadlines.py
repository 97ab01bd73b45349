from typing import Any, get_args

import pytest

from qvl_run.contract import Section
from qvl_run.watchdog.deadlines import DEFAULTS, FACTOR, deadline, learn, merge, read


def test_each_section_has_a_floor() -> None:
    assert set(DEFAULTS) == set(get_args(Section))
    assert deadline("of a plugin", seen={}) == max(DEFAULTS.values())


def test_learning_raises_and_never_lowers() -> None:
    assert deadline("step", seen={"step": 1.0}) == DEFAULTS["step"]
    assert deadline("step", seen={"step": 300.0}) == FACTOR * 300.0
    assert deadline("rollout", seen={"step": 300.0}) == DEFAULTS["rollout"]


def test_the_floor_of_the_user_is_taken_and_learning_still_raises_it() -> None:
    floors = {"step": 20.0}
    assert deadline("step", seen={}, floors=floors) == 20.0
    assert deadline("step", seen={"step": 1.0}, floors=floors) == 20.0
    assert deadline("step", seen={"step": 30.0}, floors=floors) == FACTOR * 30.0
    assert deadline("save", seen={}, floors=floors) == DEFAULTS["save"]
    assert deadline("step", seen={}, floors={"step": 9000.0}) == 9000.0


def test_the_longest_is_kept() -> None:
    seen = learn(learn(learn({}, "step", 3.0), "step", 2.0), "save", 1.0)
    assert seen == {"step": 3.0, "save": 1.0}
    assert merge(seen, {"step": 5.0, "load": 4.0}) == {"step": 5.0, "save": 1.0, "load": 4.0}
    assert merge({"step": 5.0}, {"step": 2.0}) == {"step": 5.0}


@pytest.mark.parametrize(
    "data", [None, [], "step", {"step": "long"}, {"step": float("nan")}, {"step": True}]
)
def test_what_is_no_record_is_left_out(data: Any) -> None:
    assert read(data) == {}


def test_a_record_is_read_back() -> None:
    assert read({"step": 3, "save": 1.5, "load": -1, "eval": float("inf")}) == {
        "step": 3.0,
        "save": 1.5,
    }
