"""How each fault of the table is brought about, and what is true of it beside what its row says."""

from __future__ import annotations

import json
import os
import signal
import subprocess
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from qvl_run.recovery.rules import MAX_WITHOUT_PROGRESS
from qvl_run.run.supervise import KEPT, LONGEST_LOG
from tests.faults.runs import Ran, Site


@contextmanager
def _as_it_is(_: Path) -> Iterator[dict[str, Path]]:
    yield {}


@dataclass(frozen=True, kw_only=True)
class Case:
    """`way` is what the stage does; `fields` are the site's; `act` is what is done from outside while it runs;
    `check` what else must be true; `mend` what is done before the command is given again; `traceback`: people may see
    one; `slow`: it waits for seconds; `untold` are events that cannot be written; `within` brings what must be there
    first, and gives more fields."""

    way: str
    fields: Mapping[str, Any] = field(default_factory=dict)
    act: Callable[[Site], object] = lambda site: None
    check: Callable[[Site, Ran], object] = lambda site, ran: None
    mend: Callable[[Site], object] = lambda site: None
    traceback: bool = False
    slow: bool = False
    untold: tuple[str, ...] = ()
    within: Callable[[Path], AbstractContextManager[Mapping[str, Path]]] = _as_it_is


def _send(number: signal.Signals) -> Callable[[Site], None]:
    def act(site: Site) -> None:
        os.kill(site.waiting(), number)

    return act


def _stop_and_let_go(site: Site) -> None:
    """It is told to go on while it is stopped, so it does only once it is woken."""
    os.kill(site.waiting(), signal.SIGSTOP)
    (site.cache / "go").touch()


def _interrupt(site: Site) -> None:
    site.waiting()
    site.signal(signal.SIGINT)


def _interrupt_while_stopped(site: Site) -> None:
    os.kill(site.waiting(), signal.SIGSTOP)
    site.signal(signal.SIGINT)


def _interrupt_twice(site: Site) -> None:
    _interrupt(site)
    site.said("saving and stopping")
    site.signal(signal.SIGINT)


def _kill_the_runner(site: Site) -> None:
    site.waiting()
    site.signal(signal.SIGKILL)


def _let_go(site: Site) -> None:
    (site.cache / "go").touch()


def _saved_all_the_same(site: Site, ran: Ran) -> None:
    assert "failed (disk, a guess)" in ran.out
    assert "free some space" in ran.out
    assert (site.stored / "checkpoint-3" / "manifest.json").exists()
    (site.cache / "large").unlink()
    again = site.run()
    assert again.code == 0, again.out + again.err
    assert site.numbers("steps") == [1, 2, 3, 4, *range(4, 11)]


def _woken(site: Site, ran: Ran) -> None:
    assert [event["name"] for event in site.events("finding")] == ["stopped"]
    assert "waking it" in ran.out


def _left_one(site: Site, ran: Ran) -> None:
    assert site.events("attempt_ended")[0]["left_behind"] == 1
    assert len(site.numbers("helpers")) == 1


def _ended_by_the_next(site: Site, ran: Ran) -> None:
    assert len(site.alive()) == 1
    assert "1 processes of an earlier run lived on and were ended" in site.run().out


def _log_is_bounded(site: Site, ran: Ran) -> None:
    log = site.own / "attempts" / "work" / "attempt-0001" / "log.txt"
    assert 2 * KEPT <= log.stat().st_size < LONGEST_LOG
    assert b" of output left out here ..." in log.read_bytes()
    assert ran.out.count("prints without end") == 1


def _has_stacks(*names: str) -> Callable[[Site, Ran], None]:
    """The attempt that was ended left word of where it stood."""

    def check(site: Site, ran: Ran) -> None:
        killed = site.events("killed")
        assert len(killed) == 1
        evidence = json.loads(Path(killed[0]["evidence"]).read_text())
        for name in names:
            assert name in evidence["stacks"], evidence

    return check


def _says(*texts: str) -> Callable[[Site, Ran], None]:
    def check(site: Site, ran: Ran) -> None:
        for text in texts:
            assert text in ran.out + ran.err

    return check


def _logged(text: str) -> Callable[[Site, Ran], None]:
    def check(site: Site, ran: Ran) -> None:
        assert text in site.log

    return check


def _smaller_and_remembered(site: Site, ran: Ran) -> None:
    key = "training.per_device_train_batch_size"
    assert [event["changes"].get(key) for event in site.events("attempt_started")] == [None, 4, 2]
    last = site.events("adapted")[-1]["changes"]
    assert last == {key: 2, "training.gradient_accumulation_steps": 8}
    assert "the global batch stays 16" in ran.out
    plan = site.run("plan")
    assert f"{key} is 2: lowered by recovery" in plan.out
    anew = site.run("run", "--from-scratch")
    assert anew.code == 0, anew.out
    assert site.events("attempt_started")[-1]["changes"][key] == 2
    assert len(site.events("attempt_failed")) == 2, "another start begins with what has worked"


def _no_further_than(restarts: int) -> Callable[[Site, Ran], None]:
    def check(site: Site, ran: Ran) -> None:
        assert len(site.events("restart")) == restarts
        assert site.events("gave_up")

    return check


def _not_loaded(site: Site, ran: Ran) -> None:
    assert "QVL205" in ran.err
    assert "there_is_no_such_package" in ran.err
    assert not site.own.exists()


def _killed_by_the_kernel(site: Site, ran: Ran) -> None:
    assert "the kernel ended the process for want of memory" in ran.out


@contextmanager
def _small_disk(folder: Path) -> Iterator[dict[str, Path]]:
    """A disk of 90 MiB for scratch."""
    disk = folder / "disk"
    disk.mkdir(parents=True)
    mount = ["mount", "-t", "tmpfs", "-o", "size=90m", "none", str(disk)]
    try:
        done = subprocess.run(mount, check=False, capture_output=True, text=True)
    except OSError as error:
        pytest.skip(f"no disk can be mounted: {error}")
    if done.returncode:
        pytest.skip(f"no disk can be mounted: {done.stderr}")
    try:
        yield {"scratch": disk}
    finally:
        subprocess.run(["umount", "--lazy", str(disk)], check=True)


def _of(way: str, **more: Any) -> Case:
    return Case(way=way, **more)


_SOON = {"speed": 40.0, "recovery": "default"}
"""With the deadlines as they are built in, so that silence ends nothing before its time to end is over."""
_IN_TIME = {"speed": 1.0}
"""At the true speed what would end it later comes after the longest that a run may take here."""

CASES: Mapping[str, Case] = {
    "sigkill": _of("wait", act=_send(signal.SIGKILL)),
    "sigterm": _of("wait", act=_send(signal.SIGTERM)),
    "sigstop": _of("wait", act=_stop_and_let_go, check=_woken, slow=True),
    "sigkill_again": _of(
        "kill_itself",
        fields={"times": MAX_WITHOUT_PROGRESS + 1},
        check=_no_further_than(MAX_WITHOUT_PROGRESS),
    ),
    "exit_code": _of("exit_code", check=_says("sys.exit(3) was called"), traceback=True),
    "exit_zero": _of("exit_zero", check=_says("sys.exit(0) was called"), traceback=True),
    "os_exit": _of("os_exit", check=_says("ended with code 7 and said nothing")),
    "os_exit_zero": _of("os_exit_zero", check=_says("no whole output")),
    "abort": _of("abort", check=_logged("Fatal Python error: Aborted")),
    "segfault": _of("segfault", check=_logged("Fatal Python error: Segmentation fault")),
    "torn_error": _of("torn_error", check=_says("ended with code 1 and said nothing")),
    "orphan": _of("orphan", check=_left_one),
    "orphan_done": _of("orphan_done", check=_left_one),
    "escaped": _of("escaped", check=_ended_by_the_next),
    "exception": _of("exception", check=_says("RuntimeError: asked to fail"), traceback=True),
    "exception_again": _of(
        "exception", fields={"times": 2}, check=_no_further_than(1), traceback=True
    ),
    "no_text": _of("no_text", check=_says("NoText"), traceback=True),
    "unpicklable": _of("unpicklable", check=_says("with a lock inside"), traceback=True),
    "thread_error": _of("thread_error", check=_logged("asked to fail in a thread")),
    "flood": _of("flood", check=_log_is_bounded),
    "nan": _of("nan", check=_says("try a smaller learning_rate")),
    "loop": _of("loop", check=_has_stacks("in _loop"), slow=True),
    "gil": _of("gil", check=_has_stacks("in _hold_the_interpreter"), slow=True),
    "thread_wait": _of("thread_wait", check=_has_stacks("in _forever"), slow=True),
    "teardown": _of("teardown", fields=_SOON, traceback=True, slow=True),
    "teardown_done": _of("teardown_done", fields=_SOON, slow=True),
    "oom": _of("oom", fields={"times": 9}, check=_smaller_and_remembered, traceback=True),
    "oom_text": _of("oom_text", check=_says("micro-batch 8 -> 4"), traceback=True),
    "oom_smallest": _of(
        "oom_always",
        fields={"times": 9, "batch": 2},
        check=_says("nothing is left that could be made smaller"),
        traceback=True,
    ),
    "host_oom": _of("host_oom", fields={"memory": 220 * 2**20}, check=_killed_by_the_kernel),
    "memory_error": _of("memory_error", traceback=True),
    "disk_full": _of("disk_full", check=_says("No space left on device"), traceback=True),
    "disk_room": _of("disk_room", check=_says("free some space"), within=_small_disk),
    "disk_whole": _of(
        "disk_whole", check=_saved_all_the_same, untold=("attempt_failed",), within=_small_disk
    ),
    "disk_text": _of("disk_text", check=_says("zstd: error 70")),
    "drive_lost": _of("drive_lost", fields={"times": 3}, traceback=True),
    # Three by its rule, and the start that follows: it counts too.
    "drive_gone": _of("drive_lost", fields={"times": 4}, check=_no_further_than(4), traceback=True),
    "download_failed": _of("download_failed", traceback=True),
    "download_stall": _of("download_stall", check=_has_stacks("in _stall"), slow=True),
    "config": _of("config", check=_says("lora.target_modules names no layer")),
    "import_inside": _of("import_inside", check=_says("ModuleNotFoundError"), traceback=True),
    "import_at_load": _of("none", fields={"uses": "unimportable"}, check=_not_loaded),
    "data": _of("data", check=_says("rows.jsonl:17: no image called a.png")),
    "max_restarts": _of(
        "kill_itself",
        fields={"times": 2, "recovery": json.dumps({"max_restarts": 1})},
        check=_no_further_than(1),
    ),
    "recovery_none": _of(
        "exception", fields={"recovery": "none"}, check=_says("recovery: none"), traceback=True
    ),
    "interrupt": _of("wait", act=_interrupt, mend=_let_go),
    "interrupt_stopped": _of("wait", fields=_IN_TIME, act=_interrupt_while_stopped, mend=_let_go),
    "interrupt_twice": _of("deaf", fields=_IN_TIME, act=_interrupt_twice),
    "interrupt_ignored": _of(
        "deaf",
        fields={"speed": 100.0},
        act=_interrupt,
        check=_says("it has not saved within 2 min 0 s"),
        slow=True,
    ),
    "runner_killed": _of("wait", act=_kill_the_runner, mend=_let_go),
}
