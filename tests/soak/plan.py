"""What is done to a run, drawn by a seed: the same seed draws the same faults, on any machine.

A moment is counted in what the run itself says, never in seconds; how far the run comes between two looks is not
decided by the seed.
"""

from __future__ import annotations

import random
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal, TypeVar

T = TypeVar("T")

Kind = Literal[
    "child killed",
    "child asked to end",
    "child frozen",
    "save asked for",
    "storage refuses",
    "machine dies",
    "machine lost",
    "upload cut short",
    "runner asked to end",
    "qvl-run stop",
    "crash point",
]
PASSING: tuple[Kind, ...] = (
    "child killed",
    "child asked to end",
    "child frozen",
    "save asked for",
    "storage refuses",
)
"""What a run goes on after by itself."""
ENDING: tuple[Kind, ...] = (
    "machine dies",
    "machine lost",
    "upload cut short",
    "runner asked to end",
    "qvl-run stop",
)
"""What ends this start of it."""
KINDS: tuple[Kind, ...] = (*PASSING, *ENDING, "crash point")
DETAILS: dict[Kind, tuple[str, ...]] = {
    "storage refuses": ("checkpoints", "runs", "."),
    "upload cut short": ("truncated", "emptied", "hole", "no manifest"),
    "runner asked to end": ("SIGTERM", "SIGINT", "SIGHUP", "SIGTERM twice"),
    "qvl-run stop": ("", "--after-save"),
}
PASSINGS = {
    "stage.before_train": 1,
    "checkpoint.before_manifest": 3,
    "checkpoint.after_manifest": 3,
    "mirror.first_file": 3,
    "mirror.before_manifest": 3,
    "mirror.after_manifest": 3,
    "stage.after_train": 1,
    "output.before_manifest": 1,
    "output.after_manifest": 1,
    "run.between_stages": 1,
    "disk.effect": 80,
}
"""The points of `qvl_run.faults`, and the last passing that a run dies at."""


@dataclass(frozen=True, kw_only=True)
class Moment:
    """Once the run has said `count` things more: `beat`, in its progress; `event`, in its story."""

    what: Literal["beat", "event"]
    count: int


@dataclass(frozen=True, kw_only=True)
class Fault:
    """`detail` is one of `DETAILS`. `output`: what is cut short is a stage's output, else its newest checkpoint."""

    kind: Kind
    moment: Moment
    detail: str = ""
    output: bool = False


@dataclass(frozen=True, kw_only=True)
class Start:
    """One start of the command: the faults in their order, and the point it dies at, `name@N` or nothing. `lost`: where
    it dies there, this machine's disk is gone too."""

    faults: tuple[Fault, ...]
    crash_at: str = ""
    lost: bool = False


def draw(seed: int, *, starts: int, beats: int) -> tuple[Start, ...]:
    """What is done to the first `starts` starts; those after are left in peace. `beats` is about how many things an
    attempt says of its progress: small numbers of them are drawn more often."""
    return _Deal(random.Random(seed), beats).starts(starts)


class _Deal:
    """Kinds are dealt as cards are: none comes twice before each has come once."""

    def __init__(self, chance: random.Random, beats: int) -> None:
        self._chance, self._beats = chance, beats
        self._passing, self._ending = self._deck(PASSING), self._deck(ENDING)
        self._points = self._deck(tuple(PASSINGS))

    def starts(self, count: int) -> tuple[Start, ...]:
        return tuple(self._start() for _ in range(count))

    def _start(self) -> Start:
        chance = self._chance
        faults = [self._fault(next(self._passing)) for _ in range(chance.choice((0, 1, 1, 2, 3)))]
        if chance.random() < 0.7:
            return Start(faults=(*faults, self._fault(next(self._ending))))
        point = next(self._points)
        at = f"{point}@{chance.randint(1, PASSINGS[point])}"
        return Start(faults=tuple(faults), crash_at=at, lost=chance.random() < 0.3)

    def _fault(self, kind: Kind) -> Fault:
        chance = self._chance
        if chance.random() < 0.25:
            moment = Moment(what="event", count=chance.randint(1, 5))
        else:
            moment = Moment(what="beat", count=max(1, round(self._beats ** chance.random())))
        detail = chance.choice(DETAILS.get(kind, ("",)))
        return Fault(kind=kind, moment=moment, detail=detail, output=chance.random() < 0.3)

    def _deck(self, cards: tuple[T, ...]) -> Iterator[T]:
        while True:
            yield from self._chance.sample(cards, len(cards))
