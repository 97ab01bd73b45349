"""What is collected of a child that is about to be killed: where it stands, and what it printed last.

The child has faulthandler on SIGUSR1, which writes the Python stacks of all threads to the log; that works while a
thread holds the GIL, and not while the process is stopped. Nothing here raises; it takes 3 seconds at most.
"""

from __future__ import annotations

import os
import re
import signal
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import psutil

from qvl_run.watchdog.gpu import Gpu
from qvl_run.watchdog.observe import process_state
from qvl_run.watchdog.snapshot import ProcessState

LINES = 20
"""Last lines of the log."""
PAUSE, PAUSES = 0.05, 40
"""Seconds between two looks at the log, and how many of them."""
LONGEST_TAIL = 64 * 1024
"""Bytes of a log that are looked at."""
LONGEST_LINE = 500
"""Characters of a line that are kept."""

_HEAD = re.compile(r"^(Current thread|Thread) 0x[0-9a-f]+")
_FRAME = re.compile(r'^  File "(?P<file>.*)", line (?P<line>[0-9?]+) in (?P<name>.+)$')


@dataclass(frozen=True, kw_only=True)
class Evidence:
    """`stacks` as faulthandler writes them, empty where there are none: `note` then says why. `lines` are the last of
    the log before them; `threads` counts those of the process; `gpu_memory` is bytes in use on its GPU."""

    process: ProcessState | None
    threads: int | None
    stacks: str
    note: str
    lines: tuple[str, ...]
    gpu_memory: int | None

    @property
    def stands_at(self) -> str:
        """The innermost Python frame of the thread that was interrupted, the main one as a rule; may be empty."""
        for head in ("Current thread", ""):
            lines = iter(self.stacks.splitlines())
            if any(line.startswith(head) for line in lines):
                frame = _FRAME.match(next(lines, ""))
                if frame:
                    return f"{frame['name']} ({frame['file']}:{frame['line']})"
        return ""


def gather(
    pid: int | None,
    log: Path,
    *,
    gpu: Gpu | None = None,
    pause: Callable[[float], object] = time.sleep,
) -> Evidence:
    """What can be had of the process `pid`, a child of this one that is about to be killed."""
    process = process_state(pid)
    start = _size(log)
    lines = last_lines(log, LINES)
    stacks, note = "", _why_not(pid, process)
    if pid is not None and not note:
        with suppress(OSError):
            os.kill(pid, signal.SIGUSR1)
        stacks = _dumped(log, start, pause)
        note = "" if stacks else "it did not answer the request for its stacks"
    return Evidence(
        process=process,
        threads=_threads(pid),
        stacks=stacks,
        note=note,
        lines=tuple(lines),
        gpu_memory=gpu.memory_used() if gpu else None,
    )


def last_lines(path: Path, count: int, *, max_bytes: int = LONGEST_TAIL) -> list[str]:
    """The last `count` lines of `path`, read from its last `max_bytes` alone. What is no
    UTF-8 or cannot be shown is replaced; of a line that was written over (a progress bar) the last state is given."""
    start = max(0, _size(path) - max_bytes)
    lines = _read(path, start, max_bytes).split("\n")
    if start and len(lines) > 1:
        del lines[0]  # its beginning is not here
    shown = (_shown(line.rstrip("\r").rpartition("\r")[2]) for line in lines)
    kept = [line[:LONGEST_LINE] for line in shown if line.strip()]
    return kept[-count:] if count > 0 else []


def stacks_in(text: str) -> str:
    """The stacks that faulthandler wrote somewhere in `text`."""
    kept: list[str] = []
    inside = False
    for line in text.splitlines():
        inside = bool(_HEAD.match(line)) or (inside and line.startswith("  "))
        if inside:
            kept.append(line)
    return "\n".join(kept)


def _dumped(log: Path, start: int, pause: Callable[[float], object]) -> str:
    """What was written to `log` after `start`, once two looks find the same."""
    before = ""
    for _ in range(PAUSES):
        pause(PAUSE)
        found = stacks_in(_read(log, start, LONGEST_TAIL))
        if found and found == before:
            break
        before = found
    return before


def _why_not(pid: int | None, process: ProcessState | None) -> str:
    if pid is None:
        return "the process is not known"
    if process in ("stopped", "gone"):
        return f"the process is {process}"
    if not _listens(pid):
        return "it had not begun to listen to requests for its stacks"
    return ""


def _listens(pid: int) -> bool:
    """Whether SIGUSR1 is caught; one that is not would end the process. True where the system does not tell."""
    try:
        status = Path(f"/proc/{pid}/status").read_text(encoding="utf-8")
        caught = re.search(r"^SigCgt:\s*([0-9a-f]+)$", status, re.MULTILINE)
        return caught is None or bool(int(caught[1], 16) >> (signal.SIGUSR1 - 1) & 1)
    except OSError:
        return True


def _threads(pid: int | None) -> int | None:
    if pid is None:
        return None
    try:
        return int(psutil.Process(pid).num_threads())
    except Exception:
        return None


def _size(path: Path) -> int:
    try:
        return path.stat().st_size
    except OSError:
        return 0


def _read(path: Path, start: int, count: int) -> str:
    try:
        with path.open("rb") as file:
            file.seek(start)
            return file.read(count).decode("utf-8", "replace")
    except OSError:
        return ""


def _shown(line: str) -> str:
    return "".join(c if c.isprintable() or c == "\t" else "\N{REPLACEMENT CHARACTER}" for c in line)
