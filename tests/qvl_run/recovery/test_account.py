"""What a child says of its own failure, however the exception misbehaves."""

import errno
import json
from typing import Any

import pytest

from qvl_run.contract import DataError, StageError
from qvl_run.recovery.account import MOST, described
from qvl_run.recovery.classify import Remains, classify
from qvl_run.recovery.failure import CLASSES


class OutOfMemoryError(RuntimeError):
    """As torch names its own."""


class HfHubHTTPError(OSError):
    """As huggingface_hub names its own."""


class Unspeakable(Exception):
    """It cannot be shown."""

    def __str__(self) -> str:
        raise ValueError("no words")

    __repr__ = __str__


class Forgetful(StageError):
    """A plugin's own that does not call its base."""

    def __init__(self) -> None:
        pass


def raised(error: BaseException, *, cause: BaseException | None = None) -> dict[str, Any]:
    """The account of `error`, as it is when it was really raised."""
    try:
        raise error from cause
    except BaseException as caught:
        return described(caught)


def while_handling(first: BaseException, then: BaseException) -> dict[str, Any]:
    """The account of `then`, raised in a `finally` that `first` had brought about."""
    try:
        try:
            raise first
        finally:
            raise then
    except BaseException as caught:
        return described(caught)


@pytest.mark.parametrize(
    ("error", "kind"),
    [
        (OutOfMemoryError("CUDA out of memory"), "oom"),
        (MemoryError(), "ram"),
        (OSError(errno.ENOMEM, "m"), "ram"),
        (ImportError("no peft"), "config"),
        (ModuleNotFoundError("no peft"), "config"),
        (OSError(errno.ENOSPC, "m"), "disk"),
        (OSError(errno.EDQUOT, "m"), "disk"),
        (OSError(errno.ENOTCONN, "m"), "drive_lost"),
        (OSError(errno.ESTALE, "m"), "drive_lost"),
        (HfHubHTTPError("503"), "download"),
        (ConnectionResetError(errno.ECONNRESET, "m"), "download"),
        (SystemExit("giving up"), "exit"),
        (SystemExit(), "exit"),
        (KeyboardInterrupt(), "preempted"),
        (DataError("no image", source="x:3"), "data"),
        (StageError("lower it", failure="nan"), "nan"),
        (ValueError("m"), "error"),
        (FileNotFoundError(errno.ENOENT, "m"), "error"),
    ],
)
def test_the_class_is_known_by_type_and_number(error: BaseException, kind: str) -> None:
    found = raised(error)
    assert (found["failure"], found["guessed"]) == (kind, False)
    assert found["expected"] == isinstance(error, StageError)


def test_a_text_alone_is_a_guess() -> None:
    found = raised(RuntimeError("CUDA error: out of memory\nCompile with TORCH_USE_CUDA_DSA"))
    assert (found["failure"], found["guessed"]) == ("oom", True)


def test_sys_exit_is_told_with_what_it_was_given() -> None:
    assert raised(SystemExit("giving up"))["message"] == "sys.exit('giving up') was called"
    assert raised(SystemExit(0))["message"] == "sys.exit(0) was called"


def test_what_it_was_raised_from_counts_where_it_is_not_telling_itself() -> None:
    assert raised(RuntimeError("training failed"), cause=OutOfMemoryError())["failure"] == "oom"
    assert raised(ImportError(), cause=OutOfMemoryError())["failure"] == "config"
    stage_error = StageError("it is no number", failure="nan")
    assert raised(RuntimeError(), cause=stage_error)["failure"] == "nan"
    # By its text too, which the outer one need not repeat.
    by_text = raised(RuntimeError("training failed"), cause=RuntimeError("CUDA out of memory"))
    assert (by_text["failure"], by_text["guessed"]) == ("oom", True)


def test_a_circle_of_causes_ends() -> None:
    one, two = ValueError("one"), ValueError("two")
    one.__cause__, two.__cause__ = two, one
    assert described(one)["failure"] == "error"
    one.__cause__ = one
    assert described(one)["failure"] == "error"
    three = ValueError("three")
    three.__context__, one.__cause__, one.__context__ = one, None, three
    assert described(three)["failure"] == "error"


def test_what_fails_while_memory_or_a_disk_ran_out_is_put_down_to_that() -> None:
    found = while_handling(OutOfMemoryError(), RuntimeError("the tracker is closed"))
    assert (found["failure"], found["guessed"]) == ("oom", True)
    found = while_handling(OSError(errno.ENOSPC, "m"), ValueError("not open"))
    assert (found["failure"], found["guessed"]) == ("disk", True)


def test_other_failures_that_were_being_handled_say_nothing() -> None:
    assert while_handling(ImportError("flash_attn"), ValueError("m"))["failure"] == "error"
    assert while_handling(OutOfMemoryError(), ImportError("m"))["failure"] == "config"
    error = ValueError("m")
    error.__context__, error.__suppress_context__ = OutOfMemoryError(), True
    assert described(error)["failure"] == "error"


def test_a_group_is_what_it_holds() -> None:
    inner = ExceptionGroup("below", [ValueError("m"), OutOfMemoryError()])
    assert raised(ExceptionGroup("above", [TypeError("m"), inner]))["failure"] == "oom"
    assert raised(ExceptionGroup("above", [ValueError("m")]))["failure"] == "error"


def test_notes_are_told_and_read() -> None:
    error = RuntimeError("the loader failed")
    error.add_note("DataLoader worker (pid 9) is killed by signal: Killed.")
    found = raised(error)
    assert (found["failure"], found["guessed"]) == ("ram", True)
    assert found["message"].splitlines()[1].startswith("DataLoader worker")


@pytest.mark.parametrize(
    ("error", "kind", "message"),
    [
        (Unspeakable(), "error", "Unspeakable"),
        (SystemExit(Unspeakable()), "exit", "SystemExit"),
        (OutOfMemoryError(Unspeakable()), "oom", "OutOfMemoryError"),
        (ValueError(), "error", "ValueError"),
        (Forgetful(), "error", "Forgetful"),
    ],
)
def test_an_exception_that_cannot_be_shown_is_told_by_its_name(
    error: BaseException, kind: str, message: str
) -> None:
    found = raised(error)
    assert (found["failure"], found["message"]) == (kind, message)
    assert "raised" in found["traceback"]


def test_notes_that_cannot_be_shown_harm_nothing() -> None:
    error = ValueError("m")
    error.__notes__ = 3  # type: ignore[assignment]
    assert raised(error)["message"] == "ValueError"


def test_long_and_odd_texts_fit_into_the_file_and_come_back_as_a_failure() -> None:
    odd = raised(ValueError("x" * 100_000 + "\ud800 the end"))
    assert len(odd["message"]) == MOST
    back = json.loads(json.dumps(odd).encode())
    assert back == odd
    found = classify(Remains(error=back, returncode=1))
    assert found.failure in CLASSES
    assert found.message.endswith("the end")
