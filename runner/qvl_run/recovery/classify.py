"""From what is left of an attempt to the class of its failure. The first failure counts, never the noise of going down.

Asked in this order: what the watchdog ended it for, unless the stage had spoken before; the child's own account; its
exit code; its signal, with the kernel's record of what it killed for want of memory; last, patterns in its log, which
are guesses and marked as such.
"""

from __future__ import annotations

import re
import signal
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from qvl_run.recovery.failure import CLASSES, Failure, FailureClass

STOPPED = 75
"""The exit code of a child that saved and stopped as it was asked to."""
LOW_RAM = 0.05
"""Share of the machine's memory below which an unexplained SIGKILL is put down to it."""

FULL = 16 * 1024 * 1024
"""Bytes of disk below which an end without a word is put down to it: the account itself needs room."""

_FROM_OUTSIDE = {signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGKILL, signal.SIGQUIT}

_PATTERNS: tuple[tuple[FailureClass, str], ...] = (
    ("oom", r"CUDA out of memory|CUDA error: out of memory|CU(BLAS|DNN)_STATUS_ALLOC_FAILED"),
    ("disk", r"No space left on device|Disk quota exceeded"),
    ("drive_lost", r"Transport endpoint is not connected|Stale file handle"),
    (
        "ram",
        r"DataLoader worker \(pid.*\) is killed by signal: (Killed|Bus error)|^MemoryError|"
        r"DefaultCPUAllocator: (can't allocate|not enough) memory",
    ),
    ("config", r"^(ImportError|ModuleNotFoundError): "),
)


@dataclass(frozen=True, kw_only=True)
class Remains:
    """What is left of an attempt. `error` is the child's own account, None where it left none or a torn one;
    `returncode` as `Popen` gives it; `killed_for` is what the watchdog ended it for, and `section` where it was then;
    `oom_kills` is how many processes the kernel killed meanwhile for want of memory, None where its record cannot be
    read; `ram_left` the share of memory that was last seen free, `disk_left` the free bytes of this machine's disk;
    `log` the end of what it printed."""

    error: Mapping[str, Any] | None
    returncode: int
    killed_for: str = ""
    section: str | None = None
    step: int = 0
    oom_kills: int | None = None
    ram_left: float | None = None
    disk_left: int | None = None
    log: str = ""


def classify(left: Remains) -> Failure:
    """The failure that `left` speaks of."""
    if left.killed_for:
        failure: FailureClass = "download" if left.section == "download" else "hang"
        return Failure(failure=failure, message=left.killed_for, step=left.step)
    if left.error is not None:
        return _told(left.error, left)
    if left.returncode == 0:
        message = (
            "the stage ended well, but what it left is no whole output in a folder called final"
        )
        return Failure(failure="error", message=message, step=left.step)
    if left.returncode == STOPPED:
        message = "the process was asked from outside to end, and saved"
        return Failure(failure="preempted", message=message, step=left.step)
    number = _signal(left.returncode)
    if number is not None:
        return _signalled(number, left)
    message = f"the process ended with {_ending(left.returncode)} and said nothing"
    return _guess(left) or Failure(failure="exit", message=message, step=left.step)


def of_text(text: str) -> tuple[FailureClass, str] | None:
    """The class that the last telling line of `text` speaks for, and that line; None where none does. A guess."""
    for line in reversed(text.splitlines()):
        for failure, pattern in _PATTERNS:
            if re.search(pattern, line):
                return failure, line.strip()[:300]
    return None


def _told(error: Mapping[str, Any], left: Remains) -> Failure:
    expected = bool(error.get("expected"))
    told_type = str(error.get("type") or "Exception")
    message = str(error.get("message") or "")
    kind = error.get("failure")
    failure: FailureClass = kind if kind in CLASSES else "error"
    return Failure(
        failure=failure,
        message=(message or told_type) if expected else f"{told_type}: {message}",
        expected=expected,
        guessed=bool(error.get("guessed")),
        traceback=str(error.get("traceback", "")),
        step=left.step,
    )


def _signal(returncode: int) -> signal.Signals | None:
    """The signal that ended the process; a shell between says 128 + its number."""
    number = -returncode if returncode < 0 else returncode - 128
    try:
        return signal.Signals(number)
    except ValueError:
        return None


def _signalled(number: signal.Signals, left: Remains) -> Failure:
    if number == signal.SIGKILL and left.oom_kills:
        message = "the kernel ended the process for want of memory (RAM, not the GPU's)"
        return Failure(failure="ram", message=message, step=left.step)
    if number == signal.SIGKILL and left.ram_left is not None and left.ram_left < LOW_RAM:
        message = (
            f"the process was ended by SIGKILL while {left.ram_left:.0%} of the memory was free: "
            "perhaps by the kernel, for want of it"
        )
        return Failure(failure="ram", message=message, guessed=True, step=left.step)
    if number in _FROM_OUTSIDE:
        message = f"the process was ended from outside by {number.name}"
        return Failure(failure="preempted", message=message, step=left.step)
    message = f"the process crashed with {number.name}"
    return _guess(left) or Failure(failure="exit", message=message, step=left.step)


def _guess(left: Remains) -> Failure | None:
    found = of_text(left.log)
    if found is None and left.disk_left is not None and left.disk_left < FULL:
        message = (
            f"the process ended ({_ending(left.returncode)}) while this machine's disk was full: free some space, "
            "or set storage.scratch to another disk, and run the same command again"
        )
        return Failure(failure="disk", message=message, guessed=True, step=left.step)
    if found is None:
        return None
    failure, line = found
    message = (
        f"the process ended ({_ending(left.returncode)}); the last telling line of its log: {line}"
    )
    return Failure(failure=failure, message=message, guessed=True, step=left.step)


def _ending(returncode: int) -> str:
    number = _signal(returncode)
    if number is not None:
        return number.name
    return f"code {returncode}" if returncode >= 0 else f"signal {-returncode}"
