"""Asking a store again that does not answer: a drive that has lost its connection says nothing about what it holds."""

from __future__ import annotations

import errno
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeVar

from tenacity import RetryCallState, Retrying, retry_if_exception
from tenacity import wait_random_exponential as growing

STEP = 0.2
"""Seconds between two looks whether the user wants to go on waiting."""

_PASSING = frozenset(
    {
        errno.ENOTCONN, errno.EIO, errno.ENOENT, errno.ESTALE, errno.ETIMEDOUT, errno.ENXIO, errno.ENODEV,
        errno.ECONNABORTED, errno.ECONNRESET, errno.EHOSTDOWN, errno.EAGAIN, errno.EBUSY, errno.EINTR,
    }
)  # fmt: skip
_T = TypeVar("_T")


@dataclass(kw_only=True)
class Patience:
    """How long to go on asking: `seconds` since the store last gave anything, or until `stop` says that the user has
    had enough. `sleep` waits between two tries; `tell` is called once, when the first has failed.

    The time begins with the first failure, not with the call: reading 10 GB may take longer than patience lasts. What
    reads tells `moved` of its chunks; the time begins anew where it came further than the tries before. One thread
    at a time may ask.
    """

    seconds: float
    stop: Callable[[], bool]
    sleep: Callable[[float], object]
    tell: Callable[[], None]
    clock: Callable[[], float] = time.monotonic
    _failing: float | None = None
    _reached: int = 0
    _furthest: int = 0

    def ask(self, read: Callable[[], _T]) -> _T:
        """What `read` gives. Raises its OSError in the end, or at once where waiting would not help."""
        told: list[bool] = []
        self._failing, self._reached, self._furthest = None, 0, 0

        def tell(_: RetryCallState) -> None:
            if not told:
                told.append(True)
                self.tell()

        retrying = Retrying(
            retry=retry_if_exception(may_pass),
            wait=growing(multiplier=0.2, max=10),
            stop=self._enough,
            sleep=self._wait,
            before_sleep=tell,
            reraise=True,
        )
        return retrying(read)

    def moved(self, count: int = 1) -> None:
        """`count` more bytes have come. A `Wait`: see `qvl_run.checkpoints.store`."""
        self._reached += count
        if self._reached > self._furthest:
            self._furthest, self._failing = self._reached, None

    def pause(self, seconds: float) -> bool:
        """Wait; False once the user wants the run to end."""
        while seconds > 0 and not self.stop():
            self.sleep(min(seconds, STEP))
            seconds -= STEP
        return not self.stop()

    def _wait(self, seconds: float) -> None:
        self.pause(seconds)

    def _enough(self, _: RetryCallState) -> bool:
        """Asked after each failure."""
        now = self.clock()
        self._reached = 0
        self._failing = now if self._failing is None else self._failing
        return now - self._failing > self.seconds or self.stop()


def may_pass(error: BaseException) -> bool:
    """Whether `error` is one that a drive which has lost its connection gives."""
    return isinstance(error, OSError) and error.errno in _PASSING
