"""Asking a store again that does not answer: a drive that has lost its connection says nothing about what it holds."""

from __future__ import annotations

import errno
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


@dataclass(frozen=True, kw_only=True)
class Patience:
    """How long to go on asking: `seconds`, or until `stop` says that the user has had enough. `sleep` waits between
    two tries; `tell` is called once, when the first has failed."""

    seconds: float
    stop: Callable[[], bool]
    sleep: Callable[[float], object]
    tell: Callable[[], None]

    def ask(self, read: Callable[[], _T]) -> _T:
        """What `read` gives. Raises its OSError in the end, or at once where waiting would not help."""
        told: list[bool] = []

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

    def pause(self, seconds: float) -> bool:
        """Wait; False once the user wants the run to end."""
        while seconds > 0 and not self.stop():
            self.sleep(min(seconds, STEP))
            seconds -= STEP
        return not self.stop()

    def _wait(self, seconds: float) -> None:
        self.pause(seconds)

    def _enough(self, state: RetryCallState) -> bool:
        return (state.seconds_since_start or 0.0) > self.seconds or self.stop()


def may_pass(error: BaseException) -> bool:
    """Whether `error` is one that a drive which has lost its connection gives."""
    return isinstance(error, OSError) and error.errno in _PASSING
