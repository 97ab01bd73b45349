"""Mounts the file system of `fuse_drive`, steers it, and always takes it away again."""

from __future__ import annotations

import contextlib
import errno
import json
import os
import select
import shutil
import signal
import socket
import subprocess
import sys
import threading
import uuid
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, ClassVar, Literal, Self

import pytest

How = int | Literal["ENOENT", "EMPTY"]
Part = Literal["whole", "half", "empty"]

_BARRIER = "user.drive.barrier"
_ROOT = Path(__file__).parents[2]


class CannotMount(Exception):
    """FUSE cannot be used here."""


@dataclass(frozen=True)
class Calls:
    """File system calls so far."""

    all: int
    changing: int
    kinds: dict[str, int]
    died: str | None
    """The call at which `die_at` struck: kind and path."""


class MountedDrive:
    """A drive mounted at `path`. `view` and `cloud` show past the mount what this machine has, and what was uploaded.

    After `limit` seconds the file system is killed, so that no call on it waits for ever."""

    _refused: ClassVar[str | None] = None
    """Why the first attempt to mount failed, so that the next tests need not try."""

    def __init__(self, folder: Path, *, limit: float = 300) -> None:
        self._folder = folder.resolve()
        self.path = self._folder / "drive"
        self.view = self._folder / "backing" / "view"
        self.cloud = self._folder / "backing" / "cloud"
        self._limit = limit
        self._process: subprocess.Popen[bytes] | None = None
        self._control = ""
        self._watchdog: threading.Timer | None = None

    def __enter__(self) -> Self:
        if self._process is None:
            self.mount()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.unmount()

    # Mounting.

    def mount(self) -> None:
        """Mount it, again after `unmount` or `crash`. Faults and limits set before are forgotten, files are not."""
        if why := MountedDrive._refused or missing():
            raise CannotMount(why)
        self.unmount()
        self.path.mkdir(parents=True, exist_ok=True)
        # A name and no file: the path of a socket may have no more than 107 bytes, and nothing stays behind.
        self._control = f"@drive-{uuid.uuid4().hex}"
        log = self._folder / "drive.log"
        with log.open("wb") as errors:
            self._process = process = subprocess.Popen(
                [
                    sys.executable,
                    "-m",
                    "tests.drive.fuse_drive",
                    self.path,
                    self.view.parent,
                    self._control,
                ],
                cwd=_ROOT,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=errors,
            )
        assert process.stdout is not None
        ready, _, _ = select.select([process.stdout], [], [], 20)
        if not ready or process.stdout.readline() != b"ready\n":
            self.unmount()
            said = log.read_text(errors="replace").strip()
            if said.startswith(("fuse", "mount")):
                MountedDrive._refused = f"mounting is refused here: {said.splitlines()[0]}"
                raise CannotMount(MountedDrive._refused)
            raise RuntimeError(f"the drive cannot be mounted: {said}")
        self._watchdog = threading.Timer(self._limit, process.kill)
        self._watchdog.daemon = True
        self._watchdog.start()

    def unmount(self) -> None:
        """Take the mount away, whatever state it is in; an empty local folder is left in its place."""
        if self._watchdog is not None:
            self._watchdog.cancel()
        if (process := self._process) is not None:
            for pipe in (process.stdin, process.stdout):
                if pipe is not None:
                    pipe.close()
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(5)
            process.kill()
            process.wait()
            self._process = None
        for command in (["fusermount3", "-uz"], ["umount", "-l"]):
            if self.mounted and shutil.which(command[0]):
                subprocess.run([*command, self.path], capture_output=True, timeout=10, check=False)
        if self.mounted:
            raise RuntimeError(f"still mounted: {self.path}")

    def crash(self) -> None:
        """Kill the file system and leave the dead mount: the kernel itself answers ENOTCONN. Then `mount` or
        `unmount`."""
        assert self._process is not None
        self._process.kill()
        self._process.wait()

    def hang(self) -> None:
        """Answer no call from now on, and fail none."""
        assert self._process is not None
        self._process.send_signal(signal.SIGSTOP)

    def answer(self) -> None:
        """The end of `hang`: every call that waited is answered."""
        assert self._process is not None
        self._process.send_signal(signal.SIGCONT)

    @property
    def mounted(self) -> bool:
        """Whether it is in the mount table, dead or alive. Asks nothing of the file system."""
        shown = str(self.path).replace("\\", "\\134").replace(" ", "\\040")
        mounts = Path("/proc/self/mounts").read_text().splitlines()
        return any(line.split()[1] == shown for line in mounts)

    # Faults.

    def die(self, how: How = errno.ENOTCONN) -> None:
        """From now on every call fails with the errno `how`. "ENOENT": nothing is found or listed, only the root can
        still be stat-ed, and files that are open go on. "EMPTY": the same, but the root lists as an empty folder."""
        self._ask("die", how=how)

    def die_at(self, call: int, how: How = errno.ENOTCONN, *, changing: bool = False) -> None:
        """Die at the call with this number, counted from now and from 1: of all calls, or of those that change
        something."""
        self._ask("die_at", call=call, how=how, changing=changing)

    def revive(self) -> None:
        """Work again, and forget `die` and `die_at`."""
        self._ask("revive")

    def calls(self, *, reset: bool = False) -> Calls:
        """Calls since the mount or the last `reset`."""
        return Calls(**self._ask("calls", reset=reset))

    def full(self, after: int = 0) -> None:
        """The machine's disk is full: writes fail with ENOSPC once `after` more bytes are written."""
        self._ask("limit", limit=errno.ENOSPC, after=after)

    def quota(self, after: int = 0) -> None:
        """The account's quota is used up: writes fail with EDQUOT once `after` more bytes are written."""
        self._ask("limit", limit=errno.EDQUOT, after=after)

    def lose(self, after: int = 0) -> None:
        """The same, and nobody is told: files written to past `after` more bytes look well and are never uploaded."""
        self._ask("limit", limit="lost", after=after)

    def room(self) -> None:
        """Lift `full`, `quota` or `lose`; what was not uploaded for want of room may be uploaded now."""
        self._ask("limit", limit=None, after=0)

    def slow(self, ms: int) -> None:
        """Listing a folder takes this long, 2000 at most."""
        self._ask("slow", ms=ms)

    def free(self, amount: int | None) -> None:
        """Bytes that statvfs reports as free, rounded down to blocks; None: what the disk has."""
        self._ask("free", amount=amount)

    # Uploads.

    def upload(
        self,
        *patterns: str,
        how: Part | None = None,
        seed: int | None = None,
        share: float = 1.0,
    ) -> list[tuple[str, str]]:
        """Upload what is new, of all files or of those whose name below the root matches a pattern, where `*` also
        matches slashes. With `seed`, in a random order, each whole, half or empty, unless `how` says which. Only
        `share` of them is taken, by chance.

        A file that somebody has open for writing is never uploaded. One whose content is there already is left alone,
        unless `how` is "half" or "empty". Returns names, in the order of their upload, and what became of them:
        "whole", "half", "empty" or "folder"."""
        done = self._ask("upload", patterns=patterns, how=how, seed=seed, share=share)
        return [(name, part) for name, part in done]

    def new_machine(self) -> None:
        """The machine has gone, and another mounts the drive: what was uploaded is all there is. Faults of the
        machine are forgotten, also `full`; the account's quota is not."""
        self._ask("new_machine")

    # Clients.

    def run(
        self, *command: object, timeout: float = 30, env: Mapping[str, str] | None = None
    ) -> subprocess.CompletedProcess[str]:
        """Run a program that uses the drive. If it takes longer than `timeout`, the file system is killed first:
        a program that waits for a file system cannot be killed."""
        with subprocess.Popen(
            [str(word) for word in command],
            cwd=self._folder,
            env={**os.environ, **(env or {})},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        ) as client:
            try:
                out, err = client.communicate(timeout=timeout)
            except BaseException:
                self.crash()
                client.kill()
                raise
        return subprocess.CompletedProcess(client.args, client.returncode, out, err)

    def _ask(self, command: str, **words: object) -> Any:
        # The kernel tells of closed files later than close() returns: wait until the file system has heard.
        with contextlib.suppress(OSError):
            os.getxattr(self.path, _BARRIER)
        with socket.socket(socket.AF_UNIX) as line:
            line.settimeout(20)
            line.connect(self._control.replace("@", "\0", 1))
            line.sendall(json.dumps({"do": command, **words}).encode() + b"\n")
            with line.makefile("rb") as file:
                answer = json.loads(file.readline())
        if "error" in answer:
            raise RuntimeError(answer["error"])
        return answer["ok"]


def missing() -> str | None:
    """What is not here that mounting needs; None where all is."""
    if not Path("/dev/fuse").exists():
        return "no /dev/fuse here"
    if os.geteuid() != 0 and shutil.which("fusermount3") is None:
        return "no fusermount3 here (package fuse3)"
    try:
        import mfusepy  # type: ignore[import-untyped,unused-ignore]
    except ImportError:
        return "mfusepy is not installed"
    except OSError as error:
        return f"no libfuse3 here (package fuse3): {error}"
    if mfusepy.fuse_version_major != 3:
        return "libfuse 3 is needed (package fuse3)"
    return None


@pytest.fixture
def drive(tmp_path: Path) -> Iterator[MountedDrive]:
    """A drive of its own, mounted at `drive.path`; the test is skipped where FUSE cannot be used."""
    mounted = MountedDrive(tmp_path / "fuse")
    try:
        mounted.mount()
    except CannotMount as error:
        pytest.skip(str(error))
    try:
        yield mounted
    finally:
        mounted.unmount()
