"""Small JSON files of this machine's disk, written so that a reader sees the old content or the new, never a part."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

from qvl_run.disk import LOCAL


def write_json(path: Path, data: Any) -> None:
    """Write `data` beside `path`, sync it, and rename it into place. Atomic on a local disk only."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    LOCAL.write(temporary, [(json.dumps(data, indent=1) + "\n").encode()], sync=True)
    LOCAL.rename(temporary, path)


def replace_json(path: Path, data: Any) -> None:
    """As `write_json`, without the sync: for progress, which may be lost with the machine."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    temporary.write_text(json.dumps(data), encoding="utf-8")
    temporary.replace(path)


def read_json(path: Path) -> Any | None:
    """The content, or None where the file is missing or not whole."""
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (FileNotFoundError, json.JSONDecodeError, UnicodeDecodeError):
        return None
