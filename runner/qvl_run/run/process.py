"""The child process of an attempt: started in a session of its own, ended with everything it started."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Protocol

import psutil

from qvl_run import caches
from qvl_run.faults import RUNNER_PID

ATTEMPT = "QVL_ATTEMPT"
"""Names the attempt's folder in the environment of all it starts."""
LOOK = 0.02
"""Seconds between two looks whether it has ended."""


class Process(Protocol):
    """A running attempt."""

    pid: int

    def wait(self, seconds: float) -> int | None:
        """The exit code, negative for a signal, once it has ended; None where it still runs after `seconds`. What it
        had started and left behind in its process group is ended with it."""

    def ask_to_stop(self) -> None:
        """Have it save and stop."""

    def wake(self) -> None:
        """Have it go on, where somebody has stopped it (SIGSTOP)."""

    def kill(self) -> None:
        """End it and all it started, now."""

    @property
    def left_behind(self) -> int:
        """How many processes of its group lived on after it, and were ended."""


class ChildProcess:
    """An attempt in a Python process of its own, at the head of a process group of its own."""

    def __init__(self, folder: Path, *, log: Path, env: Mapping[str, str]) -> None:
        mine = {RUNNER_PID: str(os.getpid()), ATTEMPT: str(folder)}
        with log.open("ab") as out:
            self._popen = subprocess.Popen(
                [sys.executable, "-m", "qvl_run.run.child", str(folder)],
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=subprocess.STDOUT,
                start_new_session=True,
                env={**os.environ, **mine, **env},
            )
        self.pid = self._popen.pid
        self._left_behind = 0

    @property
    def left_behind(self) -> int:
        """See `Process`."""
        return self._left_behind

    def wait(self, seconds: float) -> int | None:
        """See `Process`."""
        until = time.monotonic() + seconds
        while not self._ended():
            if time.monotonic() >= until:
                return None
            time.sleep(min(LOOK, max(0.0, until - time.monotonic())))
        if self._popen.returncode is None:
            self._end_group()
        return self._popen.wait()

    def ask_to_stop(self) -> None:
        """See `Process`. Somebody may have stopped it: then it could not hear."""
        self._send(signal.SIGTERM)
        self._send(signal.SIGCONT)

    def wake(self) -> None:
        """See `Process`."""
        self._send(signal.SIGCONT)

    def kill(self) -> None:
        """See `Process`."""
        if self._popen.returncode is None:
            self._end_group()
            self._popen.wait()

    def _ended(self) -> bool:
        """Whether it has ended. It is not reaped: while it is not, its group's number is nobody else's."""
        if self._popen.returncode is not None:
            return True
        options = os.WEXITED | os.WNOHANG | os.WNOWAIT
        return os.waitid(os.P_PID, self.pid, options) is not None

    def _end_group(self) -> None:
        ended = self._ended()
        others = [pid for pid in psutil.pids() if pid != self.pid and _group(pid) == self.pid]
        if ended:
            self._left_behind = len(others)
        with suppress(ProcessLookupError, PermissionError):
            os.killpg(self.pid, signal.SIGKILL)

    def _send(self, number: signal.Signals) -> None:
        if not self._ended():
            os.kill(self.pid, number)


def end_leftovers(scratch: Path) -> int:
    """End what attempts below `scratch` left behind when their runner was killed; how many processes that were."""
    count = 0
    for process in psutil.process_iter():
        try:
            mine = process.environ().get(ATTEMPT, "")
            if mine and scratch in Path(mine).parents and process.pid != os.getpid():
                process.kill()
                count += 1
        except (psutil.Error, OSError):
            continue  # another user's, or gone
    return count


def _group(pid: int) -> int | None:
    try:
        return os.getpgid(pid)
    except OSError:
        return None


_UNLESS_SET = {
    # TRL reports its use when a trainer is made: nobody asked the user.
    "HF_HUB_DISABLE_TELEMETRY": "1",
    # The driver's order, in which `qvl_run.hardware` has looked; CUDA's own is by speed.
    "CUDA_DEVICE_ORDER": "PCI_BUS_ID",
}
_ALLOCATOR = ("PYTORCH_ALLOC_CONF", "PYTORCH_CUDA_ALLOC_CONF")
"""Two names of one thing; the older still holds."""
# OpenMP's threads wait for each other by spinning, and take the cores from whoever else computes and does the same. On
# two cores a step of the quickstart took 0.075 s alone, with this or the default of 300000; two runs side by side took
# 0.18 s a step each with this, 0.5 to 2 s without (`benchmarks/side_by_side.py`). Where threads sleep at once, as
# `OMP_WAIT_POLICY: PASSIVE` has it, it took 0.13 s alone.
_SPINS = "1000"
_SPINNING = ("GOMP_SPINCOUNT", "OMP_WAIT_POLICY")
"""The one is said for as long as the other is not."""


def environment(downloads: Path | None) -> dict[str, str]:
    """Variables of the child. `downloads` is the drive that keeps what it downloads, see `caches`."""
    env = {"PYTHONFAULTHANDLER": "1", "TOKENIZERS_PARALLELISM": "false", "PYTHONUNBUFFERED": "1"}
    env |= {name: value for name, value in _UNLESS_SET.items() if name not in os.environ}
    # A stage trains on one GPU, the first that is visible; with more in sight TRL refuses to start.
    env["CUDA_VISIBLE_DEVICES"] = os.environ.get("CUDA_VISIBLE_DEVICES", "0").partition(",")[0]
    if not any(name in os.environ for name in _ALLOCATOR):
        # Rows of ever other lengths tear the memory to pieces otherwise; predictions count on little of that.
        env[_ALLOCATOR[0]] = "expandable_segments:True"
    if not any(name in os.environ for name in _SPINNING):
        env[_SPINNING[0]] = _SPINS
    return env | caches.variables(downloads)
