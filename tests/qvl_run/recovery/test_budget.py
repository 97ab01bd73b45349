"""Whatever fails, in whatever order, under whatever rules: restarts are bounded, and what is spent stays spent."""

import random
from collections import Counter
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from qvl_run.recovery import rules
from qvl_run.recovery.budget import RESTART, Account, Decision, decide, spent, to_json
from qvl_run.recovery.failure import CLASSES, Failure, FailureClass
from qvl_run.run.events import merged

STAGE, KEY = "sft", "key"
Record = dict[str, Any]

OWN_RULES = st.fixed_dictionaries(
    {"on": st.sampled_from([*CLASSES, "any"]) | st.lists(st.sampled_from(CLASSES), min_size=1)},
    optional={
        "do": st.sampled_from(["retry", "retry", "stop"]),
        "limit": st.integers(1, 50),
        "backoff": st.sampled_from(["0s", "10s"]),
        "adapt": st.just(["micro_batch"]),
    },
)
CHANGED = st.fixed_dictionaries(
    {},
    optional={
        "rules": st.lists(OWN_RULES, min_size=1, max_size=3),
        "max_restarts": st.integers(0, 6),
        "max_without_progress": st.integers(0, 12),
    },
)
RECOVERIES = st.just("default") | CHANGED | CHANGED
FAILURES = st.tuples(
    st.sampled_from(CLASSES),
    st.integers(0, 12),  # the step of the failure
    st.integers(0, 12),  # the step of the newest checkpoint then
    st.booleans(),  # whether something would be changed before the next attempt
    st.sampled_from([False] * 9 + [True]),  # whether nothing is left to change
)


def failure(kind: FailureClass = "hang", *, step: int = 5) -> Failure:
    return Failure(failure=kind, message="m", step=step)


def record(account: Account, number: int, *, token: str = "a") -> Record:
    return {
        "id": f"{token}-{number}",
        "time": f"2026-01-01T00:00:{number:02d}.000Z",
        "event": RESTART,
        "stage": STAGE,
        "key": KEY,
        "account": to_json(account),
    }


def known(records: list[Record], dice: random.Random) -> list[Record]:
    """`records` as another process may come to know them: from two places, each whole between them, and again."""
    here = [r for r in records if dice.random() < 0.5]
    there = [r for r in records if r not in here or dice.random() < 0.5]
    story = merged(here, there)
    story += dice.sample(story, dice.randint(0, len(story)))
    # What this process wrote itself it knows without an id.
    story += [{k: v for k, v in r.items() if k not in ("id", "time")} for r in story[:2]]
    dice.shuffle(story)
    return story


def test_restarts_are_bounded_and_are_decided_alike_by_whoever_reads_the_records() -> None:
    seen: Counter[str] = Counter()

    @settings(max_examples=300, deadline=None, derandomize=True, database=None)
    @given(RECOVERIES, st.lists(FAILURES, max_size=40), st.integers(0, 2**32))
    def check(recovery: Any, failures: list[Any], seed: int) -> None:
        dice, policy = random.Random(seed), rules.parse(recovery)
        records: list[Record] = []
        in_memory = Account()
        since: list[
            tuple[str, int, bool]
        ] = []  # restarts since the last progress, counted anew here
        for kind, step, saved, adapts, exhausted in failures:
            account = spent(known(records, dice), stage=STAGE, key=KEY)
            assert account == in_memory
            decision = decide(
                failure(kind, step=step),
                policy=policy,
                account=account,
                saved=saved,
                adapts=adapts,
                exhausted=exhausted,
                jitter=dice.random(),
            )
            progress = bool(since) and saved > max(at for _, at, _ in since)
            counted = [] if progress else since
            rule = policy.rule(kind)
            mine = sum(name == rule.name for name, _, _ in counted)
            streak = sum(not changed for _, _, changed in counted)
            allowed = {
                "rule": rule.retry,
                "ceiling": len(records) < policy.max_restarts,
                "exhausted": not exhausted,
                "limit": rule.limit is None or mine < rule.limit,
                "streak": adapts or streak < policy.max_without_progress,
            }
            assert decision.retry == all(allowed.values())
            assert decision.reason
            if not decision.retry:
                seen[next(name for name, fine in allowed.items() if not fine)] += 1
                continue
            seen["progress"] += progress
            assert 0 <= decision.wait <= 1.5 * rule.max_backoff
            since = [*counted, (rule.name, step, adapts)]
            in_memory = decision.account
            records.append(record(in_memory, len(records)))
            assert in_memory.total == len(records) <= policy.max_restarts

    check()
    assert min(seen[name] for name in ("rule", "ceiling", "limit", "streak", "progress")) > 5, seen


def spend(count: int, *, at: int = 5, saved: int = 0, kind: FailureClass = "hang") -> Account:
    """What `count` failures of one kind at one step leave."""
    account = Account()
    for _ in range(count):
        decision = ask(account, kind=kind, at=at, saved=saved)
        assert decision.retry
        account = decision.account
    return account


def ask(
    account: Account, *, kind: FailureClass = "hang", at: int = 5, saved: int = 0, **more: Any
) -> Decision:
    return decide(
        failure(kind, step=at), policy=rules.DEFAULT, account=account, saved=saved, **more
    )


def test_a_checkpoint_past_the_failed_step_gives_the_limits_back_but_not_the_ceiling() -> None:
    account = spend(2)
    decision = ask(account, at=9, saved=6)
    assert decision.retry
    assert decision.account == Account(total=3, by_rule={"hang": 1}, streak=1, failed_at=9)


@pytest.mark.parametrize("saved", [0, 4, 5])
def test_a_checkpoint_up_to_the_failed_step_gives_nothing_back(saved: int) -> None:
    decision = ask(spend(2), saved=saved)
    assert not decision.retry
    assert decision.reason == "2 restarts after this kind of failure did not help"


def test_an_earlier_failure_that_had_come_further_is_the_one_to_get_past() -> None:
    account = ask(spend(1, at=9), at=3).account
    assert account.failed_at == 9
    assert not ask(account, at=3, saved=4).retry
    assert ask(account, at=11, saved=10).retry


def test_another_class_has_its_own_limit_and_gives_nothing_back_to_the_first() -> None:
    account = ask(spend(2), kind="exit").account
    assert account.by_rule == {"hang": 2, "exit": 1}
    assert not ask(account).retry


def test_restarts_of_different_kinds_that_come_no_further_are_bounded_together() -> None:
    account = Account()
    for kind in ("exit", "hang", "error"):
        account = ask(account, kind=kind).account
    decision = ask(account, kind="download")
    assert not decision.retry
    assert decision.reason == "3 restarts in a row came no further than step 5"
    # What changes something is another try.
    assert ask(account, kind="oom", adapts=True).retry


def test_nothing_is_given_back_of_the_ceiling() -> None:
    account = Account(total=rules.MAX_RESTARTS, by_rule={}, streak=0, failed_at=5)
    decision = ask(account, at=90, saved=80, kind="preempted")
    assert not decision.retry
    assert decision.reason == "20 restarts in all, and recovery.max_restarts allows no more"


@pytest.mark.parametrize("key", ["max_restarts", "max_without_progress"])
def test_a_ceiling_of_none_stops_at_the_first_failure_and_says_so(key: str) -> None:
    policy = rules.parse({key: 0})
    decision = decide(failure(), policy=policy, account=Account(), saved=0)
    assert not decision.retry
    assert f"recovery.{key} allows no" in decision.reason


def test_the_wait_doubles_up_to_the_longest_and_chance_moves_it_by_a_half() -> None:
    policy = rules.parse(
        {"rules": [{"on": "hang", "limit": 9, "backoff": "10s", "max_backoff": "30s"}]}
    )
    waits = []
    for used in range(4):
        account = Account(total=used, by_rule={"rules[0]": used})
        for jitter in (0.0, 0.5, 1.0):
            decision = decide(failure(), policy=policy, account=account, saved=0, jitter=jitter)
            waits.append(decision.wait)
    assert waits == [5, 10, 15, 10, 20, 30, 15, 30, 45, 15, 30, 45]


def test_a_stop_says_which_rule_it_was() -> None:
    def reason(recovery: Any) -> str:
        policy = rules.parse(recovery)
        return decide(failure("nan"), policy=policy, account=Account(), saved=0).reason

    assert reason("default") == "trying again would not help (nan)"
    assert reason("none") == "recovery: none"
    assert reason({"rules": [{"on": "nan", "do": "stop"}]}) == "recovery.rules[0] says stop"


def test_records_of_other_stages_settings_and_events_spend_nothing() -> None:
    mine = record(Account(total=1, by_rule={"hang": 1}, streak=1, failed_at=5), 1)
    others = [mine | {"stage": "dpo"}, mine | {"key": "other"}, mine | {"event": "adapted"}]
    assert spent([], stage=STAGE, key=KEY) == spent(others, stage=STAGE, key=KEY) == Account()
    assert spent([*others, mine], stage=STAGE, key=KEY).total == 1


def test_two_machines_that_did_not_know_of_each_other_have_spent_together() -> None:
    shared = record(Account(total=1, by_rule={"hang": 1}, streak=1, failed_at=5), 1)
    one = [record(Account(total=n, by_rule={"hang": 2}, streak=n), n, token="b") for n in (2, 3)]
    two = [record(Account(total=n, by_rule={"exit": 2}, streak=n), n, token="c") for n in (2, 3)]
    accounts = []
    for seed in range(20):
        story = [shared, *one, *two, *one]
        random.Random(seed).shuffle(story)
        accounts.append(spent(story, stage=STAGE, key=KEY))
    assert accounts[0].total == 5
    assert accounts == accounts[:1] * 20
