"""Questions to the file system about paths that come from a job file, and may be anything."""

from __future__ import annotations

from pathlib import Path


def is_file(path: Path) -> bool:
    """Whether there is a file; False too for a name that no file can have."""
    try:
        return path.is_file()
    except (OSError, ValueError):
        return False


def exists(path: Path) -> bool:
    """Whether there is anything; False too for a name that nothing can have."""
    try:
        return path.exists()
    except (OSError, ValueError):
        return False


def expanded(text: str) -> Path:
    """`text` as a path, `~` replaced where there is such a home."""
    try:
        return Path(text).expanduser()
    except (RuntimeError, ValueError):
        return Path(text)
