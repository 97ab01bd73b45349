"""A call that may hang, made so that the caller does not: a file system that has died need not answer at all."""

from __future__ import annotations

import threading
from collections.abc import Callable


def within(seconds: float, act: Callable[[], object], *, name: str) -> bool:
    """Whether `act` came to its end within `seconds`. It runs in a thread called `name`, which goes on if it did not,
    and does not keep the process alive. What `act` raises is its own affair: have it catch what it expects."""
    thread = threading.Thread(target=act, name=name, daemon=True)
    thread.start()
    thread.join(seconds)
    return not thread.is_alive()
