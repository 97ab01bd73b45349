"""Real processes for the tests that look at one."""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

LISTENING = "import faulthandler, signal; faulthandler.register(signal.SIGUSR1)\n"


@contextmanager
def python(code: str, log: Path) -> Iterator[subprocess.Popen[bytes]]:
    """A Python process that prints to `log`."""
    with log.open("ab") as out:
        process = subprocess.Popen([sys.executable, "-uc", code], stdout=out, stderr=out)
    try:
        yield process
    finally:
        process.send_signal(signal.SIGCONT)
        process.kill()
        process.wait()


def until(true: Callable[[], object], *, seconds: float = 30.0) -> None:
    """Wait for `true`, which a process is about to bring about."""
    ends = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < ends, "it did not come about"
        time.sleep(0.01)
