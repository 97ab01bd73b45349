"""Whole runs of the misbehaving stage, as a user starts them, each in a process and a folder of its own.

The process is forked from one that has imported the program already. It differs from the command in three things: its
waits between attempts are cut short, its watchdog's clock may go faster, and it may be held to little memory.
"""

from __future__ import annotations

import json
import multiprocessing
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial
from multiprocessing import connection
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

import psutil

PLUGIN = Path(__file__).parent / "plugin"
JOB = """
version: 1
name: faults
model: {{name: none}}
training: {{save_steps: 3, per_device_train_batch_size: {batch}, global_batch_size: {whole}}}
storage: {{drive: {folder}/drive, scratch: {scratch}}}
recovery: {recovery}
stages:
  work: {{uses: {uses}, with: {options}}}
"""
TO, AT = 10, 5
SPEED = 10.0
"""How much faster the watchdog's clock goes: at its looks, 0.2 s apart, the most that it counts have passed."""
DEADLINES = {"step": "20s", "download": "20s"}
LONGEST = 60.0
"""Seconds that a run may take."""

_FORKING = multiprocessing.get_context("forkserver")
_FORKING.set_forkserver_preload(["qvl_run.verbs.run", "jsonschema", "rich.emoji", "rich.table"])
_CGROUPS = {
    "/sys/fs/cgroup/memory": "memory.limit_in_bytes",
    "/sys/fs/cgroup": "memory.max",
}
_ONE = threading.Lock()
"""Starting a process asks for the exit code of every other, and each can be had once."""


@dataclass(frozen=True)
class Ran:
    """What a run left: its exit code as Popen gives it, and what it printed."""

    code: int
    out: str
    err: str


@dataclass
class Site:
    """A job with the stage `work` and a folder for it."""

    folder: Path
    way: str = "none"
    uses: str = "misbehave"
    times: int = 1
    batch: int = 8
    recovery: str = json.dumps({"deadlines": DEADLINES})
    speed: float = SPEED
    memory: int | None = None
    """Bytes that the run and its attempts may have."""
    scratch: Path | None = None
    process: BaseProcess | None = field(default=None, init=False)

    def __post_init__(self) -> None:
        self.folder.mkdir(parents=True)
        self.scratch = self.scratch or self.folder / "scratch"
        options = {"way": self.way, "at_step": AT, "times": self.times, "to": TO}
        self.job.write_text(
            JOB.format(
                batch=self.batch,
                whole=2 * self.batch,
                folder=self.folder,
                scratch=self.scratch,
                recovery=self.recovery,
                uses=self.uses,
                options=json.dumps(options) if self.uses == "misbehave" else "{}",
            ),
            encoding="utf-8",
        )

    @property
    def job(self) -> Path:
        return self.folder / "job.yaml"

    @property
    def own(self) -> Path:
        """The job's folder on this machine's disk."""
        assert self.scratch is not None
        return self.scratch / "faults"

    @property
    def cache(self) -> Path:
        """Where the stage writes down what it does."""
        return self.own / "cache"

    def run(self, *words: str) -> Ran:
        """The command, once."""
        self.start(*words)
        return self.end()

    def start(self, *words: str) -> None:
        """The command, going on by itself until `end`."""
        for name in ("out", "err"):
            (self.folder / name).write_bytes(b"")
        words = words or ("run",)
        args = ([*words, str(self.job)], self.folder, self.speed, self.memory)
        self.process = _FORKING.Process(target=_main, args=args, daemon=True)
        with _ONE:
            self.process.start()

    def end(self, timeout: float = LONGEST) -> Ran:
        """What the command leaves that was started."""
        assert self.process is not None
        connection.wait([self.process.sentinel], timeout)
        with _ONE:
            code = self.process.exitcode
            if code is None:
                self.process.kill()
        groups = [_cgroup(root, self.process.pid) for root in _CGROUPS]
        wait_for(lambda: all(map(_removed, groups)), "a control group stays", seconds=5)
        out, err = ((self.folder / name).read_text(errors="replace") for name in ("out", "err"))
        assert code is not None, f"it did not end\n{out}\n{err}\n{self.log}"
        return Ran(code, out, err)

    def signal(self, number: signal.Signals) -> None:
        """To qvl-run itself."""
        assert self.process is not None
        assert self.process.pid is not None
        os.kill(self.process.pid, number)

    def waiting(self) -> int:
        """The attempt's process, once the stage waits."""
        path = self.cache / "waiting"
        wait_for(lambda: path.exists() and path.read_text(), f"{self.way} was not reached")
        return int(path.read_text())

    def said(self, text: str) -> None:
        """Returns once the run has printed `text`."""
        wait_for(lambda: text in (self.folder / "out").read_text(), f'"{text}" was not said')

    def numbers(self, name: str) -> list[int]:
        """What the stage wrote down."""
        path = self.cache / name
        return [int(line) for line in path.read_text().split()] if path.exists() else []

    def events(self, *kinds: str) -> list[dict[str, Any]]:
        """The run's events of these kinds, in their order."""
        found = []
        for path in sorted((self.own / "events").glob("events-*")):
            found += [json.loads(line) for line in path.read_text().splitlines()]
        return [event for event in found if event["event"] in kinds]

    @property
    def stored(self) -> Path:
        """The stage's folder on the drive."""
        return self.folder / "drive" / "checkpoints" / "work"

    @property
    def sum(self) -> int | None:
        """The stage's result."""
        path = self.stored / "final" / "sum.json"
        return int(json.loads(path.read_text())["sum"]) if path.exists() else None

    @property
    def log(self) -> str:
        """What the attempts printed."""
        logs = sorted(self.own.glob("attempts/work/*/log.txt"))
        return "\n".join(path.read_text(errors="replace")[:20_000] for path in logs)

    def alive(self) -> list[int]:
        """Processes in the groups of the attempts, and those they left behind."""
        mine = {*self.numbers("pids"), *self.numbers("helpers")}
        return [pid for pid in psutil.pids() if _is_of(pid, mine)]


def wait_for(condition: Callable[[], object], message: str, seconds: float = LONGEST) -> None:
    """Returns once `condition` holds."""
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, message
        time.sleep(0.02)


def _is_of(pid: int, groups: set[int]) -> bool:
    with suppress(OSError, psutil.Error):
        ended = psutil.Process(pid).status() in (psutil.STATUS_ZOMBIE, psutil.STATUS_DEAD)
        return not ended and (pid in groups or os.getpgid(pid) in groups)
    return False


def _main(words: Sequence[str], folder: Path, speed: float, memory: int | None) -> None:
    """The forked process."""
    os.chdir(folder)
    for number, name in ((1, "out"), (2, "err")):
        os.dup2(os.open(folder / name, os.O_WRONLY | os.O_APPEND), number)
    sys.path.insert(0, str(PLUGIN))
    paths = [str(PLUGIN), os.environ.get("PYTHONPATH", "")]
    os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, paths))
    from qvl_run.cli import main
    from qvl_run.run.machinery import Machinery
    from qvl_run.verbs import run

    changed: Mapping[str, Any] = {
        "ticks": lambda: time.monotonic() * speed,
        "sleep": lambda seconds: time.sleep(min(seconds, 0.001)),
        "chance": lambda: 0.5,
    }
    if memory is not None:
        changed = {**changed, **_held_to(memory)}
    run.Machinery = partial(Machinery, **changed)  # type: ignore[misc,assignment]
    sys.argv = ["qvl-run", *words]
    main()


def _cgroup(root: str, pid: int | None) -> Path:
    return Path(root) / f"qvl-run-test-{pid}"


def _removed(group: Path) -> bool:
    """Whether it is gone now. The kernel keeps one for a moment after its last process has."""
    with suppress(OSError):
        group.rmdir()
    return not group.exists()


def _held_to(memory: int) -> Mapping[str, Any]:
    """Have the kernel give this process and its own no more than `memory` bytes. Where that cannot be, the stage kills
    itself, and the kernel's count is made up."""
    for root, limit in _CGROUPS.items():
        mine = _cgroup(root, os.getpid())
        try:
            mine.mkdir()
            (mine / limit).write_text(str(memory))
            (mine / "cgroup.procs").write_text(str(os.getpid()))
        except OSError:
            with suppress(OSError):
                mine.rmdir()
            continue
        os.environ["QVL_TEST_MEMORY"] = str(mine)
        return {}
    os.environ["QVL_TEST_MEMORY"] = "fake"
    counts = iter(range(1000))
    return {"oom_kills": lambda: next(counts)}
