"""An attempt that a test plays: what is seen of it is set, and time passes when the test says so."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from qvl_run.watchdog.detectors import Finding
from qvl_run.watchdog.snapshot import Around, Child, Report
from qvl_run.watchdog.watch import Watch

POLL = 0.2


@dataclass
class Scene:
    """Is the eyes of `watch`, and its clock. `killed`, `woken`, `told` are what it has asked for so far."""

    seen: Mapping[str, float] = field(default_factory=dict)
    floors: Mapping[str, float] = field(default_factory=dict)
    now: float = 1000.0
    shown: Child = field(default_factory=Child)
    surroundings: Around = field(default_factory=Around)
    surveys: int = 0
    acts: list[Finding] = field(default_factory=list)
    told: list[Finding] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.watch = Watch(eyes=self, clock=lambda: self.now, seen=self.seen, floors=self.floors)
        self._beat = 0

    def child(self) -> Child:
        return self.shown

    def around(self) -> Around:
        self.surveys += 1
        return self.surroundings

    def report(self, section: str, step: int | None = None) -> None:
        """The child runs and says this."""
        self._beat += 1
        said = Report(section=section, step=step, total=100, beat=self._beat)
        self.shown = Child(report=said, process="running")

    def passes(self, seconds: float, *, every: float = POLL) -> None:
        """Time, with a look every `every` seconds."""
        for _ in range(round(seconds / every)):
            self.now += every
            self.look()

    def look(self) -> None:
        verdict = self.watch.look()
        self.acts += [verdict.action] if verdict.action else []
        self.told += verdict.warnings

    def names(self) -> list[str]:
        """What was told."""
        return [found.name for found in self.told]

    def asked(self) -> set[str]:
        """Kinds of action that were asked for."""
        return {found.act for found in self.acts}
