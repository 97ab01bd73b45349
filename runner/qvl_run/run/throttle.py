"""Slowing a copy down, so that it leaves others some of the bandwidth."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass


@dataclass
class Throttle:
    """Slows a copy to `rate` bytes a second on average."""

    rate: float
    clock: Callable[[], float] = time.monotonic
    sleep: Callable[[float], object] = time.sleep
    _due: float = 0.0

    def __call__(self, count: int) -> None:
        """Wait until `count` more bytes are due."""
        now = self.clock()
        self._due = max(self._due, now) + count / self.rate
        if self._due > now:
            self.sleep(self._due - now)
