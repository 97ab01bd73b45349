"""Whole runs of the counting stage with their storage on a mounted drive, as a user starts them.

A run is a process of its own, forked from one that has imported the program already: a sweep needs hundreds. Its short
waits are shortened; that is all in which it differs from the command."""

from __future__ import annotations

import hashlib
import importlib
import json
import multiprocessing
import os
import queue
import shutil
import sys
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from multiprocessing import connection
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any, TypeVar

import pytest

from tests.drive.mount import CannotMount, MountedDrive

T = TypeVar("T")
R = TypeVar("R")

JOB = """
version: 1
name: counting
model: {{name: none}}
training: {{save_steps: {every}}}
storage: {{drive: {drive}, scratch: {scratch}, patience: 0.3s}}
stages:
  first: {{uses: count, with: {{to: {first}}}}}
  second: {{uses: count, with: {{to: {second}}}}}
"""
STAGES = ("first", "second")
SITES = 3

_FORKING = multiprocessing.get_context("forkserver")
_FORKING.set_forkserver_preload(
    ["tests.drive.runs", "qvl_run.verbs.run", "jsonschema", "rich.emoji", "rich.table"]
)

_ONE = threading.Lock()
"""Starting a process asks for the exit code of every other, and each can be had once."""


@dataclass(frozen=True)
class Ran:
    """What a run left."""

    code: int
    out: str
    err: str

    @property
    def text(self) -> str:
        """For a failed assertion."""
        return f"exit code {self.code}\n{self.out}\n{self.err}"


@dataclass(frozen=True)
class Start:
    """That an attempt of a stage began, at this step."""

    stage: str
    step: int


@dataclass
class Site:
    """A job, the drive that it stores to, and the machine that it runs on."""

    drive: MountedDrive
    folder: Path
    counts: tuple[int, int] = (10, 8)
    every: int = 3
    """Steps between two checkpoints."""
    seen: int = 0
    """Events that `starts` has returned."""
    changed: Mapping[str, object] = field(default_factory=dict)
    """What replaces names of the program, by module: `lease.LOOK`."""

    def __post_init__(self) -> None:
        self.folder.mkdir(parents=True, exist_ok=True)
        text = JOB.format(
            drive=self.storage,
            scratch=self.folder / "scratch",
            first=self.counts[0],
            second=self.counts[1],
            every=self.every,
        )
        self.job.write_text(text)

    @property
    def job(self) -> Path:
        return self.folder / "job.yaml"

    @property
    def storage(self) -> Path:
        """As the run sees it."""
        return self.drive.path / "qvl"

    @property
    def scratch(self) -> Path:
        return self.folder / "scratch" / "counting"

    @property
    def sums(self) -> dict[str, int]:
        """What the stages must come to."""
        first, second = (to * (to + 1) // 2 for to in self.counts)
        return {"first": first, "second": first + second}

    def clear(self) -> None:
        """Nothing on the drive, a new machine, no faults."""
        shutil.rmtree(self.drive.cloud / "qvl", ignore_errors=True)
        self.drive.room()
        self.new_machine()
        self.drive.calls(reset=True)

    def new_machine(self) -> None:
        """The machine is lost, with all that was not uploaded."""
        shutil.rmtree(self.folder / "scratch", ignore_errors=True)
        self.drive.new_machine()
        self.seen = 0

    def run(
        self,
        *options: str,
        env: Mapping[str, str] | None = None,
        changed: Mapping[str, object] | None = None,
    ) -> Ran:
        """The command, once."""
        return self.end(self.start(*options, env=env, changed=changed))

    def start(
        self,
        *options: str,
        env: Mapping[str, str] | None = None,
        changed: Mapping[str, object] | None = None,
    ) -> BaseProcess:
        """The command, going on by itself until `end`."""
        for name in ("out", "err"):
            (self.folder / name).write_bytes(b"")
        process = _FORKING.Process(
            target=_main,
            args=(
                [str(self.job), *options],
                self.folder,
                dict(env or {}),
                {**self.changed, **(changed or {})},
            ),
            daemon=True,
        )
        with _ONE:
            process.start()
        return process

    def end(self, process: BaseProcess, timeout: float = 40) -> Ran:
        """What a process of `start` leaves. If it takes longer than `timeout`, the drive is killed first: a process
        that waits for a file system cannot be killed."""
        connection.wait([process.sentinel], timeout)
        with _ONE:
            code = process.exitcode
        if code is None:
            self.drive.crash()
            process.kill()
            raise AssertionError(f"it does not end\n{self.out}\n{self.err}")
        return Ran(code, self.out, self.err)

    @property
    def out(self) -> str:
        """What the run has printed so far."""
        return (self.folder / "out").read_text(errors="replace")

    @property
    def err(self) -> str:
        """The same, of standard error."""
        return (self.folder / "err").read_text(errors="replace")

    def starts(self) -> list[Start]:
        """Attempts of this machine since the last call."""
        events = [
            json.loads(line)
            for path in sorted((self.scratch / "events").glob("*.jsonl"))
            for line in path.read_text().splitlines()
        ]
        new, self.seen = events[self.seen :], len(events)
        return [Start(e["stage"], e["step"]) for e in new if e["event"] == "attempt_started"]

    def expected(self) -> list[Start]:
        """The attempts that the next run must make, by what is whole on the machine and on the drive."""
        starts = []
        for stage in STAGES:
            if not self.outputs(stage):
                steps = [found["step"] for found in self._whole(stage, "checkpoint-*")]
                starts.append(Start(stage, max(steps, default=0)))
        return starts

    def outputs(self, stage: str, *, stored: bool = False) -> list[int]:
        """The sums of the whole outputs of `stage`, all or those on the drive."""
        return [
            json.loads((Path(found["folder"]) / "sum.json").read_text())["sum"]
            for found in self._whole(stage, "final*", stored=stored)
        ]

    def folders(self, stage: str) -> list[Path]:
        """Checkpoints and outputs on the drive, whole or not, looked at past the mount."""
        parent = self.drive.view / "qvl" / "checkpoints" / stage
        return [*parent.glob("checkpoint-*"), *parent.glob("final*")]

    def finished(self) -> bool:
        """Whether the machine's own disk has the right outputs of all stages."""
        attempts = self.scratch / "attempts"
        return all(
            any(whole(folder) for folder in (attempts / stage).glob("*/work/final"))
            for stage in STAGES
        )

    def right(self) -> bool:
        """Whether the drive has the right outputs of all stages, and no wrong one."""
        found = {stage: set(self.outputs(stage, stored=True)) for stage in STAGES}
        return found == {stage: {total} for stage, total in self.sums.items()}

    def _whole(self, stage: str, name: str, *, stored: bool = False) -> list[dict[str, Any]]:
        folders = list((self.drive.view / "qvl" / "checkpoints" / stage).glob(name))
        if not stored:
            folders += (self.scratch / "attempts" / stage).glob(f"*/work/{name}")
        return [found for folder in folders if (found := whole(folder))]


def whole(folder: Path) -> dict[str, Any] | None:
    """The manifest of `folder` where every file is as it says, else None; told without the program's own code."""
    try:
        manifest: dict[str, Any] = json.loads((folder / "manifest.json").read_text())
        for entry in manifest["files"]:
            content = (folder / entry["name"]).read_bytes()
            if hashlib.sha256(content).hexdigest() != entry["sha256"]:
                return None
    except (OSError, ValueError):
        return None
    return {**manifest, "folder": str(folder)}


def wait_for(condition: Callable[[], object], seconds: float = 20) -> None:
    """Returns once `condition` holds."""
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "it did not happen"
        time.sleep(0.02)


@contextmanager
def mounted_site(folder: Path, **fields: Any) -> Iterator[Site]:
    """A site with a drive of its own; skips the test where FUSE cannot be used."""
    drive = MountedDrive(folder / "fuse")
    try:
        drive.mount()
    except CannotMount as error:
        pytest.skip(str(error))
    with drive:
        yield Site(drive, folder / "machine", **fields)


def on_sites(
    folder: Path, check: Callable[[Site, T], R], cases: Iterable[T], **fields: Any
) -> list[R]:
    """`check` of each case, on a cleared site. A few at a time, since most of a run with a dead drive is waiting."""
    with ExitStack() as stack, ThreadPoolExecutor(SITES) as pool:
        free: queue.Queue[Site] = queue.Queue()
        for number in range(SITES):
            free.put(stack.enter_context(mounted_site(folder / f"site{number}", **fields)))

        def on_one(case: T) -> R:
            site = free.get()
            try:
                site.clear()
                return check(site, case)
            except BaseException as error:
                error.add_note(f"case {case}")
                raise
            finally:
                if not site.drive.mounted:
                    site.drive.mount()
                free.put(site)

        return list(pool.map(on_one, cases))


def _main(
    words: Sequence[str], folder: Path, env: Mapping[str, str], changed: Mapping[str, object]
) -> None:
    """The forked process."""
    from qvl_run.cli import main

    os.chdir(folder)
    os.environ.update(env)
    for number, name in ((1, "out"), (2, "err")):
        os.dup2(os.open(folder / name, os.O_WRONLY), number)
    for name, value in {"mirror.INTERVAL": 0.02, "runner.PATIENCE": 0.3, **changed}.items():
        module, _, inner = name.partition(".")
        setattr(importlib.import_module(f"qvl_run.run.{module}"), inner, value)
    sys.argv = ["qvl-run", *words]
    main()
