"""What to do when an attempt has died. Pure: failure and history in, decision out."""

from __future__ import annotations

import signal
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

FailureClass = Literal[
    "config", "data", "disk", "download", "nan", "oom", "exit", "signal", "error"
]

RESTARTS = 3
"""Restarts of a stage in one run, over all failures."""
NO_PROGRESS = 1
"""Restarts in a row that begin at the same step."""

_FINAL: frozenset[FailureClass] = frozenset({"config", "data", "disk", "nan", "oom"})


@dataclass(frozen=True, kw_only=True)
class Failure:
    """How an attempt died. `message` is for people; `expected` tells failures that the stage explained itself."""

    failure: FailureClass
    message: str
    expected: bool = False
    traceback: str = ""


@dataclass(frozen=True, kw_only=True)
class Decision:
    """Whether to try again, and why (not)."""

    retry: bool
    reason: str


def summary(policy: Literal["default", "none"]) -> str:
    """The rules in a line, for the plan."""
    if policy == "none":
        return "none: the first failure of a stage ends the run"
    return (
        f"a stage that dies is restarted from its newest checkpoint, up to {RESTARTS} times, {NO_PROGRESS} of them in "
        f"a row without progress; never after {', '.join(sorted(_FINAL))}"
    )


def classify(error: Mapping[str, Any] | None, returncode: int) -> Failure:
    """From what the child wrote, else from how its process ended. `returncode` as `Popen` gives it."""
    if error is not None:
        return Failure(
            failure=error["failure"],
            message=error["message"]
            if error["expected"]
            else f"{error['type']}: {error['message']}",
            expected=error["expected"],
            traceback=error["traceback"],
        )
    if returncode == 0:
        message = (
            "the stage ended well, but what it left is no whole output in a folder called final"
        )
        return Failure(failure="error", message=message)
    if returncode < 0:
        name = signal.Signals(-returncode).name
        more = " (perhaps by the kernel, for want of memory)" if name == "SIGKILL" else ""
        return Failure(failure="signal", message=f"the process was ended by {name}{more}")
    return Failure(
        failure="exit", message=f"the process ended with code {returncode} and said nothing"
    )


def decide(
    failure: Failure, *, policy: Literal["default", "none"], restarts: int, without_progress: int
) -> Decision:
    """`restarts` so far in this run of the stage; `without_progress` of them in a row from the same step."""
    if policy == "none":
        return Decision(retry=False, reason="recovery: none")
    if failure.failure in _FINAL:
        return Decision(retry=False, reason=f"trying again would not help ({failure.failure})")
    if restarts >= RESTARTS:
        return Decision(retry=False, reason=f"{restarts} restarts did not help")
    if without_progress >= NO_PROGRESS:
        return Decision(retry=False, reason="the last restart came no further")
    return Decision(retry=True, reason=f"restart {restarts + 1} of {RESTARTS}")
