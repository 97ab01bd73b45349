"""The drive's faults, as a client process sees them."""

from __future__ import annotations

import errno
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Literal

import pytest

from tests.drive.mount import CannotMount, MountedDrive

TRY = """
import os, sys
from pathlib import Path
root, act = Path(sys.argv[1]), sys.argv[2]
acts = {
    "stat": lambda: (root / "a").stat(),
    "stat root": lambda: root.stat(),
    "list": lambda: os.listdir(root / "d"),
    "list root": lambda: os.listdir(root),
    "read": lambda: (root / "a").read_bytes(),
    "write": lambda: (root / "a").write_bytes(b"x" * 1000),
    "create": lambda: (root / "new").write_bytes(b"x" * 1000),
    "mkdir": lambda: (root / "made").mkdir(),
    "rename": lambda: (root / "a").rename(root / "b"),
    "rename folder": lambda: (root / "d").rename(root / "e"),
    "unlink": lambda: (root / "a").unlink(),
    "rmdir": lambda: (root / "d").rmdir(),
    "truncate": lambda: os.truncate(root / "a", 0),
    "statvfs": lambda: os.statvfs(root),
    "getxattr": lambda: os.getxattr(root / "a", "user.x"),
    "symlink": lambda: (root / "link").symlink_to("a"),
    "sync folder": lambda: os.fsync(os.open(root, os.O_RDONLY)),
}
try:
    acts[act]()
except OSError as error:
    print(error.errno)
else:
    print(0)
"""
ACTS = [line.split('"')[1] for line in TRY.splitlines() if ": lambda: " in line]
LOGGER = """
import sys, time
file = open(sys.argv[1], "w")
file.write("one\\n"); file.flush()
print("open", flush=True)
sys.stdin.read()
"""


def outcome(drive: MountedDrive, act: str) -> int:
    """The errno that a process of its own gets."""
    done = drive.run(sys.executable, "-c", TRY, drive.path, act)
    assert done.returncode == 0, done.stderr
    return int(done.stdout)


def fill(drive: MountedDrive, **files: str) -> None:
    for name, text in files.items():
        (drive.path / name).write_text(text)


def tree(folder: Path) -> dict[str, str]:
    return {
        str(path.relative_to(folder)): path.read_text()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


def test_everything_works_where_nothing_is_wrong(drive: MountedDrive) -> None:
    root = drive.path
    (root / "d").mkdir()
    fill(drive, a="1234567890")
    with (root / "a").open("r+b") as file:
        file.seek(5)
        file.write(b"x" * 300_000)
        os.fsync(file.fileno())
    with (root / "a").open("ab") as file:
        file.write(b"end")
    assert (root / "a").stat().st_size == 300_008
    assert (root / "a").read_bytes() == b"12345" + b"x" * 300_000 + b"end"
    os.truncate(root / "a", 3)
    (root / "a").rename(root / "d" / "b")
    assert (os.listdir(root), os.listdir(root / "d")) == (["d"], ["b"])
    os.utime(root / "d" / "b", (5, 6))
    assert (root / "d" / "b").stat().st_mtime == 6
    (root / "d" / "b").touch()
    assert abs((root / "d" / "b").stat().st_mtime - time.time()) < 100
    with pytest.raises(OSError, match="No data available"):
        os.getxattr(root / "d" / "b", "user.x")
    with pytest.raises(OSError, match="not empty"):
        (root / "d").rmdir()
    (root / "d" / "b").write_text("other")
    assert (root / "d" / "b").read_text() == "other"
    (root / "d" / "b").unlink()
    (root / "d").rmdir()
    assert os.listdir(root) == []
    assert root.stat().st_dev != root.parent.stat().st_dev
    assert any(" fuse.drive " in line for line in Path("/proc/mounts").read_text().splitlines())


@pytest.mark.parametrize("how", [errno.ENOTCONN, errno.EIO])
def test_a_dead_drive_fails_every_call(drive: MountedDrive, how: int) -> None:
    (drive.path / "d").mkdir()
    fill(drive, a="text")
    drive.die(how)
    assert {act: outcome(drive, act) for act in ACTS} == dict.fromkeys(ACTS, how)
    drive.revive()
    assert (outcome(drive, "read"), outcome(drive, "list root")) == (0, 0)
    assert tree(drive.view) == {"a": "text"}


def test_a_handle_that_was_open_fails_too(drive: MountedDrive) -> None:
    file = os.open(drive.path / "a", os.O_RDWR | os.O_CREAT)
    os.write(file, b"12")
    drive.die()
    for call in (lambda: os.write(file, b"3"), lambda: os.fsync(file), lambda: os.close(file)):
        with pytest.raises(OSError, match="Transport endpoint") as failure:
            call()
        assert failure.value.errno == errno.ENOTCONN


@pytest.mark.parametrize(("how", "live"), [("ENOENT", set()), ("EMPTY", {"list root"})])
def test_a_drive_can_deny_that_anything_is_there(
    drive: MountedDrive, how: Literal["ENOENT", "EMPTY"], live: set[str]
) -> None:
    (drive.path / "d").mkdir()
    fill(drive, a="text")
    drive.die(how)
    live = live | {"stat root", "statvfs"}
    found = {act: outcome(drive, act) for act in ACTS if act != "sync folder"}
    assert found == {act: 0 if act in live else errno.ENOENT for act in found}
    if how == "EMPTY":
        assert os.listdir(drive.path) == []
    drive.revive()
    assert outcome(drive, "read") == 0


def test_a_crashed_drive_is_answered_for_by_the_kernel(drive: MountedDrive) -> None:
    fill(drive, a="text")
    drive.crash()
    assert (outcome(drive, "stat"), outcome(drive, "stat root")) == (errno.ENOTCONN, errno.ENOTCONN)
    assert drive.mounted
    drive.mount()
    assert outcome(drive, "read") == 0
    drive.unmount()
    assert os.listdir(drive.path) == []


def test_death_at_each_call(drive: MountedDrive) -> None:
    """A sweep as it is meant: count once, then die at each call in turn."""
    work = (
        "import os, sys; os.chdir(sys.argv[1]); os.mkdir('w'); f = open('w/a', 'w'); f.write('x'); f.close();"
        " os.rename('w/a', 'w/b'); os.truncate('w/b', 0); os.unlink('w/b'); os.rmdir('w')"
    )
    drive.calls(reset=True)
    assert drive.run(sys.executable, "-c", work, drive.path).returncode == 0
    whole = drive.calls(reset=True)
    assert whole.changing == 7
    assert whole.kinds["rename"] == whole.kinds["flush"] == 1
    died = []
    for call in range(1, whole.changing + 1):
        drive.die_at(call, changing=True)
        done = drive.run(sys.executable, "-c", work, drive.path)
        assert "[Errno 107]" in done.stderr
        died.append(drive.calls().died)
        drive.revive()
        drive.run("rm", "-rf", drive.path / "w")
    assert died == [
        "mkdir /w",
        "create /w/a",
        "write /w/a",
        "rename /w/a",
        "truncate /w/b",
        "unlink /w/b",
        "rmdir /w",
    ]
    drive.die_at(whole.all)
    assert "[Errno 107]" in drive.run(sys.executable, "-c", work, drive.path).stderr
    drive.revive()
    drive.run("rm", "-rf", drive.path / "w")
    drive.die_at(whole.all + 1)
    assert drive.run(sys.executable, "-c", work, drive.path).returncode == 0


@pytest.mark.parametrize(("limit", "number"), [("full", errno.ENOSPC), ("quota", errno.EDQUOT)])
def test_no_room(drive: MountedDrive, limit: str, number: int) -> None:
    getattr(drive, limit)(after=1500)
    assert (outcome(drive, "write"), outcome(drive, "create")) == (0, number)
    assert (outcome(drive, "mkdir"), outcome(drive, "unlink")) == (0, 0)
    drive.room()
    assert outcome(drive, "create") == 0


def test_quota_that_nobody_is_told_of(drive: MountedDrive) -> None:
    drive.lose(after=1500)
    assert (outcome(drive, "write"), outcome(drive, "create")) == (0, 0)
    assert drive.upload() == [("a", "whole")]
    assert tree(drive.path) == {"a": "x" * 1000, "new": "x" * 1000}
    assert tree(drive.cloud) == {"a": "x" * 1000}
    drive.room()
    assert drive.upload() == [("new", "whole")]


def test_slow_listing(drive: MountedDrive) -> None:
    drive.slow(300)
    started = time.monotonic()
    os.listdir(drive.path)
    assert 0.3 <= time.monotonic() - started < 5


def test_reported_room(drive: MountedDrive) -> None:
    drive.free(10 * 1024**3)
    found = os.statvfs(drive.path)
    assert found.f_bavail * found.f_frsize == 10 * 1024**3
    drive.free(0)
    assert os.statvfs(drive.path).f_bavail == 0
    drive.free(None)
    assert os.statvfs(drive.path).f_bavail > 0


def test_the_next_machine_sees_what_was_uploaded(drive: MountedDrive) -> None:
    (drive.path / "d").mkdir()
    (drive.path / "empty folder").mkdir()
    fill(drive, whole="12345678", never="12", half="12345678", empty="12345678")
    (drive.path / "d" / "in").write_text("old")
    assert drive.upload("whole") == [("whole", "whole")]
    drive.upload("half", how="half")
    drive.upload("empty", how="empty")
    assert drive.upload("d/*", "empty *") == [("d/in", "whole"), ("empty folder", "folder")]
    (drive.path / "d" / "in").write_text("new")
    assert tree(drive.path)["d/in"] == "new"
    drive.die()
    drive.new_machine()
    assert tree(drive.path) == {"d/in": "old", "empty": "", "half": "1234", "whole": "12345678"}
    assert (drive.path / "empty folder").is_dir()
    assert drive.upload() == []


def test_random_uploads_follow_their_seed(drive: MountedDrive) -> None:
    fill(drive, **{f"f{number}": "12345678" for number in range(30)})
    first = drive.upload(seed=2, share=0.5)
    assert 5 < len(first) < 25
    assert {part for _, part in first} == {"whole", "half", "empty"}
    assert [name for name, _ in first] != sorted(name for name, _ in first)
    sizes = {"whole": 8, "half": 4, "empty": 0}
    assert {name: len(text) for name, text in tree(drive.cloud).items()} == {
        n: sizes[p] for n, p in first
    }
    whole = {name for name, part in first if part == "whole"}
    assert {name for name, _ in drive.upload()} == {f"f{n}" for n in range(30)} - whole
    assert tree(drive.cloud) == tree(drive.path)
    fresh = MountedDrive(drive.path.parent / "second")
    with fresh:
        fill(fresh, **{f"f{number}": "12345678" for number in range(30)})
        assert fresh.upload(seed=2, share=0.5) == first


def test_deleted_is_deleted_everywhere(drive: MountedDrive) -> None:
    (drive.path / "d").mkdir()
    (drive.path / "d" / "a").write_text("x")
    drive.upload()
    (drive.path / "d" / "a").unlink()
    assert tree(drive.cloud) == {}
    (drive.path / "d").rmdir()
    assert os.listdir(drive.cloud) == []


def test_a_rename_is_uploaded_later_and_file_by_file(drive: MountedDrive) -> None:
    (drive.path / "d").mkdir()
    fill(drive, a="new", b="old")
    (drive.path / "d" / "x").write_text("x")
    (drive.path / "d" / "y").write_text("y")
    drive.upload()
    (drive.path / "a").replace(drive.path / "b")
    (drive.path / "d").rename(drive.path / "e")
    assert tree(drive.path) == {"b": "new", "e/x": "x", "e/y": "y"}
    assert tree(drive.cloud) == {"a": "new", "b": "old", "d/x": "x", "d/y": "y"}
    drive.upload("b", "e/x")
    assert tree(drive.cloud) == {"b": "new", "d/y": "y", "e/x": "x"}
    (drive.path / "e" / "y").unlink()
    drive.upload()
    assert sorted(os.listdir(drive.cloud)) == ["b", "e"]
    assert tree(drive.cloud) == {"b": "new", "e/x": "x"}


def test_an_open_file_is_never_uploaded(drive: MountedDrive) -> None:
    with subprocess.Popen(
        [sys.executable, "-c", LOGGER, drive.path / "log"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    ) as logger:
        assert logger.stdout is not None
        assert logger.stdin is not None
        logger.stdout.readline()
        assert (drive.path / "log").read_text() == "one\n"
        assert drive.upload() == []
        logger.stdin.close()
        logger.wait()
        assert drive.upload() == [("log", "whole")]
    with (drive.path / "log").open():
        assert drive.upload("log", how="empty") == [("log", "empty")]


def test_many_handles_closed_at_once_are_seen_closed(drive: MountedDrive) -> None:
    code = (
        "import os, sys; os.chdir(sys.argv[1]);"
        " [os.open(str(n), os.O_WRONLY | os.O_CREAT) for n in range(100)]; os.kill(os.getpid(), 9)"
    )
    for _ in range(3):
        assert drive.run(sys.executable, "-c", code, drive.path).returncode == -signal.SIGKILL
        assert len(drive.upload(how="empty")) == 100


def test_remounting_remembers_what_was_uploaded(drive: MountedDrive) -> None:
    fill(drive, a="a", b="b")
    drive.upload("a")
    drive.unmount()
    assert not drive.mounted
    drive.mount()
    assert tree(drive.path) == {"a": "a", "b": "b"}
    assert drive.upload() == [("b", "whole")]


def test_a_wrong_command_is_an_error_and_no_more(drive: MountedDrive) -> None:
    fill(drive, a="a")
    with pytest.raises(RuntimeError, match="KeyError"):
        drive.upload(how="most")  # type: ignore[arg-type]
    assert outcome(drive, "read") == 0


def test_nothing_waits_for_ever(drive: MountedDrive) -> None:
    assert drive._process is not None
    os.kill(drive._process.pid, signal.SIGSTOP)
    started = time.monotonic()
    with pytest.raises(subprocess.TimeoutExpired):
        drive.run("ls", drive.path, timeout=1)
    assert time.monotonic() - started < 10


def test_the_watchdog_ends_a_hang_in_this_process(tmp_path: Path) -> None:
    with mountable(tmp_path, limit=1) as drive:
        assert drive._process is not None
        os.kill(drive._process.pid, signal.SIGSTOP)
        with pytest.raises(OSError, match="connect"):
            os.listdir(drive.path)
    assert not drive.mounted


def test_nothing_stays_mounted(tmp_path: Path) -> None:
    """Neither with a file open on a dead drive, nor where the tests themselves were killed."""
    with mountable(tmp_path) as drive:
        held = os.open(drive.path / "a", os.O_WRONLY | os.O_CREAT)
        drive.die()
    assert not drive.mounted
    with pytest.raises(OSError, match="not connected"):
        os.close(held)
    code = (
        "import os, sys; from pathlib import Path; from tests.drive.mount import MountedDrive;"
        " MountedDrive(Path(sys.argv[1])).mount(); os.kill(os.getpid(), 9)"
    )
    root = Path(__file__).parents[2]
    subprocess.run([sys.executable, "-c", code, tmp_path], cwd=root, timeout=30, check=False)
    for _ in range(100):
        if not drive.mounted:
            return
        time.sleep(0.1)
    drive.unmount()
    pytest.fail("still mounted")


def mountable(folder: Path, *, limit: float = 300) -> MountedDrive:
    """A drive to be mounted in this folder; skips the test where that cannot be done."""
    drive = MountedDrive(folder, limit=limit)
    try:
        drive.mount()
    except CannotMount as error:
        pytest.skip(str(error))
    return drive
