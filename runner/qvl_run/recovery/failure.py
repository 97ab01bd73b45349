"""The classes of failure, each with what it means: the vocabulary of `recovery:` in a job file."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal, get_args

FailureClass = Literal[
    "preempted",
    "oom",
    "ram",
    "hang",
    "download",
    "drive_lost",
    "disk",
    "nan",
    "exit",
    "error",
    "config",
    "data",
]
CLASSES: tuple[FailureClass, ...] = get_args(FailureClass)

MEANING: Mapping[FailureClass, str] = {
    "preempted": "the machine or somebody ended the process from outside",
    "oom": "the GPU's memory was not enough",
    "ram": "the machine's memory was not enough: the kernel ended the process, or Python could get no more",
    "hang": "the watchdog found that nothing moved any more, and ended the process",
    "download": "a download failed, or no byte of it arrived any more",
    "drive_lost": "a mounted drive or a bucket stopped answering while the stage read from it",
    "disk": "this machine's disk is full",
    "nan": "the loss or the gradient was no number, or every step of fp16 overflowed",
    "exit": "the process ended without an account of why: an exit code, an abort, a segmentation fault",
    "error": "the stage raised an exception",
    "config": "a setting cannot work, or a package cannot be imported",
    "data": "a row or a file of the data cannot be used",
}


@dataclass(frozen=True, kw_only=True)
class Failure:
    """How an attempt died. `message` is for people; `expected` tells failures that the stage explained itself, which
    need no traceback; `guessed` those that only a pattern in the log or a circumstance speaks for. `step` is the one
    that had been reached, 0 before the first; `section` is what the stage was doing."""

    failure: FailureClass
    message: str
    expected: bool = False
    guessed: bool = False
    traceback: str = ""
    step: int = 0
    section: str | None = None
