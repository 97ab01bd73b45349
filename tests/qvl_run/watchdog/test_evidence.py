import os
import signal
import time
from pathlib import Path

import pytest

from qvl_run.watchdog.evidence import PAUSE, PAUSES, Evidence, gather, last_lines, stacks_in
from qvl_run.watchdog.observe import process_state
from tests.qvl_run.watchdog.real import LISTENING, python, until

HOLDS_THE_GIL = (
    LISTENING
    + """
import re, threading, time
threading.Thread(target=time.sleep, args=(600,), daemon=True, name="other").start()
def reads_the_answers():
    print("step 12", "step 13", sep="\\n")
    re.match(r"(a+)+$", "a" * 60 + "b")
reads_the_answers()
"""
)


def test_a_child_that_holds_the_gil_tells_where_it_stands(tmp_path: Path) -> None:
    log = tmp_path / "log.txt"
    with python(HOLDS_THE_GIL, log) as child:
        until(lambda: "step 13" in log.read_text())
        found = gather(child.pid, log)
        assert "reads_the_answers" in found.stacks
        assert "hread 0x" in found.stacks
        assert found.lines == ("step 12", "step 13")
        assert (found.process, found.threads, found.note) == ("running", 2, "")
        assert found.gpu_memory is None
        assert process_state(child.pid) == "running"


def test_a_stopped_child_gives_all_but_its_stacks(tmp_path: Path) -> None:
    log = tmp_path / "log.txt"
    with python(LISTENING + "print('up'); signal.pause()", log) as child:
        until(lambda: "up" in log.read_text())
        os.kill(child.pid, signal.SIGSTOP)
        until(lambda: process_state(child.pid) == "stopped")
        found = gather(child.pid, log, pause=pytest.fail)
        assert (found.stacks, found.note) == ("", "the process is stopped")
        assert (found.process, found.lines, found.threads) == ("stopped", ("up",), 1)


def test_a_child_that_does_not_listen_yet_is_not_ended_by_the_question(tmp_path: Path) -> None:
    log = tmp_path / "log.txt"
    with python("import signal; print('up'); signal.pause()", log) as child:
        until(lambda: "up" in log.read_text())
        assert "not begun to listen" in gather(child.pid, log, pause=pytest.fail).note
        assert process_state(child.pid) == "running"


def test_a_child_that_does_not_answer_is_not_waited_for_long(tmp_path: Path) -> None:
    log = tmp_path / "log.txt"
    waited: list[float] = []
    with python(
        "import signal; signal.signal(10, print); print('up'); signal.pause()", log
    ) as child:
        until(lambda: "up" in log.read_text())
        found = gather(child.pid, log, pause=waited.append)
    assert waited == [PAUSE] * PAUSES
    assert (found.stacks, found.note) == ("", "it did not answer the request for its stacks")


def test_of_nothing_nothing_is_known(tmp_path: Path) -> None:
    found = gather(None, tmp_path / "none", pause=pytest.fail)
    assert (found.process, found.threads, found.stacks, found.lines) == (None, None, "", ())
    assert found.stands_at == ""


def test_a_child_that_has_gone_is_not_asked(tmp_path: Path) -> None:
    with python("pass", tmp_path / "log") as child:
        child.wait()
        found = gather(child.pid, tmp_path / "log", pause=pytest.fail)
        assert (found.process, found.note, found.threads) == ("gone", "the process is gone", None)


def evidence(stacks: str) -> Evidence:
    return Evidence(process="running", threads=1, stacks=stacks, note="", lines=(), gpu_memory=None)


def test_the_dump_is_told_from_what_else_is_printed() -> None:
    text = (
        "loss 1.0\n"
        "Thread 0x00007f01 (most recent call first):\n"
        '  File "/a b/threading.py", line 331 in wait\n'
        "\n"
        "epoch 2\n"
        "Current thread 0x00007f02 (most recent call first):\n"
        '  File "/x/graph.py", line 7 in backward\n'
        "  ...\n"
        "loss 0.9\n"
    )
    kept = stacks_in(text).splitlines()
    assert len(kept) == 5
    assert not any("loss" in line or "epoch" in line for line in kept)
    assert evidence("\n".join(kept)).stands_at == "backward (/x/graph.py:7)"
    assert evidence("\n".join(kept[:2])).stands_at == "wait (/a b/threading.py:331)"
    assert (
        evidence("Current thread 0x1 (most recent call first):\n  <no Python frame>").stands_at
        == ""
    )


def test_the_end_of_a_huge_log_is_read_alone(tmp_path: Path) -> None:
    log = tmp_path / "log.txt"
    with log.open("wb") as file:
        file.truncate(50 * 2**30)  # a hole: nobody could read all of it in time
        file.seek(0, os.SEEK_END)
        file.write(b"\nfirst\nsecond\n")
    began = time.monotonic()
    assert last_lines(log, 2) == ["first", "second"]
    assert time.monotonic() - began < 5


@pytest.mark.parametrize(
    ("content", "lines"),
    [
        (b"", []),
        (b"one", ["one"]),
        (b"one\n\ntwo\n\n", ["one", "two"]),
        (b"a\r\nb\r\n", ["a", "b"]),
        (b" 1%\r 50%\r100%\nend", ["100%", "end"]),
        (b"\xff\xfe broken\n", ["\ufffd\ufffd broken"]),
        (b"\x1b[31mred\x00\n", ["\ufffd[31mred\ufffd"]),
        ("Größe\n".encode("utf-16-le"), None),
        (b"x" * 5000, ["x" * 500]),
    ],
)
def test_broken_lines_can_be_shown(tmp_path: Path, content: bytes, lines: list[str] | None) -> None:
    log = tmp_path / "log.txt"
    log.write_bytes(content)
    found = last_lines(log, 20)
    assert all(line.isprintable() for line in found)
    if lines is not None:
        assert found == lines


def test_lines_are_counted_from_the_end_and_never_begin_in_the_middle(tmp_path: Path) -> None:
    log = tmp_path / "log.txt"
    log.write_text("".join(f"line {n}\n" for n in range(100)), encoding="utf-8")
    assert last_lines(log, 2) == ["line 98", "line 99"]
    assert last_lines(log, 99, max_bytes=20) == ["line 98", "line 99"]
    assert last_lines(log, 0) == []
    assert last_lines(tmp_path / "none", 5) == []
    assert last_lines(tmp_path, 5) == []
