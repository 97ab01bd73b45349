"""From what is left of an attempt to its class: every source, and which of them counts where several speak."""

import signal
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from qvl_run.recovery.classify import STOPPED, Remains, classify, of_text
from qvl_run.recovery.failure import CLASSES, MEANING, FailureClass

ERROR = {"failure": "data", "type": "DataError", "message": "x:3: no image", "expected": True}


def remains(returncode: int = 1, **known: Any) -> Remains:
    return Remains(**{"error": None, "returncode": returncode} | known)


def test_every_class_has_a_meaning() -> None:
    assert set(MEANING) == set(CLASSES)


def test_what_the_watchdog_ended_it_for_comes_first() -> None:
    everything = {
        "error": ERROR,
        "killed_for": "silent for 20 min",
        "oom_kills": 1,
        "log": "CUDA out of memory",
    }
    for code in (-9, -15, 1, 0, STOPPED):
        found = classify(remains(code, **everything, section="step", step=7))
        assert (found.failure, found.message, found.step) == ("hang", "silent for 20 min", 7)
        assert not found.guessed
    assert classify(remains(-9, **everything, section="download")).failure == "download"


@pytest.mark.parametrize("code", [1, 0, 137, -9, -11, STOPPED])
def test_then_what_the_child_wrote_whatever_its_end(code: int) -> None:
    found = classify(
        remains(code, error=ERROR, oom_kills=1, ram_left=0.0, log="CUDA out of memory")
    )
    assert (found.failure, found.message, found.expected) == ("data", "x:3: no image", True)


def test_what_nobody_explained_is_told_with_its_type_and_traceback() -> None:
    error = {
        "failure": "oom", "guessed": True, "type": "RuntimeError", "message": "no memory", "expected": False,
        "traceback": "t",
    }  # fmt: skip
    found = classify(remains(error=error))
    assert (found.message, found.guessed, found.traceback) == ("RuntimeError: no memory", True, "t")


@pytest.mark.parametrize(
    "error",
    [
        {}, {"failure": "of my own"}, {"failure": None}, {"failure": ["oom"]}, {"message": 3},
        {"expected": True, "type": "MyError"},
    ],
)  # fmt: skip
def test_an_account_that_makes_no_sense_is_an_error_all_the_same(error: dict[str, Any]) -> None:
    found = classify(remains(error=error))
    assert found.failure == "error"
    assert found.message


@pytest.mark.parametrize(
    ("code", "kind", "words"),
    [
        (0, "error", "no whole output"),
        (STOPPED, "preempted", "asked from outside to end, and saved"),
        (-signal.SIGTERM, "preempted", "SIGTERM"),
        (-signal.SIGHUP, "preempted", "SIGHUP"),
        (-signal.SIGKILL, "preempted", "SIGKILL"),
        (128 + signal.SIGKILL, "preempted", "SIGKILL"),
        (128 + signal.SIGTERM, "preempted", "SIGTERM"),
        (128 + signal.SIGINT, "preempted", "SIGINT"),
        (-signal.SIGSEGV, "exit", "crashed with SIGSEGV"),
        (128 + signal.SIGABRT, "exit", "crashed with SIGABRT"),
        (-signal.SIGBUS, "exit", "crashed with SIGBUS"),
        (1, "exit", "ended with code 1 and said nothing"),
        (3, "exit", "code 3"),
        (128, "exit", "code 128"),
        (255, "exit", "code 255"),
        (-35, "exit", "signal 35"),
    ],
)
def test_a_child_that_said_nothing_is_judged_by_its_end(
    code: int, kind: FailureClass, words: str
) -> None:
    found = classify(remains(code, oom_kills=0, ram_left=0.5))
    assert (found.failure, found.guessed) == (kind, False)
    assert words in found.message


@pytest.mark.parametrize("code", [-9, 137])
def test_a_sigkill_is_the_kernels_where_its_record_or_the_memory_says_so(code: int) -> None:
    by_record = classify(remains(code, oom_kills=1, ram_left=0.9))
    assert (by_record.failure, by_record.guessed) == ("ram", False)
    for kills in (0, None):
        by_memory = classify(remains(code, oom_kills=kills, ram_left=0.04))
        assert (by_memory.failure, by_memory.guessed) == ("ram", True)
        assert "while 4% of the memory was free" in by_memory.message
        assert classify(remains(code, oom_kills=kills, ram_left=0.05)).failure == "preempted"
        assert classify(remains(code, oom_kills=kills)).failure == "preempted"


@pytest.mark.parametrize("code", [-15, -11, 1])
def test_other_ends_are_not_put_down_to_the_kernel(code: int) -> None:
    assert classify(remains(code, oom_kills=1, ram_left=0.0)).failure != "ram"


LINES: list[tuple[str, FailureClass]] = [
    ("torch.OutOfMemoryError: CUDA out of memory. Tried to allocate 2.00 GiB.", "oom"),
    ("RuntimeError: CUDA error: out of memory", "oom"),
    ("RuntimeError: CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate`", "oom"),
    ("OSError: [Errno 28] No space left on device: '/content/x'", "disk"),
    ("OSError: [Errno 122] Disk quota exceeded", "disk"),
    ("OSError: [Errno 107] Transport endpoint is not connected: '/content/drive'", "drive_lost"),
    ("OSError: [Errno 116] Stale file handle", "drive_lost"),
    ("RuntimeError: DataLoader worker (pid 91) is killed by signal: Killed. ", "ram"),
    ("RuntimeError: DataLoader worker (pid 91) is killed by signal: Bus error. It is possible", "ram"),
    ("RuntimeError: [enforce fail at alloc_cpu.cpp:118] DefaultCPUAllocator: can't allocate memory", "ram"),
    ("MemoryError", "ram"),
    ("ModuleNotFoundError: No module named 'flash_attn'", "config"),
]  # fmt: skip


@pytest.mark.parametrize(("line", "kind"), LINES)
def test_last_its_log_is_read_and_what_it_says_is_a_guess(line: str, kind: FailureClass) -> None:
    log = f"loading\n{line}\nException ignored in: <function _ConnectionBase.__del__>"
    for code in (1, -11):
        found = classify(remains(code, log=log))
        assert (found.failure, found.guessed) == (kind, True)
        assert line.strip() in found.message
    # It died from outside: what it printed before is not why.
    assert classify(remains(-15, log=log)).failure == "preempted"


def test_the_last_telling_line_counts() -> None:
    assert of_text("CUDA out of memory\nNo space left on device\nbye") == (
        "disk",
        "No space left on device",
    )
    assert of_text("the loss is 3\nMy MemoryError counter: 0") is None


@settings(max_examples=200, deadline=None, derandomize=True, database=None)
@given(
    error=st.none()
    | st.dictionaries(
        st.sampled_from(["failure", "type", "message", "expected", "guessed", "traceback"]),
        st.none()
        | st.booleans()
        | st.text("ab\n", max_size=5)
        | st.sampled_from(CLASSES)
        | st.lists(st.none()),
    ),
    returncode=st.integers(-70, 300),
    killed_for=st.sampled_from(["", "silent"]),
    section=st.none() | st.sampled_from(["download", "step"]),
    oom_kills=st.none() | st.integers(-1, 3),
    ram_left=st.none() | st.floats(0, 1),
    log=st.text("ab: \n", max_size=9) | st.sampled_from([line for line, _ in LINES]),
)
def test_whatever_is_left_has_a_class_and_a_message(**known: Any) -> None:
    found = classify(Remains(**known))
    assert found.failure in CLASSES
    assert found.message
