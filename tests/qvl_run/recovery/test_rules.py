"""From `recovery:` of a job file to the rules that hold, and what is shown of them."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from qvl_run.recovery import rules
from qvl_run.recovery.failure import CLASSES
from qvl_run.recovery.rules import BUILT_IN, Rule
from qvl_run.spec.load import load_job

OWN = st.fixed_dictionaries(
    {
        "on": st.sampled_from([*CLASSES, "any"])
        | st.lists(st.sampled_from([*CLASSES, "any"]), min_size=1)
    },
    optional={"do": st.sampled_from(["retry", "stop"]), "limit": st.integers(1, 9)},
)


def own(**entry: Any) -> Rule:
    return rules.parse({"rules": [entry]}).rules[0]


def built_in(name: str) -> Rule:
    return next(rule for rule in BUILT_IN if rule.name == name)


def test_the_built_in_rules_name_each_class_once() -> None:
    assert sorted(name for rule in BUILT_IN for name in rule.on) == sorted(CLASSES)


@settings(max_examples=100, deadline=None, derandomize=True, database=None)
@given(st.lists(OWN, min_size=1, max_size=4))
def test_the_first_rule_that_names_a_class_holds_and_each_class_is_shown_once(
    entries: list[dict[str, Any]],
) -> None:
    policy = rules.parse({"rules": entries})
    for name in CLASSES:
        number, entry = next(
            (
                (n, e)
                for n, e in enumerate(entries)
                if name == e["on"] or name in e["on"] or "any" in e["on"]
            ),
            (0, {}),
        )
        rule = policy.rule(name)
        if entry:
            assert rule.name == f"rules[{number}]"
            assert rule.retry == (entry.get("do", "retry") == "retry")
        else:
            assert rule in BUILT_IN
    shown = [line.partition(": ") for line in policy.lines()]
    names = [name for classes, colon, _ in shown if colon for name in classes.split(", ")]
    assert sorted(names) == sorted(CLASSES)
    for classes, colon, text in shown:
        for name in classes.split(", ") if colon else ():
            assert text.startswith("try again" if policy.rule(name).retry else "stop")  # type: ignore[arg-type]
    # The ceilings are told where anything is tried again.
    assert (shown[-1][1] == "") == any(policy.rule(name).retry for name in CLASSES)


def test_what_a_rule_for_one_class_leaves_open_is_the_built_in_rules() -> None:
    hang = own(on="hang", limit=7)
    assert (hang.limit, hang.backoff, hang.max_backoff) == (7, 5.0, rules.MAX_BACKOFF)
    assert own(on=["hang"]) == own(on="hang")
    oom = own(on="oom", backoff="10s")
    assert (oom.limit, oom.adapt, oom.backoff) == (12, built_in("oom").adapt, 10.0)
    assert own(on="preempted", backoff="1min").limit is None
    assert own(on="oom", adapt=[]).adapt == ()


def test_what_a_rule_for_several_classes_or_a_stopping_one_leaves_open_is_modest() -> None:
    for on in (["hang", "oom"], "any", "nan"):
        rule = own(on=on)
        assert (rule.retry, rule.limit, rule.backoff, rule.adapt) == (True, 1, 0.0, ())


def test_a_rule_that_stops_keeps_nothing_of_a_restart() -> None:
    assert own(on="oom", do="stop", limit=3) == Rule(name="rules[0]", on=("oom",), retry=False)


def test_the_words_and_the_whole_map() -> None:
    assert rules.parse("default") == rules.DEFAULT
    assert rules.parse("none") == rules.NONE
    policy = rules.parse(
        {
            "max_restarts": 4,
            "max_without_progress": 2,
            "deadlines": {"step": "20min", "save": "90 s"},
        }
    )
    assert (policy.max_restarts, policy.max_without_progress) == (4, 2)
    assert policy.deadlines == {"step": 1200.0, "save": 90.0}
    assert policy.rules == BUILT_IN


def test_none_stops_at_everything() -> None:
    assert not any(rules.NONE.rule(name).retry for name in CLASSES)
    assert list(rules.NONE.lines()) == [f"{', '.join(CLASSES)}: stop"]


def test_the_built_in_rules_read_well() -> None:
    assert list(rules.DEFAULT.lines()) == [
        "preempted: try again",
        "oom: try again up to 12 times; using less memory (eval_batch, then micro_batch, then gradient_checkpointing)",
        "ram: try again up to 2 times; wait about 5 s first, then twice as long each time; using less memory (workers)",
        "hang: try again up to 2 times; wait about 5 s first, then twice as long each time",
        "download: try again up to 3 times; wait about 20 s first, then twice as long each time",
        "drive_lost: try again up to 3 times; wait about 30 s first, then twice as long each time",
        "exit: try again up to 2 times; wait about 1 s first, then twice as long each time",
        "error: try again once; wait about 1 s",
        "nan, disk, config, data: stop",
        "at most 20 restarts of a stage in all, 3 in a row without progress",
    ]


@pytest.mark.parametrize(
    ("entry", "text"),
    [
        ({"limit": 1, "backoff": "20s"}, "try again once; wait about 20 s"),
        ({"limit": 9, "backoff": "10min"}, "try again up to 9 times; wait about 5 min 0 s each time"),
        (
            {"limit": 3, "backoff": "20s", "max_backoff": "1min"},
            "try again up to 3 times; wait about 20 s first, then twice as long each time, at most 1 min 0 s",
        ),
        (
            {"limit": 3, "backoff": "20s", "max_backoff": "80s"},
            "try again up to 3 times; wait about 20 s first, then twice as long each time",
        ),
        ({"do": "stop"}, "stop"),
    ],
)  # fmt: skip
def test_a_wait_is_told_as_it_will_be(entry: dict[str, Any], text: str) -> None:
    assert str(own(on="hang", **entry)) == f"hang: {text}"


def test_a_wait_without_a_limit_names_its_ceiling() -> None:
    rule = own(on="preempted", backoff="1min")
    assert str(rule) == (
        "preempted: try again; wait about 1 min 0 s first, then twice as long each time, at most 5 min 0 s"
    )


def test_it_is_read_from_a_job_file(job_file: Callable[..., Path]) -> None:
    job = load_job(
        job_file("""
        version: 1
        name: demo
        model: {name: qvl-tiny}
        stages:
          count: {uses: count, with: {to: 2}}
        recovery:
          max_restarts: 1e1
          rules:
            - {on: [exit, error], limit: 5e0}
            - {on: any, do: stop}
        """)
    )
    assert job.recovery.max_restarts == 10
    assert isinstance(job.recovery.rule("exit").limit, int)
    assert [job.recovery.rule(name).retry for name in ("exit", "error", "hang")] == [
        True,
        True,
        False,
    ]
