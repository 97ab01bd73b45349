"""A child's own account of its failure, as data: class, message, where.

Made while the process goes down, so it does not fail itself, whatever the exception is.
"""

from __future__ import annotations

import errno
import traceback
from collections.abc import Iterator
from contextlib import suppress
from typing import Any

from qvl_run.contract import StageError
from qvl_run.recovery.classify import of_text
from qvl_run.recovery.failure import FailureClass

MOST = 20_000
"""Characters of a message or a traceback, from its end."""

_BY_ERRNO: dict[int, FailureClass] = {
    errno.ENOSPC: "disk",
    errno.EDQUOT: "disk",
    errno.ENOTCONN: "drive_lost",
    errno.ESTALE: "drive_lost",
    errno.EHOSTDOWN: "drive_lost",
    errno.ENOMEM: "ram",
}
# By name: the libraries that define these are not imported here.
_BY_TYPE: tuple[tuple[FailureClass, frozenset[str]], ...] = (
    ("oom", frozenset({"OutOfMemoryError"})),
    ("ram", frozenset({"MemoryError"})),
    ("config", frozenset({"ImportError"})),
    ("exit", frozenset({"SystemExit"})),
    ("preempted", frozenset({"KeyboardInterrupt"})),
    (
        "download",
        frozenset(
            {
                "HfHubHTTPError", "LocalEntryNotFoundError", "ConnectionError", "ConnectError",
                "ReadTimeout", "ConnectTimeout", "RemoteProtocolError",
            }
        ),
    ),
)  # fmt: skip


def described(error: BaseException) -> dict[str, Any]:
    """`error` as data. Its class is its own where that is telling, else that of the exception it was raised from."""
    failure, guessed = _class(error)
    return {
        "failure": failure,
        "guessed": guessed,
        "type": type(error).__name__,
        "message": _text(error),
        "expected": isinstance(error, StageError),
        "traceback": _traceback(error),
    }


def _class(error: BaseException) -> tuple[FailureClass, bool]:
    """The class of `error` and whether it is a guess: by what the stage said, by type, by number, last by its text."""
    if isinstance(error, StageError):
        return error.failure, False
    for one in _chain(error):
        if (known := _known(one)) is not None:
            return known, False
    found = of_text(_text(error))
    return (found[0], True) if found else ("error", False)


def _known(error: BaseException) -> FailureClass | None:
    if isinstance(error, StageError):
        return error.failure
    if isinstance(error, OSError) and error.errno in _BY_ERRNO:
        return _BY_ERRNO[error.errno]
    names = {cls.__name__ for cls in type(error).__mro__}
    return next((failure for failure, known in _BY_TYPE if names & known), None)


def _chain(error: BaseException) -> Iterator[BaseException]:
    """`error`, then what caused it. What was merely being handled when it was raised says nothing about it."""
    seen: set[int] = set()
    at: BaseException | None = error
    while at is not None and id(at) not in seen:
        seen.add(id(at))
        yield at
        at = at.__cause__


def _text(error: BaseException) -> str:
    if isinstance(error, SystemExit):
        return f"sys.exit({error.code!r}) was called"
    with suppress(BaseException):
        notes = [str(note) for note in getattr(error, "__notes__", ())]
        return "\n".join([str(error) or type(error).__name__, *notes])[-MOST:]
    return type(error).__name__


def _traceback(error: BaseException) -> str:
    with suppress(BaseException):
        return "".join(traceback.format_exception(error))[-MOST:]
    return "".join(traceback.format_tb(error.__traceback__))[-MOST:]
