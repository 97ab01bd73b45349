"""How a store has been doing: when it last took something, and how slow it has been.

Told by the thread that uses the store, asked by any other. Nothing here touches a disk or waits, so that it also
answers while the store hangs.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field


@dataclass(kw_only=True)
class Standing:
    """`slowest` is the longest upload so far, in seconds; None before the first. `alive` is when, by `clock`, the store
    last did anything at all, be it that it refused, and `worked` when it last worked.

    Bytes count as work only where a copy comes further than those that failed before it: a store that takes the
    first chunk of every try and then refuses does not work.
    """

    clock: Callable[[], float] = time.monotonic
    slowest: float | None = None
    alive: float = field(init=False)
    worked: float = field(init=False)
    _reached: int = 0
    _furthest: int = 0
    _refused: bool = False

    def __post_init__(self) -> None:
        self.alive = self.worked = self.clock()

    def moved(self, count: int) -> None:
        """`count` more bytes of a copy were passed on."""
        self._reached += count
        self.alive = self.clock()
        if self._reached > self._furthest:
            self._furthest = self._reached
            self.worked = self.alive

    def pause(self, seconds: float) -> None:
        """The copy is held back for `seconds`: that is not the store's doing."""
        self.alive += seconds
        if self._reached == self._furthest:
            self.worked += seconds

    def answered(self) -> None:
        """A small call came back. After a refusal it says nothing: a full store still takes small files."""
        self.alive = self.clock()
        if not self._refused:
            self.worked = self.alive

    def refused(self) -> None:
        """A copy failed."""
        self._refused, self._reached = True, 0
        self.alive = self.clock()

    def took(self) -> None:
        """A copy has come to its end."""
        self._refused, self._reached, self._furthest = False, 0, 0
        self.alive = self.worked = self.clock()

    def uploaded(self, seconds: float) -> None:
        """A copy took `seconds`."""
        self.slowest = max(seconds, self.slowest or 0.0)

    def still(self) -> float:
        """Seconds since the store last worked."""
        return max(0.0, self.clock() - self.worked)
