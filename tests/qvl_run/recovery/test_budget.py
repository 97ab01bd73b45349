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
RECOVERIES = st.just("default") | st.fixed_dictionaries(
    {},
    optional={
        "rules": st.lists(OWN_RULES, min_size=1, max_size=3),
        "max_restarts": st.integers(0, 12),
        "max_without_progress": st.integers(0, 12),
    },
)
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
        since: list[tuple[str, int, bool]] = []  # restarts since the last progress, counted anew here
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
            if since and saved > max(at for _, at, _ in since):
                since = []
                seen["progress"] += 1
            rule = policy.rule(kind)
            mine = sum(name == rule.name for name, _, _ in since)
            streak = sum(not changed for _, _, changed in since)
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
                since = in_memory_since(since, saved, decision)
                continue
            assert 0 <= decision.wait <= 1.5 * rule.max_backoff
            since.append((rule.name, step, adapts))
            in_memory = decision.account
            records.append(record(in_memory, len(records)))
            assert in_memory.total == len(records) <= policy.max_restarts

    def in_memory_since(
        since: list[tuple[str, int, bool]], saved: int, decision: Decision
    ) -> list[tuple[str, int, bool]]:
        # What ends in a stop writes nothing, so the next start finds what was there before it.
        del saved, decision
        return since

    check()
    assert min(seen[name] for name in ("rule", "ceiling", "limit", "streak", "progress")) > 20, seen
