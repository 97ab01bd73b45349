"""A file system with the faults of a mounted Google Drive.

`python -m tests.drive.fuse_drive MOUNTPOINT BACKING CONTROL`: `BACKING/view` is what this machine sees through the
mount, its own writes, all at once. `BACKING/cloud` is what has been uploaded, and all that the next machine gets.
Nothing goes from one to the other unless it is told to.

CONTROL is a unix socket, a path or `@name`. It takes one JSON object a line, `{"do": "die", "how": "ENOENT"}`, and
answers each with one line, `{"ok": ...}` or `{"error": ...}`. The commands are the methods `do_...` below. The file
system is unmounted when standard input ends.
"""

from __future__ import annotations

import contextlib
import errno
import filecmp
import functools
import json
import os
import random
import shutil
import socketserver
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any, Concatenate, Literal, ParamSpec, TypeVar

import mfusepy  # type: ignore[import-untyped,unused-ignore]

P = ParamSpec("P")
R = TypeVar("R")

How = int | Literal["ENOENT", "EMPTY"]
Part = Literal["whole", "half", "empty"]

PARTS: tuple[Part, ...] = ("whole", "half", "empty")
BARRIER = "user.drive.barrier"
"""An attribute of the root: who has read it knows that all requests made before have been served."""
CHANGING = frozenset(
    {"create", "write", "truncate", "mkdir", "rmdir", "unlink", "rename"}
    | {"symlink", "link", "utimens", "chmod", "chown"}
)
BY_HANDLE = frozenset({"read", "write", "flush", "fsync"})
LONGEST_LISTING = 2000
"""Milliseconds."""
NOW, OMIT = (1 << 30) - 1, (1 << 30) - 2
"""UTIME_NOW and UTIME_OMIT of utimensat(2), as nanoseconds."""


@dataclass
class Fate:
    """What became of a file of the view. Kept by inode, so that it follows the file when it is renamed."""

    cloud: str | None = None
    """Its name in the cloud; another than in the view until a rename has been uploaded."""
    current: bool = False
    """Whether the cloud has all of its present content."""
    lost: bool = False
    """Written past the account's quota: never uploaded."""


@dataclass
class Deadline:
    """When to die: at the call that makes `left` zero."""

    left: int
    changing: bool
    how: How


def _counted(
    method: Callable[Concatenate[Drive, str | None, P], R],
) -> Callable[Concatenate[Drive, str | None, P], R]:
    """A file system call: one at a time, counted, and failing where the drive is dead."""

    @functools.wraps(method)
    def call(self: Drive, path: str | None, /, *args: P.args, **kwargs: P.kwargs) -> R:
        with self.lock:
            self.arrive(method.__name__, path)
            return method(self, path, *args, **kwargs)

    return call


class Drive:
    """The calls of the file system, named as in libfuse, and the commands that steer it."""

    use_ns = True

    def __init__(self, backing: Path) -> None:
        self.lock = threading.RLock()
        self._view, self._cloud = backing / "view", backing / "cloud"
        for folder in (self._view, self._cloud):
            folder.mkdir(parents=True, exist_ok=True)
        self._fates: dict[int, Fate] = {}
        self._writers: dict[int, int] = {}  # descriptor -> inode
        self._calls: Counter[str] = Counter()
        self._death: How | None = None
        self._died: str | None = None
        self._deadline: Deadline | None = None
        self._limit: int | Literal["lost"] | None = None
        self._left = 0
        self._listing = 0
        self._free: int | None = None
        self._recall()

    # What the kernel asks.

    def arrive(self, kind: str, path: str | None) -> None:
        """Count a call, and raise the error of a dead drive."""
        self._calls[kind] += 1
        due = self._deadline
        if due is not None and (kind in CHANGING or not due.changing):
            due.left -= 1
            if due.left == 0:
                self._death, self._deadline = due.how, None
                self._died = f"{kind} {path}"
        if isinstance(self._death, int):
            raise OSError(self._death, os.strerror(self._death))
        shown = {"getattr", "statfs"} | (
            {"opendir", "readdir"} if self._death == "EMPTY" else set()
        )
        if (
            self._death is not None
            and kind not in BY_HANDLE
            and not (path == "/" and kind in shown)
        ):
            raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT))

    def init_with_config(self, connection: Any, config: Any) -> None:
        # Beyond this many, the kernel holds back releases, and the barrier would overtake them.
        connection.max_background = 1000
        print("ready", flush=True)

    @_counted
    def getattr(self, path: str | None, fh: int | None = None) -> dict[str, int]:
        found = os.fstat(fh) if fh is not None else os.lstat(self._at(path))
        fields = ("st_mode", "st_nlink", "st_uid", "st_gid", "st_size", "st_blocks", "st_blksize")
        times = {
            f"st_{kind}": getattr(found, f"st_{kind}_ns") for kind in ("atime", "mtime", "ctime")
        }
        return {**{name: getattr(found, name) for name in fields}, **times}

    @_counted
    def opendir(self, path: str | None) -> int:
        return 0  # here a listing must fail: the C library takes ENOENT from readdir for the end of the list

    @_counted
    def readdir(self, path: str | None, fh: int) -> list[str]:
        time.sleep(self._listing / 1000)
        if self._death == "EMPTY":
            return [".", ".."]
        return [".", "..", *os.listdir(self._at(path))]

    @_counted
    def statfs(self, path: str | None) -> dict[str, int]:
        found = os.statvfs(self._view)
        names = (
            "f_bsize",
            "f_frsize",
            "f_blocks",
            "f_bfree",
            "f_bavail",
            "f_files",
            "f_ffree",
            "f_favail",
            "f_namemax",
        )
        answer = {name: getattr(found, name) for name in names}
        if self._free is not None:
            answer["f_bavail"] = answer["f_bfree"] = self._free // found.f_frsize
        return answer

    def getxattr(self, path: str, name: str) -> bytes:
        if name == BARRIER:
            return b"1"
        if not name.startswith("user."):
            # Asked by the kernel itself before every write.
            raise OSError(errno.ENODATA, os.strerror(errno.ENODATA))
        return self._getxattr(path, name)

    def _getxattr(self, path: str, name: str) -> bytes:
        with self.lock:
            self.arrive("getxattr", path)
            return os.getxattr(self._at(path), name)

    @_counted
    def open(self, path: str | None, flags: int) -> int:
        if flags & os.O_TRUNC:
            self.arrive("truncate", path)
        return self._open(path, flags, 0)

    @_counted
    def create(self, path: str | None, mode: int, flags: int) -> int:
        descriptor = self._open(path, flags | os.O_CREAT, mode)
        self._fates.setdefault(os.fstat(descriptor).st_ino, Fate())
        return descriptor

    def _open(self, path: str | None, flags: int, mode: int) -> int:
        # The kernel names the place of every write, also where the client appends.
        descriptor = os.open(self._at(path), flags & ~os.O_APPEND, mode)
        inode = os.fstat(descriptor).st_ino
        if flags & os.O_ACCMODE != os.O_RDONLY:
            self._writers[descriptor] = inode
        if flags & os.O_TRUNC:
            self._fate(inode).current = False
        return descriptor

    @_counted
    def read(self, path: str | None, size: int, offset: int, fh: int) -> bytes:
        return os.pread(fh, size, offset)

    @_counted
    def write(self, path: str | None, data: bytes, offset: int, fh: int) -> int:
        fate = self._fate(os.fstat(fh).st_ino)
        if self._limit is None:
            pass
        elif len(data) <= self._left:
            self._left -= len(data)
        elif self._limit == "lost":
            fate.lost, self._left = True, 0
        else:
            raise OSError(self._limit, os.strerror(self._limit))
        fate.current = False
        return os.pwrite(fh, data, offset)

    @_counted
    def truncate(self, path: str | None, length: int, fh: int | None = None) -> None:
        self._fate(self._at(path).stat().st_ino).current = False
        os.truncate(self._at(path), length)

    @_counted
    def flush(self, path: str | None, fh: int) -> None:
        pass

    @_counted
    def fsync(self, path: str | None, datasync: int, fh: int) -> None:
        pass  # it returns at once on Colab too, and nothing is uploaded by it

    @_counted
    def fsyncdir(self, path: str | None, datasync: int, fh: int) -> None:
        pass

    def release(self, path: str | None, fh: int) -> None:
        # Neither counted nor failing: nobody waits for it, nor sees what it answers.
        with self.lock:
            self._writers.pop(fh, None)
            found = os.fstat(fh)
            if found.st_nlink == 0:
                self._fates.pop(found.st_ino, None)
            os.close(fh)

    @_counted
    def mkdir(self, path: str | None, mode: int) -> None:
        self._at(path).mkdir(mode)

    @_counted
    def rmdir(self, path: str | None) -> None:
        self._at(path).rmdir()
        with contextlib.suppress(OSError):
            (self._cloud / self._name(path)).rmdir()

    @_counted
    def unlink(self, path: str | None) -> None:
        inode = self._at(path).lstat().st_ino
        self._at(path).unlink()
        gone = self._fates.pop(inode, Fate())
        taken = {fate.cloud for fate in self._fates.values()}
        for name in {gone.cloud, self._name(path)} - taken:
            if name is not None and (self._cloud / name).is_file():
                (self._cloud / name).unlink()

    @_counted
    def rename(self, old: str | None, new: str) -> None:
        replaced = self._at(new).lstat().st_ino if self._at(new).is_file() else None
        moved = self._at(old).lstat().st_ino
        self._at(old).rename(self._at(new))
        if replaced is not None and replaced != moved:
            self._fates.pop(replaced, None)

    @_counted
    def utimens(self, path: str | None, times: tuple[int, int] | None = None) -> None:
        found = self._at(path).stat()
        given = times or (NOW, NOW)
        kept = (found.st_atime_ns, found.st_mtime_ns)
        chosen = [
            time.time_ns() if new == NOW else old if new == OMIT else new
            for new, old in zip(given, kept, strict=True)
        ]
        os.utime(self._at(path), ns=(chosen[0], chosen[1]))

    @_counted
    def chmod(self, path: str | None, mode: int) -> None:
        pass

    @_counted
    def chown(self, path: str | None, uid: int, gid: int) -> None:
        pass

    @_counted
    def symlink(self, path: str | None, source: str) -> None:
        raise OSError(errno.EOPNOTSUPP, os.strerror(errno.EOPNOTSUPP))

    @_counted
    def link(self, path: str | None, source: str) -> None:
        raise OSError(errno.EOPNOTSUPP, os.strerror(errno.EOPNOTSUPP))

    # What tests ask.

    def do_die(self, how: How) -> None:
        self._death = how

    def do_revive(self) -> None:
        self._death = self._died = self._deadline = None

    def do_die_at(self, call: int, how: How, changing: bool) -> None:
        self._deadline = Deadline(call, changing, how)

    def do_calls(self, reset: bool) -> dict[str, Any]:
        kinds = dict(self._calls)
        if reset:
            self._calls.clear()
        changing = sum(count for kind, count in kinds.items() if kind in CHANGING)
        return {
            "all": sum(kinds.values()),
            "changing": changing,
            "kinds": kinds,
            "died": self._died,
        }

    def do_limit(self, limit: int | Literal["lost"] | None, after: int) -> None:
        self._limit, self._left = limit, after
        if limit is None:
            for fate in self._fates.values():
                fate.lost = False

    def do_slow(self, ms: int) -> None:
        self._listing = min(ms, LONGEST_LISTING)

    def do_free(self, amount: int | None) -> None:
        self._free = amount

    def do_upload(
        self, patterns: list[str], how: Part | None, seed: int | None, share: float
    ) -> list[tuple[str, str]]:
        chance = random.Random(seed or 0)
        names = [
            name
            for name in _below(self._view)
            if not patterns or any(fnmatchcase(name, pattern) for pattern in patterns)
        ]
        if seed is not None:
            chance.shuffle(names)
        done: list[tuple[str, str]] = []
        for name in names:
            picked: Part = chance.choice(PARTS) if seed is not None else "whole"
            part = how or picked
            if chance.random() >= share:
                continue
            if (self._view / name).is_dir():
                if not (self._cloud / name).is_dir():
                    (self._cloud / name).mkdir(parents=True)
                    done.append((name, "folder"))
            elif self._send(name, part, worsen=how not in (None, "whole")):
                done.append((name, part))
        for name in reversed(_below(self._cloud)):
            if (self._cloud / name).is_dir() and not (self._view / name).is_dir():
                with contextlib.suppress(OSError):
                    (self._cloud / name).rmdir()
        return done

    def do_new_machine(self) -> None:
        for entry in self._view.iterdir():
            if entry.is_dir():
                shutil.rmtree(entry)
            else:
                entry.unlink()
        shutil.copytree(self._cloud, self._view, dirs_exist_ok=True)
        self.do_revive()
        if self._limit == errno.ENOSPC:
            self._limit = None
        self._recall()

    def _send(self, name: str, part: Part, *, worsen: bool) -> bool:
        place, target = self._view / name, self._cloud / name
        inode = place.stat().st_ino
        fate = self._fate(inode)
        if fate.lost or inode in self._writers.values():
            return False
        if fate.current and fate.cloud == name and not worsen:
            return False
        content = place.read_bytes()
        target.parent.mkdir(parents=True, exist_ok=True)
        if fate.cloud not in (None, name):
            (self._cloud / str(fate.cloud)).unlink(missing_ok=True)
        for other in self._fates.values():
            if other.cloud == name:
                other.cloud = None
        size = {"whole": len(content), "half": len(content) // 2, "empty": 0}[part]
        target.write_bytes(content[:size])
        fate.cloud, fate.current = name, size == len(content)
        return True

    def _recall(self) -> None:
        """Tell from the two folders alone what has been uploaded."""
        self._fates = {}
        for name in _below(self._view):
            place, uploaded = self._view / name, self._cloud / name
            if place.is_file() and uploaded.is_file():
                same = filecmp.cmp(place, uploaded, shallow=False)
                self._fates[place.stat().st_ino] = Fate(name, current=same)

    def _fate(self, inode: int) -> Fate:
        return self._fates.setdefault(inode, Fate())

    def _name(self, path: str | None) -> str:
        if path is None:
            raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT))
        return path.lstrip("/")

    def _at(self, path: str | None) -> Path:
        return self._view / self._name(path)


def _below(folder: Path) -> list[str]:
    """Names of all files and folders below `folder`, each folder before what is in it."""

    def walk(prefix: str) -> Iterator[str]:
        for name in sorted(os.listdir(folder / prefix)):
            yield prefix + name
            if (folder / prefix / name).is_dir():
                yield from walk(f"{prefix}{name}/")

    return list(walk(""))


def _serve(drive: Drive, control: str) -> None:
    class Handler(socketserver.StreamRequestHandler):
        def handle(self) -> None:
            for line in self.rfile:
                answer: dict[str, Any]
                try:
                    asked = json.loads(line)
                    with drive.lock:
                        answer = {"ok": getattr(drive, f"do_{asked.pop('do')}")(**asked)}
                except Exception as error:
                    answer = {"error": f"{type(error).__name__}: {error}"}
                self.wfile.write(json.dumps(answer).encode() + b"\n")

    server = socketserver.ThreadingUnixStreamServer(
        "\0" + control[1:] if control.startswith("@") else control, Handler
    )
    server.daemon_threads = True
    threading.Thread(target=server.serve_forever, daemon=True).start()


def unmount(mountpoint: str) -> None:
    """Take the mount out of the tree, whoever still uses it."""
    for command in (["fusermount3", "-uz", mountpoint], ["umount", "-l", mountpoint]):
        with contextlib.suppress(FileNotFoundError):
            if (
                subprocess.run(command, capture_output=True, timeout=10, check=False).returncode
                == 0
            ):
                return


def _end_with_input(mountpoint: str) -> None:
    """So that nothing stays mounted when the tests were killed."""
    while os.read(0, 1024):
        pass
    unmount(mountpoint)
    os._exit(0)


def main() -> None:
    mountpoint, backing, control = sys.argv[1:]
    drive = Drive(Path(backing))
    _serve(drive, control)
    threading.Thread(target=_end_with_input, args=(mountpoint,), daemon=True).start()
    mfusepy.FUSE(
        drive,
        mountpoint,
        foreground=True,
        nothreads=True,
        fsname="drive",
        subtype="drive",
        attr_timeout=0,
        entry_timeout=0,
        negative_timeout=0,
        hard_remove=True,
    )


if __name__ == "__main__":
    main()
