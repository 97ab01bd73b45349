"""The RAM that a process and all it starts take, looked at from outside (Linux)."""

from __future__ import annotations

import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

import psutil

EVERY = 0.25
"""Seconds between two looks."""
OWN = re.compile(r"^(?:RssAnon|RssShmem):\s+(\d+) kB$", re.MULTILINE)
"""Pages that no file stands behind: what is mapped from one can be given up and read again (man 5 proc)."""


@dataclass
class HostMemory:
    """The most that the attempts at each stage took, in bytes, by stage."""

    most: dict[str, int] = field(default_factory=dict)

    def look(self, pid: int) -> None:
        """Count the processes that `pid` has started, each attempt with what it started itself."""
        with suppress(psutil.Error):
            for child in psutil.Process(pid).children():
                stage = stage_of(child.cmdline())
                if stage is None:
                    continue
                tree = [child, *child.children(recursive=True)]
                used = sum(own_memory(one.pid) for one in tree)
                self.most[stage] = max(self.most.get(stage, 0), used)

    @contextmanager
    def watching(self, pid: int) -> Iterator[None]:
        """Look every now and then."""
        over = threading.Event()

        def watch() -> None:
            while not over.wait(EVERY):
                self.look(pid)

        thread = threading.Thread(target=watch, daemon=True)
        thread.start()
        try:
            yield
        finally:
            over.set()
            thread.join()


def stage_of(command: list[str]) -> str | None:
    """The stage that a child works at: its folder of orders is the last argument, named by stage and attempt."""
    if "qvl_run.run.child" not in command:
        return None
    return Path(command[-1]).parent.name


def own_memory(pid: int) -> int:
    """Bytes of a process that no file stands behind; 0 once it is gone."""
    try:
        text = Path(f"/proc/{pid}/status").read_text(encoding="utf-8")
    except OSError:
        return 0
    return 1024 * sum(int(kib) for kib in OWN.findall(text))
