"""What recovery has spent on a stage, and whether one more restart may be spent.

Every restart leaves a record that holds the whole account after it, so replaying a record, in whatever order and
however often, spends nothing twice, and an account survives the process and the machine. Only a checkpoint past the
step of the failure gives the rules' limits back; the ceiling on all restarts nothing gives back.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field, replace
from typing import Any

from qvl_run.recovery.failure import Failure
from qvl_run.recovery.rules import Policy, Rule

RESTART = "restart"
"""The event that spends."""


@dataclass(frozen=True, kw_only=True)
class Account:
    """`total` restarts of a stage with these settings; `by_rule` and `streak` (those that came no further) since the
    last progress; `failed_at`, the highest step that a failure since then had reached."""

    total: int = 0
    by_rule: Mapping[str, int] = field(default_factory=dict)
    streak: int = 0
    failed_at: int = 0


@dataclass(frozen=True, kw_only=True)
class Decision:
    """Whether to try again, and why (not). `wait` in seconds; `account` is what is spent then. `ceiling`: one of
    those that stand above the rules is reached."""

    retry: bool
    reason: str
    rule: Rule
    wait: float = 0.0
    account: Account = Account()
    ceiling: bool = False


def spent(records: Iterable[Mapping[str, Any]], *, stage: str, key: str) -> Account:
    """The account of `stage` with the settings of `key`, from any records of the run, in any order and number."""
    mine = [
        record
        for record in records
        if record.get("event") == RESTART
        and (record.get("stage"), record.get("key")) == (stage, key)
    ]
    if not mine:
        return Account()
    newest = Account(**max((record["account"] for record in mine), key=_order))
    # Two machines that did not know of each other have each counted their own only.
    known = {record["id"] for record in mine if "id" in record}
    return replace(newest, total=max(newest.total, len(known)))


def _order(account: Mapping[str, Any]) -> tuple[int, int, str]:
    """The newest account last; of two that are equally old the one that has spent more, then either, but always it."""
    text = json.dumps(account, sort_keys=True)
    return int(account["total"]), int(account["streak"]) + sum(account["by_rule"].values()), text


def to_json(account: Account) -> dict[str, Any]:
    """`account` for its record."""
    return {**asdict(account), "by_rule": dict(account.by_rule)}


def decide(
    failure: Failure,
    *,
    policy: Policy,
    account: Account,
    saved: int,
    adapts: bool = False,
    exhausted: bool = False,
    jitter: float = 0.5,
) -> Decision:
    """Whether to try again after `failure`. `saved` is the step of the newest whole checkpoint. `adapts`: something
    would be changed before the next attempt; `exhausted`: the rule asks for that and nothing is left to change.
    `jitter` from 0 to 1 is chance."""
    rule = policy.rule(failure.failure)
    if not rule.retry:
        reason = f"trying again would not help ({failure.failure})"
        if rule.name == "none":
            reason = "recovery: none"
        elif rule.name.startswith("rules["):
            reason = f"recovery.{rule.name} says stop"
        return Decision(retry=False, reason=reason, rule=rule)
    if saved > account.failed_at and account.total:
        account = Account(total=account.total)
    used = account.by_rule.get(rule.name, 0)
    if account.total >= policy.max_restarts:
        reason = f"{_times(account.total)} in all, and recovery.max_restarts allows no more"
        return Decision(retry=False, reason=reason, rule=rule, ceiling=True)
    if exhausted:
        reason = "nothing is left that could be made smaller"
        return Decision(retry=False, reason=reason, rule=rule)
    if rule.limit is not None and used >= rule.limit:
        reason = f"{_times(used)} after this kind of failure did not help"
        return Decision(retry=False, reason=reason, rule=rule)
    # With something changed it is another try, not the same once more.
    streak = account.streak if adapts else account.streak + 1
    if streak > policy.max_without_progress:
        reason = (
            f"{_times(account.streak)} in a row came no further than step {account.failed_at}"
            if account.streak
            else "recovery.max_without_progress allows no restart that changes nothing"
        )
        return Decision(retry=False, reason=reason, rule=rule, ceiling=True)
    after = Account(
        total=account.total + 1,
        by_rule={**account.by_rule, rule.name: used + 1},
        streak=streak,
        failed_at=max(account.failed_at, failure.step),
    )
    wait = min(rule.max_backoff, rule.backoff * 2.0 ** min(used, 30)) * (0.5 + jitter)
    of = "" if rule.limit is None else f" of {rule.limit}"
    reason = f"restart {used + 1}{of} after this kind of failure, {after.total} in all"
    return Decision(retry=True, reason=reason, rule=rule, wait=wait, account=after)


def _times(count: int) -> str:
    return {0: "no restart", 1: "one restart"}.get(count, f"{count} restarts")
