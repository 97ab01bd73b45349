"""One run of a job in folders of its own: started as a user starts it, looked at and disturbed from outside."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psutil

from tests.soak.jobs import SoakJob

ENV = {"OMP_NUM_THREADS": "1", "OMP_WAIT_POLICY": "passive", "HF_HUB_OFFLINE": "1"}
"""One thread: with more of them sums of floats differ in their last bits."""
LOOK = 0.005
"""Seconds between two looks at the run."""


@dataclass(frozen=True, kw_only=True)
class Progress:
    """How far the run is: which attempt of which stage, and how many things it has said."""

    attempt: str = ""
    beat: int = 0
    section: str = ""


@dataclass
class Site:
    """`folder` holds the scratch folder and what the runs print, `drive` what outlives the machine; they lie on two
    file systems, so that checkpoints are really copied."""

    job: SoakJob
    folder: Path
    drive: Path
    process: subprocess.Popen[bytes] | None = field(default=None, init=False)
    _began: float = field(default=0.0, init=False)

    def __post_init__(self) -> None:
        self.folder.mkdir(parents=True)
        self.drive.mkdir(parents=True)
        text = self.job.text.format(drive=self.drive / "qvl", scratch=self.folder / "scratch")
        self.file.write_text(text, encoding="utf-8")

    @property
    def file(self) -> Path:
        return self.folder / "job.yaml"

    @property
    def storage(self) -> Path:
        return self.drive / "qvl"

    @property
    def scratch(self) -> Path:
        """The job's own folder on this machine's disk."""
        return self.folder / "scratch" / self.job.name

    @property
    def said(self) -> str:
        """What the newest start has printed."""
        path = self.folder / "out"
        return path.read_text(errors="replace") if path.exists() else ""

    def start(self, *options: str, env: Mapping[str, str] | None = None) -> None:
        """The command, going on by itself. What earlier starts printed is kept in `all`."""
        with (self.folder / "all").open("a") as file:
            file.write(self.said)
        with (self.folder / "out").open("wb") as out:
            out.write(f"\n$ qvl-run {self.file} {' '.join(options)} {dict(env or {})}\n".encode())
            out.flush()
            self.process = subprocess.Popen(
                [sys.executable, "-m", "qvl_run", str(self.file), *options],
                cwd=self.folder,
                env={**os.environ, **ENV, **(env or {})},
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=subprocess.STDOUT,
            )
        self._began = time.monotonic()

    def run(self, *words: str) -> subprocess.CompletedProcess[str]:
        """Another verb of the command, beside the run."""
        command = [sys.executable, "-m", "qvl_run", *words]
        return subprocess.run(
            command, cwd=self.folder, capture_output=True, text=True, check=False, timeout=60
        )

    def code(self) -> int | None:
        """The exit code, None while it runs."""
        assert self.process is not None
        return self.process.poll()

    def until(self, condition: Callable[[], object]) -> bool:
        """Look until `condition` holds or the run has ended; whether it holds and the run goes on."""
        while self.code() is None:
            if condition():
                return self.code() is None
            if time.monotonic() - self._began > self.job.longest:
                self.die()
                raise AssertionError(f"it does not end\n{self.said}")
            time.sleep(LOOK)
        return False

    def die(self) -> None:
        """The machine dies: the runner, and all that it has started."""
        assert self.process is not None
        self.process.kill()
        self.process.wait()
        self.bury()

    def bury(self) -> None:
        """End what is left of a machine that has died, and wait until it is gone."""
        left = list(self._ours())
        for process in left:
            with suppress(psutil.Error):
                process.kill()
        psutil.wait_procs(left, timeout=30)

    def stop(self) -> None:
        """End whatever goes on."""
        if self.process is not None:
            self.die()

    def lose(self) -> None:
        """This machine's disk is gone, after `bury`."""
        shutil.rmtree(self.folder / "scratch", ignore_errors=True)

    def child(self) -> psutil.Process | None:
        """The process of the attempt that is being run."""
        assert self.process is not None
        with suppress(psutil.Error):
            for process in psutil.Process(self.process.pid).children():
                with suppress(psutil.Error):
                    ended = process.status() in (psutil.STATUS_ZOMBIE, psutil.STATUS_DEAD)
                    if not ended and "qvl_run.run.child" in process.cmdline():
                        return process
        return None

    def signal(self, number: signal.Signals) -> None:
        """To the runner."""
        assert self.process is not None
        self.process.send_signal(number)

    def progress(self) -> Progress:
        """What the newest attempt has said."""
        found = list((self.scratch / "attempts").glob("*/attempt-*/attempt.json"))
        if not found:
            return Progress()
        # By time: a stage may have to be gone on with after a later one has begun.
        newest = max(found, key=lambda path: path.stat().st_mtime_ns).parent
        name = f"{newest.parent.name}/{newest.name}"
        with suppress(OSError, ValueError):
            data = json.loads((newest / "progress.json").read_text())
            return Progress(attempt=name, beat=int(data["beat"]), section=str(data["section"]))
        return Progress(attempt=name)

    def lines(self) -> int:
        """How long the story on this machine is."""
        count = 0
        for path in (self.scratch / "events").glob("events-*"):
            with suppress(FileNotFoundError):
                count += path.read_bytes().count(b"\n")
        return count

    def records(self, folder: Path) -> list[dict[str, Any]]:
        """The story in `folder`. Raises ValueError where a line is not whole."""
        found: list[dict[str, Any]] = []
        for path in sorted(folder.glob("events-*")):
            try:
                found += [json.loads(line) for line in path.read_bytes().splitlines()]
            except ValueError as error:
                raise ValueError(f"{path} is not whole: {error}") from None
        return found

    def whole(self, stage: str, name: str = "*", *, stored: bool = False) -> list[Path]:
        """The folders of `stage` that are as their manifests say, the highest step last; `stored`: in storage alone."""
        folders = list((self.storage / "checkpoints" / stage).glob(name))
        if not stored:
            folders += (self.scratch / "attempts" / stage).glob(f"*/work/{name}")
        steps = [(step, folder) for folder in folders if (step := _whole(folder)) is not None]
        return [folder for _, folder in sorted(steps)]

    def broken(self, stage: str) -> list[Path]:
        """The folders of `stage` in storage that are not."""
        folders = (self.storage / "checkpoints" / stage).glob("*")
        return [folder for folder in folders if _whole(folder) is None]

    def results(self) -> dict[str, set[str]]:
        """The sha256 of what is compared of each stage: one, where all its whole outputs in storage are equal."""
        return {
            stage: {
                hashlib.sha256((folder / self.job.result).read_bytes()).hexdigest()
                for folder in self.whole(stage, "final*", stored=True)
            }
            for stage in self.job.stages
        }

    def _ours(self) -> Iterator[psutil.Process]:
        """Processes that belong to attempts of this site."""
        for process in psutil.process_iter():
            with suppress(psutil.Error, OSError):
                attempt = process.environ().get("QVL_ATTEMPT", "")
                if attempt and self.folder in Path(attempt).parents:
                    yield process


def _whole(folder: Path) -> int | None:
    """The step of `folder` where every file is as its manifest says; told without the program's own code."""
    try:
        manifest = json.loads((folder / "manifest.json").read_bytes())
        for entry in manifest["files"]:
            content = (folder / entry["name"]).read_bytes()
            if hashlib.sha256(content).hexdigest() != entry["sha256"]:
                return None
        return int(manifest["step"])
    except (OSError, ValueError):
        return None
