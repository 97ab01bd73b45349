"""The child process of an attempt: started in a session of its own, ended with everything it started."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Protocol

from qvl_run.faults import RUNNER_PID


class Process(Protocol):
    """A running attempt."""

    def poll(self) -> int | None:
        """The exit code, negative for a signal; None while it runs."""

    def wait(self, seconds: float) -> int | None:
        """As `poll`, after waiting for the end for at most `seconds`."""

    def ask_to_stop(self) -> None:
        """Have it save and stop."""

    def kill(self) -> None:
        """End it and all it started, now."""


class ChildProcess:
    """An attempt in a Python process of its own."""

    def __init__(self, folder: Path, *, log: Path, env: Mapping[str, str]) -> None:
        with log.open("ab") as out:
            self._popen = subprocess.Popen(
                [sys.executable, "-m", "qvl_run.run.child", str(folder)],
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=subprocess.STDOUT,
                start_new_session=True,
                env={**os.environ, RUNNER_PID: str(os.getpid()), **env},
            )

    def poll(self) -> int | None:
        """See `Process`."""
        return self._popen.poll()

    def wait(self, seconds: float) -> int | None:
        """See `Process`."""
        try:
            return self._popen.wait(seconds)
        except subprocess.TimeoutExpired:
            return None

    def ask_to_stop(self) -> None:
        """See `Process`."""
        if self._popen.poll() is None:
            self._popen.terminate()

    def kill(self) -> None:
        """See `Process`."""
        try:
            os.killpg(self._popen.pid, signal.SIGKILL)
        except ProcessLookupError:
            return
        self._popen.wait()


_UNLESS_SET = {
    # TRL reports its use when a trainer is made: nobody asked the user.
    "HF_HUB_DISABLE_TELEMETRY": "1",
    # The driver's order, in which `qvl_run.hardware` has looked; CUDA's own is by speed.
    "CUDA_DEVICE_ORDER": "PCI_BUS_ID",
}


def environment(downloads: Path | None) -> dict[str, str]:
    """Variables of the child. Downloads are kept below `downloads`, a drive, in the folders the guide names, unless the
    user has set their own; None leaves them where they go anyway."""
    env = {"PYTHONFAULTHANDLER": "1", "TOKENIZERS_PARALLELISM": "false", "PYTHONUNBUFFERED": "1"}
    env |= {name: value for name, value in _UNLESS_SET.items() if name not in os.environ}
    # A stage trains on one GPU, the first that is visible; with more in sight TRL refuses to start.
    env["CUDA_VISIBLE_DEVICES"] = os.environ.get("CUDA_VISIBLE_DEVICES", "0").partition(",")[0]
    if downloads is not None:
        caches = {"HF_HUB_CACHE": "hf_cache", "HF_DATASETS_CACHE": "datasets_cache"}
        mine = {"HF_HUB_CACHE", "HF_HOME", "HF_DATASETS_CACHE"} & set(os.environ)
        env |= {} if mine else {name: str(downloads / folder) for name, folder in caches.items()}
    return env
