"""Watches one attempt from its start to its end: passes wishes on, acts on what the watchdog finds, keeps evidence.

What ended it is told as `Remains`; what that means is decided elsewhere.
"""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from typing import Any

from qvl_run import files
from qvl_run.recovery.classify import Remains
from qvl_run.run import kernel
from qvl_run.run.attempt import AttemptFolder
from qvl_run.run.process import Process
from qvl_run.run.release import wait_for_release
from qvl_run.units import show_duration, show_size
from qvl_run.watchdog.deadlines import Seen
from qvl_run.watchdog.detectors import Finding
from qvl_run.watchdog.evidence import gather, last_lines
from qvl_run.watchdog.gpu import Gpu
from qvl_run.watchdog.watch import Watch

POLL = 0.2
"""Seconds between two looks at the child."""
GRACE = 120.0
"""Least seconds that a child has to save, once it has been asked to stop."""
HUNG_GRACE = 5.0
"""Seconds that a child has which the watchdog ends: it does not answer, as a rule."""
LAST_WORDS = 60.0
"""Seconds that a child has to end, once it has left its result or its account of an error."""
LONGEST_LOG = 64 * 1024 * 1024
"""Bytes of a log from which on its middle is cut out: a stage that floods it must not fill the disk."""
KEPT = 1024 * 1024
"""Bytes that stay at each end of such a log."""


@dataclass(frozen=True, kw_only=True)
class Wish:
    """What is wanted of the child. `stop`: 0 nothing, 1 save and stop, 2 end at once; `why` is told to people.
    `save`: a checkpoint now; `after_save`: a stop after the next one."""

    stop: int = 0
    why: str = ""
    save: bool = False
    after_save: bool = False


@dataclass(frozen=True, kw_only=True)
class Ended:
    """How an attempt ended. `asked` is why it was asked to stop, empty where it was not; `seen` are the longest
    silences of its sections, for the deadlines of the next."""

    remains: Remains
    asked: str
    seen: Seen
    left_behind: int


@dataclass(kw_only=True)
class Supervisor:
    """Watches `process`, whose orders lie in `folder`. `wishes` is asked at every look; `note` writes events, `show`
    shows progress, `tell` warns, `say` says what is no warning."""

    process: Process
    folder: AttemptFolder
    watch: Watch
    wishes: Callable[[], Wish]
    note: Callable[..., None]
    show: Callable[[Mapping[str, Any] | None], None]
    tell: Callable[[str], None]
    say: Callable[[str], None]
    gpu: Gpu
    clock: Callable[[], float] = time.monotonic
    oom_kills: Callable[[], int | None] = kernel.oom_kills
    _asked: str = ""
    _asked_at: float = 0.0
    _killed_for: str = ""
    _killed_at: float = 0.0
    _worded_at: float | None = None
    _acted: set[str] = field(default_factory=set)

    def run(self) -> Ended:
        """Watch until it has ended. Its memory on the GPU is free again then, as far as can be seen."""
        before, used = self.oom_kills(), self.gpu.memory_used()
        try:
            while (returncode := self.process.wait(POLL)) is None:
                self._look()
        finally:
            self.process.kill()
        self._wait_for_gpu(used)
        progress = self.folder.read("progress") or {}
        after = self.oom_kills()
        return Ended(
            remains=Remains(
                error=self.folder.read("error"),
                returncode=returncode,
                killed_for=self._killed_for,
                section=progress.get("section"),
                step=int(progress.get("reached") or 0),
                oom_kills=None if before is None or after is None else after - before,
                ram_left=self._ram_left(),
                disk_left=self._disk_left(),
                log="\n".join(last_lines(self.folder.log, 40)),
            ),
            asked=self._asked,
            seen=self.watch.learned,
            left_behind=self.process.left_behind,
        )

    def _look(self) -> None:
        verdict = self.watch.look()
        self.show(self.watch.progress)
        for finding in verdict.warnings:
            self.note("finding", name=finding.name, text=finding.text)
            self.tell(finding.text)
        if verdict.action is not None:
            self._act(verdict.action)
        self._pass_on(self.wishes())
        self._end_if_due()
        self._cut_log()

    def _act(self, finding: Finding) -> None:
        if finding.act == "stop":
            self._ask(finding.text)
        elif finding.name in self._acted:
            return
        elif finding.act == "wake":
            self.note("finding", name=finding.name, text=finding.text)
            self.tell(finding.text)
            self.process.wake()
            return
        elif finding.act == "kill":
            self._kill(finding.text)
        self._acted.add(finding.name)

    def _kill(self, why: str) -> None:
        """End a child that hangs, after asking it where it is."""
        evidence = gather(self.process.pid, self.folder.log, gpu=self.gpu)
        report = self.folder.path / "evidence.json"
        with suppress(OSError):
            files.write_json(report, asdict(evidence))
        if evidence.stands_at:
            why = f"{why}; it stands in {evidence.stands_at}"
        if self.folder.read("error") is None:
            self._killed_for = why
        self.note("killed", why=why, where=evidence.stands_at, evidence=str(report))
        self.tell(f"{why}: ending it. Its stacks: {report}")
        self._killed_at = self.clock()
        self.process.ask_to_stop()

    def _pass_on(self, wish: Wish) -> None:
        with suppress(OSError):  # a full disk: what runs goes on
            if wish.save:
                self.folder.save_file.touch()
            if wish.after_save:
                self.folder.stop_file.touch()
        if wish.stop:
            self._ask(wish.why)
        if wish.stop > 1:
            self.process.kill()

    def _ask(self, why: str) -> None:
        if self._asked or self._killed_for:
            return
        self._asked, self._asked_at = why, self.clock()
        self.note("stop_asked", why=why)
        self.say(f"{why}: saving and stopping (Ctrl-C again ends it at once)")
        self.process.ask_to_stop()

    def _end_if_due(self) -> None:
        now = self.clock()
        if self._killed_for and now - self._killed_at > HUNG_GRACE:
            self.process.kill()
        if self._asked and now - self._asked_at > self._grace():
            self.tell(
                f"it has not saved within {show_duration(self._grace())}: ending it; what was saved before stays"
            )
            self.process.kill()
        if self._worded_at is None:
            if self.folder.read("error") or self.folder.read("result"):
                self._worded_at = now
        elif now - self._worded_at > LAST_WORDS:
            self.process.kill()

    def _grace(self) -> float:
        """A step and a save, as long as they have taken, and as much again."""
        seen = self.watch.snapshot
        return max(GRACE, 2 * ((seen.step_seconds or 0.0) + (seen.save_seconds or 0.0)))

    def _wait_for_gpu(self, before: int | None) -> None:
        if left := wait_for_release(self.gpu.memory_used, before=before, clock=self.clock):
            text = f"{show_size(left)} of the GPU's memory are still in use after the attempt"
            self.note("finding", name="gpu_memory", text=text)
            self.tell(f"{text}: another program may have taken them")

    def _ram_left(self) -> float | None:
        seen = self.watch.snapshot
        if seen.ram_available is None or not seen.ram_total:
            return None
        return seen.ram_available / seen.ram_total

    def _disk_left(self) -> int | None:
        with suppress(OSError):
            return shutil.disk_usage(self.folder.path).free
        return None

    def _cut_log(self) -> None:
        path = self.folder.log
        with suppress(OSError):
            if (size := path.stat().st_size) <= LONGEST_LOG:
                return
            with path.open("r+b") as file:
                file.seek(size - KEPT)
                tail = file.read(KEPT)
                # The child appends: what it writes meanwhile lands behind, wherever the end is then.
                file.truncate(KEPT)
                file.seek(KEPT)
                left_out = show_size(size - 2 * KEPT)
                file.write(f"\n... {left_out} of output left out here ...\n".encode() + tail)
            if "log" not in self._acted:
                self._acted.add("log")
                self.tell(f"the stage prints without end; only the ends of {path} are kept")
