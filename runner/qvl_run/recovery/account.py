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
_ADVICE = " If reserved but unallocated memory is large"
"""From here on torch's message of an out-of-memory is advice on its allocator."""

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


_OF_THE_MACHINE: frozenset[FailureClass] = frozenset({"oom", "ram", "disk", "drive_lost"})
"""Failures that no code handles as a matter of course, so that what fails while one is handled is its noise."""


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
    """The class of `error` and whether it is a guess: by what the stage said, by type, by number, then by its text;
    last by what was being handled when it was raised."""
    chain = list(_chain(error))
    for one in chain:
        if (known := _known(one)) is not None:
            return known, False
    # From its causes to itself: the last telling line counts.
    if found := of_text("\n".join(_text(one) for one in reversed(chain))):
        return found[0], True
    handled = (one for above in chain for one in _handled(above))
    known = next((k for one in handled if (k := _known(one)) in _OF_THE_MACHINE), None)
    return (known, True) if known else ("error", False)


def _known(error: BaseException) -> FailureClass | None:
    if isinstance(error, StageError):
        # One that does not call its base's __init__ has none.
        return getattr(error, "failure", "error")
    if isinstance(error, OSError) and error.errno in _BY_ERRNO:
        return _BY_ERRNO[error.errno]
    names = {cls.__name__ for cls in type(error).__mro__}
    return next((failure for failure, known in _BY_TYPE if names & known), None)


def _chain(error: BaseException) -> Iterator[BaseException]:
    """`error`, what it groups, then what caused it, each once."""
    seen: set[int] = set()
    left: list[BaseException | None] = [error]
    while left:
        at = left.pop(0)
        if at is None or id(at) in seen:
            continue
        seen.add(id(at))
        yield at
        left += [*(at.exceptions if isinstance(at, BaseExceptionGroup) else ()), at.__cause__]


def _handled(error: BaseException) -> Iterator[BaseException]:
    """What was being handled when `error` was raised, the nearest first, unless the code says that it is no matter."""
    seen = {id(error)}
    at = error
    while not at.__suppress_context__ and at.__context__ is not None:
        at = at.__context__
        if id(at) in seen:
            return
        seen.add(id(at))
        yield at


def _text(error: BaseException) -> str:
    with suppress(BaseException):
        if isinstance(error, SystemExit):
            return f"sys.exit({error.code!r}) was called"[-MOST:]
        notes = [str(note) for note in getattr(error, "__notes__", ())]
        text = str(error).partition(_ADVICE)[0].strip()
        return "\n".join([text or type(error).__name__, *notes])[-MOST:]
    return type(error).__name__


def _traceback(error: BaseException) -> str:
    with suppress(BaseException):
        return "".join(traceback.format_exception(error))[-MOST:]
    return "".join(traceback.format_tb(error.__traceback__))[-MOST:]
