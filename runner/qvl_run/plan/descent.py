"""The way down that recovery would take: what it makes smaller after out-of-memories, until a stage fits. Pure."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

from qvl_run.recovery import ladder
from qvl_run.recovery.rules import Policy
from qvl_run.settings import LoraSettings
from qvl_run.spec.batch import MICRO, STEPS
from qvl_run.spec.job import StageSpec

_SHORT = {f"training.{MICRO}": "micro-batch", f"training.{STEPS}": "accumulation"}


@dataclass(frozen=True, kw_only=True)
class Descent:
    """From the stage `start` to `end`, which fits: by `rungs`, each of which takes an out-of-memory."""

    start: StageSpec
    end: StageSpec
    rungs: tuple[ladder.Step, ...]

    @property
    def keys(self) -> tuple[str, ...]:
        """Dotted keys of what is made smaller, in the order in which that begins."""
        return tuple(dict.fromkeys(key for rung in self.rungs for key in rung.changes))

    def told(self) -> str:
        """`after 4 out-of-memories: micro-batch 8 -> 1, accumulation 1 -> 8; gradient checkpointing on`."""
        count = len(self.rungs)
        after = "one out-of-memory" if count == 1 else f"{count} out-of-memories"
        kinds = dict.fromkeys((rung.rung, tuple(rung.changes)) for rung in self.rungs)
        return f"after {after}: " + "; ".join(", ".join(self._each(keys)) for _, keys in kinds)

    def settings(self) -> str:
        """What to write to begin at `end`."""
        return ", ".join(f"{name(key)}: {_text(value_of(self.end, key))}" for key in self.keys)

    def _each(self, keys: tuple[str, ...]) -> Iterator[str]:
        for key in keys:
            old, new = value_of(self.start, key), value_of(self.end, key)
            note = ": this changes the result" if ladder.changes_result([key]) else ""
            if new is True:
                yield f"{_SHORT.get(key, name(key).replace('_', ' '))} on{note}"
            else:
                yield f"{_SHORT.get(key, name(key))} {old} -> {new}{note}"


def descent(
    spec: StageSpec, policy: Policy, *, over: Callable[[StageSpec], bool], section: str
) -> Descent | None:
    """How `policy` comes to a stage that is not `over`, where `spec` runs out of memory in `section`; None where it
    does not get there."""
    rule, rungs, at = policy.rule("oom"), list[ladder.Step](), spec
    ceiling = policy.max_restarts
    most = 0 if not rule.retry else ceiling if rule.limit is None else min(rule.limit, ceiling)
    while over(at):
        rung = ladder.next_step(at, rule.adapt, section=section) if len(rungs) < most else None
        if rung is None:
            return None
        at = ladder.apply(at, rung.changes)
        rungs.append(rung)
    return Descent(start=spec, end=at, rungs=tuple(rungs))


def value_of(spec: StageSpec, key: str) -> Any:
    """What the dotted `key` is in `spec`."""
    section, _, rest = key.partition(".")
    if section != "model":
        return getattr(getattr(spec, section), rest)
    if rest.startswith("lora."):
        part = rest.removeprefix("lora.")
        return (spec.model.get("lora") or {}).get(part, getattr(LoraSettings(), part))
    return spec.model.get(rest)


def name(key: str) -> str:
    """The dotted `key` as it is told: those of `training` and `model` are known without them."""
    section, _, rest = key.partition(".")
    return rest if section in ("training", "model") else key


def _text(value: Any) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)
