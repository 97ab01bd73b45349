"""The schemas and job files that ship with the package, whether it is installed from a wheel or editable."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Literal

_PACKAGE = Path(__file__).resolve().parent


@cache
def folder(name: Literal["schemas", "jobs"]) -> Path:
    """The folder of that name. In a checkout the files stand at the root, beside `runner/`."""
    shipped = _PACKAGE / name
    return shipped if shipped.is_dir() else _PACKAGE.parent.parent / name


def shipped_jobs() -> dict[str, Path]:
    """The shipped job files by name, without `.yaml`, sorted."""
    return {path.stem: path for path in sorted(folder("jobs").glob("*.yaml"))}
