"""The rules of recovery: which failure is tried again, how often, after how long, and with what changed.

The first rule that names the class of a failure holds; a job's own rules come before the built-in ones. Two ceilings
stand above all rules.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Literal

from qvl_run import units
from qvl_run.recovery.failure import CLASSES, FailureClass
from qvl_run.units import show_duration

Rung = Literal[
    "eval_batch",
    "micro_batch",
    "gradient_checkpointing",
    "image_tokens",
    "max_seq_length",
    "lora_rank",
    "workers",
]
NEUTRAL: frozenset[Rung] = frozenset(
    {"eval_batch", "micro_batch", "gradient_checkpointing", "workers"}
)
"""Rungs that leave the result as it is, up to rounding."""

MAX_RESTARTS = 20
MAX_WITHOUT_PROGRESS = 3
MAX_BACKOFF = 300.0


@dataclass(frozen=True, kw_only=True)
class Rule:
    """What to do on failures of the classes `on`. `limit` counts restarts since the last progress, None: only the
    ceilings bound them. The n-th of them waits `backoff` * 2**(n-1) seconds, at most `max_backoff`, give or take a
    half. `adapt` are the changes to make, in their order, one a restart. `name` tells rules apart in the ledger."""

    name: str
    on: tuple[FailureClass, ...]
    retry: bool
    limit: int | None = None
    backoff: float = 0.0
    max_backoff: float = MAX_BACKOFF
    adapt: tuple[Rung, ...] = ()

    def __str__(self) -> str:
        if not self.retry:
            return f"{', '.join(self.on)}: stop"
        words = ["try again"]
        if self.limit is not None:
            words[0] += " once" if self.limit == 1 else f" up to {self.limit} times"
        if self.backoff:
            words.append(self._waits())
        if self.adapt:
            words.append(f"using less memory ({', then '.join(self.adapt)})")
        return f"{', '.join(self.on)}: {'; '.join(words)}"

    def _waits(self) -> str:
        first = min(self.backoff, self.max_backoff)
        text = f"wait about {show_duration(first)}"
        if self.limit == 1:
            return text
        if first == self.max_backoff:
            return f"{text} each time"
        longest = self.backoff * 2.0 ** (min(self.limit or 30, 30) - 1)
        most = f", at most {show_duration(self.max_backoff)}" if longest > self.max_backoff else ""
        return f"{text} first, then twice as long each time{most}"


@dataclass(frozen=True, kw_only=True)
class Policy:
    """All rules in their order, each class in one of them at least, and what stands above them: `max_restarts` of a
    stage, over all rules and starts of the run; `max_without_progress` of them in a row. `deadlines` are the
    watchdog's, in seconds by section, where the job sets them."""

    rules: tuple[Rule, ...]
    max_restarts: int = MAX_RESTARTS
    max_without_progress: int = MAX_WITHOUT_PROGRESS
    deadlines: Mapping[str, float] = field(default_factory=dict)

    def rule(self, failure: FailureClass) -> Rule:
        """The first rule for `failure`."""
        return next(rule for rule in self.rules if failure in rule.on)

    def lines(self) -> Iterator[str]:
        """The rules for people, as they hold: each class once."""
        left, retries = set(CLASSES), False
        for rule in self.rules:
            mine = tuple(name for name in rule.on if name in left)
            left -= set(mine)
            if mine:
                retries = retries or rule.retry
                yield str(replace(rule, on=mine))
        if retries:
            yield (
                f"at most {self.max_restarts} restarts of a stage in all, "
                f"{self.max_without_progress} in a row without progress"
            )


BUILT_IN: tuple[Rule, ...] = (
    Rule(name="preempted", on=("preempted",), retry=True),
    Rule(
        name="oom",
        on=("oom",),
        retry=True,
        limit=12,
        adapt=("eval_batch", "micro_batch", "gradient_checkpointing"),
    ),
    Rule(name="ram", on=("ram",), retry=True, limit=2, backoff=5.0, adapt=("workers",)),
    Rule(name="hang", on=("hang",), retry=True, limit=2, backoff=5.0),
    Rule(name="download", on=("download",), retry=True, limit=3, backoff=20.0),
    Rule(name="drive_lost", on=("drive_lost",), retry=True, limit=3, backoff=30.0),
    Rule(name="exit", on=("exit",), retry=True, limit=2, backoff=1.0),
    Rule(name="error", on=("error",), retry=True, limit=1, backoff=1.0),
    Rule(name="stop", on=("nan", "disk", "config", "data"), retry=False),
)
DEFAULT = Policy(rules=BUILT_IN)
NONE = Policy(rules=(Rule(name="none", on=CLASSES, retry=False),))


def parse(given: str | Mapping[str, Any]) -> Policy:
    """The policy that `recovery:` of a job file, valid by its schema, asks for."""
    if given == "none":
        return NONE
    if isinstance(given, str):
        return DEFAULT
    own = (_rule(number, entry) for number, entry in enumerate(given.get("rules", [])))
    return Policy(
        rules=(*own, *BUILT_IN),
        max_restarts=int(given.get("max_restarts", MAX_RESTARTS)),
        max_without_progress=int(given.get("max_without_progress", MAX_WITHOUT_PROGRESS)),
        deadlines={
            section: units.duration(text) for section, text in given.get("deadlines", {}).items()
        },
    )


def to_json(policy: Policy) -> dict[str, Any]:
    """`policy` for `plan --json`."""
    return {
        "rules": [
            {
                "name": rule.name,
                "on": list(rule.on),
                "do": "retry" if rule.retry else "stop",
                "limit": rule.limit,
                "backoff": rule.backoff,
                "max_backoff": rule.max_backoff,
                "adapt": list(rule.adapt),
            }
            for rule in policy.rules
        ],
        "max_restarts": policy.max_restarts,
        "max_without_progress": policy.max_without_progress,
        "deadlines": dict(policy.deadlines),
    }


def _rule(number: int, entry: Mapping[str, Any]) -> Rule:
    on = _classes(entry["on"])
    retry = entry.get("do", "retry") == "retry"
    known = next((rule for rule in BUILT_IN if on[0] in rule.on), None) if len(on) == 1 else None
    # What a job's rule leaves open stays as it is in the built-in rule for that class.
    base = known if known and known.retry else Rule(name="", on=on, retry=True, limit=1)
    if not retry:
        return Rule(name=f"rules[{number}]", on=on, retry=False)
    return Rule(
        name=f"rules[{number}]",
        on=on,
        retry=True,
        limit=int(entry["limit"]) if "limit" in entry else base.limit,
        backoff=units.duration(entry["backoff"]) if "backoff" in entry else base.backoff,
        max_backoff=units.duration(entry["max_backoff"])
        if "max_backoff" in entry
        else base.max_backoff,
        adapt=tuple(entry.get("adapt", base.adapt)),
    )


def _classes(on: str | Iterable[str]) -> tuple[FailureClass, ...]:
    wanted = {on} if isinstance(on, str) else set(on)
    return tuple(name for name in CLASSES if name in wanted or "any" in wanted)
