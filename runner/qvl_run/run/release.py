"""The GPU's memory comes back a moment after the process that held it has ended."""

from __future__ import annotations

import time
from collections.abc import Callable

MOST = 60.0
"""Most seconds to wait for it."""
SETTLED = 10.0
"""Seconds without a fall after which what is in use is another program's: the driver is faster."""
SLACK = 256 * 1024 * 1024
"""Bytes of the GPU that the driver may keep."""
LOOK = 0.2
"""Seconds between two looks."""


def wait_for_release(
    memory_used: Callable[[], int | None],
    *,
    before: int | None,
    clock: Callable[[], float] = time.monotonic,
    sleep: Callable[[float], None] = time.sleep,
) -> int:
    """Wait until the bytes in use are what they were `before` the process started, or do not become fewer.

    Returns the bytes that are in use beyond that; 0 where the GPU cannot be asked.
    """
    if before is None or (used := memory_used()) is None:
        return 0
    fell = began = clock()
    least = used
    while used > before + SLACK:
        now = clock()
        if now - fell > SETTLED or now - began > MOST:
            return used - before
        sleep(LOOK)
        if (looked := memory_used()) is None:
            return 0
        used = looked
        if used < least:
            least, fell = used, clock()
    return 0
