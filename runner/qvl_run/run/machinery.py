"""What a run touches the world with, so that tests can put something else in its place."""

from __future__ import annotations

import random
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

from qvl_run.run import kernel
from qvl_run.run.process import ChildProcess, Process
from qvl_run.run.show import Show
from qvl_run.watchdog.gpu import Gpu


class Start(Protocol):
    """Starts the process of an attempt."""

    def __call__(self, folder: Path, *, log: Path, env: dict[str, str]) -> Process:
        """Start the attempt whose orders lie in `folder`; what it prints goes to `log`."""


@dataclass(kw_only=True)
class Machinery:
    """`stop` is asked between looks whether the user wants the run to end: 0 no, 1 save and stop, 2 at once. `clock`
    gives seconds since the epoch, `ticks` those of a clock that nobody sets. `sleep` waits between two tries of a
    store; `chance` is from 0 to 1; `oom_kills` counts what the kernel has killed for want of memory."""

    show: Show
    start: Start = ChildProcess
    clock: Callable[[], float] = time.time
    ticks: Callable[[], float] = time.monotonic
    sleep: Callable[[float], object] = time.sleep
    stop: Callable[[], int] = lambda: 0
    chance: Callable[[], float] = random.random
    oom_kills: Callable[[], int | None] = kernel.oom_kills
    gpu: Gpu = field(default_factory=Gpu)
