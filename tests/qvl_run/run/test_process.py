"""An attempt's process and all that it starts: how it ends is told, and nothing of it lives on."""

import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest

from qvl_run.run.process import ATTEMPT, ChildProcess, end_leftovers, environment

DEADLINE = 20.0
"""Seconds after which a process that should have come somewhere counts as lost."""

Start = Callable[[str], ChildProcess]


@pytest.fixture
def start(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Start]:
    """Starts an attempt whose process is a shell with a script of ours in Python's place."""
    shell = tmp_path / "shell"
    shell.write_text(f'#!/bin/sh\ncd "{tmp_path}"\n. ./script\n')
    shell.chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(shell))
    started: list[ChildProcess] = []

    def begin(script: str) -> ChildProcess:
        (tmp_path / "script").write_text(script)
        process = ChildProcess(
            tmp_path / "attempt-0001", log=tmp_path / "log.txt", env={"MINE": "7"}
        )
        started.append(process)
        return process

    yield begin
    for process in started:
        process.kill()


def until(true: Callable[[], object]) -> None:
    end = time.monotonic() + DEADLINE
    while not true():
        assert time.monotonic() < end, "it has not come"
        time.sleep(0.01)


def alive(pid: int) -> bool:
    try:
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


@pytest.mark.parametrize(
    ("script", "code"),
    [
        ("exit 0", 0),
        ("exit 75", 75),
        ("kill -KILL $$", -9),
        ("kill -TERM $$", -15),
        ("(exit 3)", 3),
    ],
)
def test_how_it_ended_is_told_as_often_as_it_is_asked(start: Start, script: str, code: int) -> None:
    process = start(script)
    assert process.wait(DEADLINE) == code
    process.kill()
    process.ask_to_stop()
    process.wake()
    assert process.wait(0) == code
    assert process.left_behind == 0


def test_what_it_prints_and_is_told(start: Start, tmp_path: Path) -> None:
    assert start('echo "$MINE $QVL_ATTEMPT"; echo no >&2').wait(DEADLINE) == 0
    assert (tmp_path / "log.txt").read_text() == f"7 {tmp_path / 'attempt-0001'}\nno\n"


def test_it_is_waited_for_no_longer_than_said_and_stops_as_asked(
    start: Start, tmp_path: Path
) -> None:
    process = start('trap "exit 75" TERM; touch ready; while :; do sleep 0.01; done')
    until((tmp_path / "ready").exists)
    assert process.wait(0) is None
    process.ask_to_stop()
    assert process.wait(DEADLINE) == 75


def test_what_it_leaves_behind_is_ended_with_it_and_counted(start: Start, tmp_path: Path) -> None:
    process = start("sleep 900 & echo $! > one; sleep 900 & echo $! > two; exit 3")
    assert process.wait(DEADLINE) == 3
    assert process.left_behind == 2
    left = [int((tmp_path / name).read_text()) for name in ("one", "two")]
    until(lambda: not any(map(alive, left)))


def test_a_kill_ends_all_of_it_and_counts_nothing_as_left_behind(
    start: Start, tmp_path: Path
) -> None:
    process = start('trap "" TERM; sleep 900 & echo $! > one; touch ready; wait')
    until((tmp_path / "ready").exists)
    process.ask_to_stop()
    process.kill()
    assert process.wait(0) == -9
    assert process.left_behind == 0
    until(lambda: not alive(int((tmp_path / "one").read_text())))


def test_one_that_was_stopped_is_woken(start: Start) -> None:
    process = start("kill -STOP $$; exit 5")
    until(lambda: psutil.Process(process.pid).status() == psutil.STATUS_STOPPED)
    assert process.wait(0) is None
    process.wake()
    assert process.wait(DEADLINE) == 5


def test_only_what_attempts_of_this_job_left_is_ended(tmp_path: Path) -> None:
    scratch = tmp_path / "scratch"
    places = {
        "mine": scratch / "attempts" / "sft" / "attempt-0001",
        "another job's": tmp_path / "scratch-2" / "attempt-0001",
        "nobody's": None,
    }
    started = {}
    for name, place in places.items():
        env = {**os.environ} | ({ATTEMPT: str(place)} if place else {})
        started[name] = subprocess.Popen(["sleep", "900"], env=env, start_new_session=True)
    try:
        assert end_leftovers(scratch) == 1
        assert started["mine"].wait(DEADLINE) == -9
        assert [started[name].poll() for name in places if name != "mine"] == [None, None]
        assert end_leftovers(scratch) == 0
    finally:
        for process in started.values():
            process.kill()
            process.wait()


@pytest.mark.parametrize(
    ("set_to", "seen"),
    [(None, "0"), ("1", "1"), ("2,0", "2"), ("", ""), ("-1", "-1"), ("GPU-ab,GPU-cd", "GPU-ab")],
)
def test_a_stage_sees_one_gpu(
    monkeypatch: pytest.MonkeyPatch, set_to: str | None, seen: str
) -> None:
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    if set_to is not None:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", set_to)
    assert environment(None)["CUDA_VISIBLE_DEVICES"] == seen


def test_threads_that_wait_leave_the_cores_to_others(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("GOMP_SPINCOUNT", "OMP_WAIT_POLICY"):
        monkeypatch.delenv(name, raising=False)
    assert int(environment(None)["GOMP_SPINCOUNT"]) > 0
    monkeypatch.setenv("OMP_WAIT_POLICY", "ACTIVE")
    assert "GOMP_SPINCOUNT" not in environment(None)


def test_what_the_user_has_set_stays(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("HF_HUB_CACHE", raising=False)
    monkeypatch.delenv("HF_DATASETS_CACHE", raising=False)
    monkeypatch.setenv("CUDA_DEVICE_ORDER", "FASTEST_FIRST")
    monkeypatch.setenv("HF_HOME", "/mine")
    env = environment(Path("/drive"))
    assert "CUDA_DEVICE_ORDER" not in env
    assert "HF_HUB_CACHE" not in env
    monkeypatch.delenv("HF_HOME")
    assert environment(Path("/drive"))["HF_HUB_CACHE"] == "/drive/hf_cache"


@pytest.mark.parametrize("theirs", ["PYTORCH_ALLOC_CONF", "PYTORCH_CUDA_ALLOC_CONF"])
def test_the_allocator_is_set_unless_the_user_has(
    theirs: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("PYTORCH_ALLOC_CONF", "PYTORCH_CUDA_ALLOC_CONF"):
        monkeypatch.delenv(name, raising=False)
    assert environment(None)["PYTORCH_ALLOC_CONF"] == "expandable_segments:True"
    monkeypatch.setenv(theirs, "max_split_size_mb:64")
    assert "PYTORCH_ALLOC_CONF" not in environment(None)
