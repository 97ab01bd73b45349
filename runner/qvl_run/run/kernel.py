"""What the kernel says of processes that it has killed for want of memory. Impure; never raises."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

_CGROUPS = Path("/sys/fs/cgroup")
_MINE = Path("/proc/self/cgroup")
_MACHINE = Path("/proc/vmstat")


def oom_kills() -> int | None:
    """How many processes the kernel has killed for want of memory so far: in this process's control group where it
    counts them (v2 `memory.events`, v1 `memory.oom_control`), else on the whole machine (`/proc/vmstat`). None where
    none of these can be read."""
    for path in (*_groups(), _MACHINE):
        try:
            found = re.search(r"^oom_kill (\d+)$", path.read_text(), re.M)
        except OSError:
            continue
        if found:
            return int(found[1])
    return None


def _groups() -> Iterator[Path]:
    try:
        lines = _MINE.read_text().splitlines()
    except OSError:
        return
    for line in lines:
        number, names, name = line.split(":", 2)
        relative = name.lstrip("/")
        if number == "0":
            yield _CGROUPS / relative / "memory.events"
            yield _CGROUPS / "memory.events"
        elif "memory" in names.split(","):
            yield _CGROUPS / "memory" / relative / "memory.oom_control"
            yield _CGROUPS / "memory" / "memory.oom_control"
