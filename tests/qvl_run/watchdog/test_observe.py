import os
import signal
import time
from pathlib import Path

import psutil
import pytest

from qvl_run.run.attempt import AttemptFolder
from qvl_run.watchdog import observe
from qvl_run.watchdog.observe import Observer, process_state
from qvl_run.watchdog.snapshot import FIRST, Around, Child, Known, Report
from qvl_run.watchdog.watch import Watch
from tests.qvl_run.watchdog.real import python, until

PROGRESS = {"section": "step", "step": 3, "total": 9, "metrics": {}, "seconds": 1.5, "beat": 12}


def test_a_real_child_is_seen_through_its_life(tmp_path: Path) -> None:
    folder = AttemptFolder(tmp_path)
    with python("import signal; signal.pause()", tmp_path / "log") as child:
        eyes = Observer(folder, pid=child.pid, known=lambda: Known(session_left=7.0))
        until(lambda: eyes.child().process == "running")
        assert eyes.child() == Child(report=FIRST, process="running")
        folder.write_progress(PROGRESS)
        assert eyes.child() == Child(
            report=Report(section="step", step=3, total=9, beat=12),
            process="running",
            progress=PROGRESS,
        )
        around = eyes.around()
        assert around.session_left == 7.0
        assert around.gpu_use is None
        for size in (around.disk_free, around.tree_rss, around.ram_available):
            assert size is not None
            assert size > 2**20
        assert around.ram_total is not None
        assert around.ram_available is not None
        assert around.ram_available < around.ram_total
        os.kill(child.pid, signal.SIGSTOP)
        until(lambda: eyes.child().process == "stopped")
        os.kill(child.pid, signal.SIGCONT)
        until(lambda: eyes.child().process == "running")
        child.kill()
        until(lambda: eyes.child().process == "gone")  # a zombie until its end is collected
        child.wait()
        assert eyes.child().process == "gone"
        assert eyes.around().tree_rss is None


def test_memory_is_that_of_the_whole_tree(tmp_path: Path) -> None:
    big = "x = bytearray(80 * 2**20); print('big'); input()"
    # It reads from a pipe that ends with its parent, so that it does not outlive the test.
    code = f"import subprocess, sys; subprocess.Popen([sys.executable, '-uc', {big!r}], stdin=subprocess.PIPE).wait()"
    log = tmp_path / "log"
    with python(code, log) as child:
        eyes = Observer(AttemptFolder(tmp_path), pid=child.pid)
        until(lambda: "big" in log.read_text())
        assert (eyes.around().tree_rss or 0) > 80 * 2**20


@pytest.mark.parametrize(
    "text",
    [
        "",
        "{",
        "[]",
        "{}",
        '{"section": 3, "beat": 1}',
        '{"section": "step", "beat": "1"}',
        '{"section": "step", "beat": true}',
        "\xff",
    ],
)
def test_a_progress_file_that_is_not_whole_is_not_seen(tmp_path: Path, text: str) -> None:
    (tmp_path / "progress.json").write_text(text, encoding="latin-1")
    assert Observer(AttemptFolder(tmp_path), pid=None).child().report is None


def test_a_progress_file_that_cannot_be_read_is_not_seen(tmp_path: Path) -> None:
    (tmp_path / "progress.json").mkdir()  # reading it raises, for root too
    child = Observer(AttemptFolder(tmp_path), pid=os.getpid()).child()
    assert child == Child(process="running")


def test_where_all_fails_all_is_unknown(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(*_: object) -> None:
        raise PermissionError

    for name in ("Process", "virtual_memory"):
        monkeypatch.setattr(observe.psutil, name, fails)

    def knows() -> Known:
        raise ValueError

    eyes = Observer(AttemptFolder(tmp_path / "not there"), pid=os.getpid(), known=knows)
    assert eyes.child() == Child()
    assert eyes.around() == Around()


def test_a_process_that_is_not_known_is_unknown() -> None:
    assert process_state(None) is None
    assert process_state(os.getpid()) == "running"


@pytest.mark.parametrize(
    ("status", "state"),
    [
        (psutil.STATUS_SLEEPING, "running"),
        (psutil.STATUS_DISK_SLEEP, "running"),
        (psutil.STATUS_DEAD, "gone"),
        (psutil.STATUS_TRACING_STOP, None),  # somebody looks at it with a debugger
    ],
)
def test_states_that_are_hard_to_bring_about(
    monkeypatch: pytest.MonkeyPatch, status: str, state: str | None
) -> None:
    monkeypatch.setattr(psutil.Process, "status", lambda _: status)
    assert process_state(os.getpid()) == state


def test_a_watch_over_a_real_child_wakes_it(tmp_path: Path) -> None:
    now = [0.0]
    with python("import signal; signal.pause()", tmp_path / "log") as child:
        watch = Watch(eyes=Observer(AttemptFolder(tmp_path), pid=child.pid), clock=lambda: now[0])
        os.kill(child.pid, signal.SIGSTOP)
        until(lambda: process_state(child.pid) == "stopped")
        acts = []
        for _ in range(40):
            now[0] += 2.0
            action = watch.look().action
            acts += [action.act] if action else []
        assert acts == ["wake"]


def test_a_look_is_cheap(tmp_path: Path) -> None:
    AttemptFolder(tmp_path).write_progress(PROGRESS)
    watch = Watch(eyes=Observer(AttemptFolder(tmp_path), pid=os.getpid()), clock=time.monotonic)
    began = time.process_time()
    for _ in range(200):
        watch.look()
    assert (time.process_time() - began) / 200 < 0.01  # 5 % of one core at 5 looks a second
