"""The way down that recovery would take: what it makes smaller after out-of-memories, until a stage fits. Pure.

What is sampled at once, the stage itself makes smaller, without another attempt.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any

from qvl_run.plan.faults import adds_none
from qvl_run.recovery import ladder
from qvl_run.recovery.rules import Policy
from qvl_run.settings import LoraSettings
from qvl_run.spec.batch import AUTO, MICRO, SAMPLED, STEPS
from qvl_run.spec.job import StageSpec

AT_ONCE = f"with.{SAMPLED}"
_SHORT = {f"training.{MICRO}": "micro-batch", f"training.{STEPS}": "accumulation"}


@dataclass(frozen=True, kw_only=True)
class Descent:
    """From the stage `start` to `end`, which fits: by `rungs`, each of which takes an out-of-memory, and by sampling
    fewer rows at once."""

    start: StageSpec
    end: StageSpec
    rungs: tuple[ladder.Step, ...]

    @property
    def keys(self) -> tuple[str, ...]:
        """Dotted keys of what is made smaller, in the order in which that begins."""
        own = [AT_ONCE] if self._sampling else []
        return tuple(dict.fromkeys([*(key for rung in self.rungs for key in rung.changes), *own]))

    def told(self) -> str:
        """`after 4 out-of-memories: micro-batch 8 -> 1, accumulation 1 -> 8; gradient checkpointing on`."""
        own = f"by sampling fewer rows at once: {self._sampling}" if self._sampling else ""
        return ", and ".join(one for one in (own, self._attempts() if self.rungs else "") if one)

    @property
    def _sampling(self) -> str:
        old, new = value_of(self.start, AT_ONCE), value_of(self.end, AT_ONCE)
        return "" if old == new else f"{old} -> {new}"

    def _attempts(self) -> str:
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
    spec: StageSpec,
    policy: Policy,
    *,
    over: Callable[[StageSpec], bool],
    needs: ladder.Needs,
    section: str,
) -> Descent | None:
    """How `policy` comes to a stage that is not `over`, where `spec` runs out of memory in `section`, by what each
    setting `needs`; None where it does not get there."""
    rule, rungs, at = policy.rule("oom"), list[ladder.Step](), spec
    ceiling = policy.max_restarts
    most = 0 if not rule.retry else ceiling if rule.limit is None else min(rule.limit, ceiling)
    while over(at):
        fewer = next((one for one in _fewer_at_once(at) if not over(one)), None)
        if fewer is not None:
            at = fewer
            break
        if len(rungs) == most:
            return None
        accepts = partial(adds_none, before=at)
        rung = ladder.next_step(at, rule.adapt, section=section, needs=needs, accepts=accepts)
        if rung is None:
            return None
        at = ladder.apply(at, rung.changes)
        rungs.append(rung)
    return Descent(start=spec, end=at, rungs=tuple(rungs))


def _fewer_at_once(spec: StageSpec) -> Iterator[StageSpec]:
    """`spec` with fewer and fewer rows that are sampled at once, as the stage halves them."""
    rows = value_of(spec, AT_ONCE)
    if rows in (None, AUTO):
        return
    rows = int(rows)
    while rows > 1:
        rows = -(-rows // 2)
        yield ladder.apply(spec, {AT_ONCE: rows})


def value_of(spec: StageSpec, key: str) -> Any:
    """What the dotted `key` is in `spec`."""
    section, _, rest = key.partition(".")
    if section == "with":
        return spec.options.get(rest)
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
