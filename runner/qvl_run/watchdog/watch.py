"""The watchdog itself: looks, remembers, and says what to do. It does nothing of that to the child."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol

from qvl_run.watchdog import history as past
from qvl_run.watchdog.deadlines import Seen
from qvl_run.watchdog.detectors import detect
from qvl_run.watchdog.history import History
from qvl_run.watchdog.judge import Verdict, decide
from qvl_run.watchdog.snapshot import Around, Child, Snapshot

CADENCE = 5.0
"""Seconds between two looks at what is around the child, which cost more than one at the child."""


class Eyes(Protocol):
    """What sees the attempt. Never raises and never hangs."""

    def child(self) -> Child:
        """The child; cheap enough for every look."""

    def around(self) -> Around:
        """What is around it."""


@dataclass(kw_only=True)
class Watch:
    """Watches one attempt. `clock` is monotonic, in seconds; `seen` is what earlier attempts took, `floors` the user's
    deadlines by section, in seconds."""

    eyes: Eyes
    clock: Callable[[], float]
    seen: Seen = field(default_factory=dict)
    floors: Mapping[str, float] = field(default_factory=dict)
    cadence: float = CADENCE
    child: Child = field(default_factory=Child, init=False)
    around: Around = field(default_factory=Around, init=False)
    history: History = field(init=False)
    verdict: Verdict = field(default_factory=Verdict, init=False)
    _looked_at: float = field(init=False)
    _surveyed_at: float = field(init=False)

    def __post_init__(self) -> None:
        self.history = History(seen=self.seen)
        self._looked_at = self._surveyed_at = self.clock()

    def look(self) -> Verdict:
        """Look once, and judge."""
        now = self.clock()
        self.child = self.eyes.child()
        self.history = past.looked(self.history, self.child, now - self._looked_at)
        self._looked_at = now
        if now - self._surveyed_at >= self.cadence:
            self._surveyed_at = now
            self.around = self.eyes.around()
            self.history = past.surveyed(self.history, self.around)
        findings = detect(self.snapshot, self.history, floors=self.floors)
        self.verdict = decide(findings, self.verdict.told, watched=self.history.watched)
        return self.verdict

    @property
    def snapshot(self) -> Snapshot:
        """What the last look was judged by."""
        return past.snapshot(self.history, self.child, self.around)

    @property
    def learned(self) -> Seen:
        """The longest silences that ended, for the next attempt: its `seen`."""
        return self.history.seen

    @property
    def progress(self) -> Mapping[str, Any] | None:
        """The progress file as the last look read it."""
        return self.child.progress
