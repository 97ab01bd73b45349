"""Where the hub's libraries keep what they download: told to an attempt, and known to the plan."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path

_FOLDERS = {"HF_HUB_CACHE": "hf_cache", "HF_DATASETS_CACHE": "datasets_cache"}
"""Below a drive, as the Colab guide names them."""
_OLD = "HUGGINGFACE_HUB_CACHE"
_THEIRS = {"HF_HOME", _OLD, *_FOLDERS}


def variables(drive: Path | None, environ: Mapping[str, str] = os.environ) -> dict[str, str]:
    """What is to be set so that downloads are kept on `drive`, for other machines. Nothing without one, or where the
    user has set one of these: then they go where they go anyway."""
    if drive is None or _THEIRS & set(environ):
        return {}
    return {name: str(drive / folder) for name, folder in _FOLDERS.items()}


def hub_cache(drive: Path | None, environ: Mapping[str, str] = os.environ) -> Path:
    """The hub's cache of a job that keeps its downloads on `drive`: as `huggingface_hub.constants` finds it, which is
    slow to import."""
    set_to = {**environ, **variables(drive, environ)}
    base = set_to.get("XDG_CACHE_HOME") or "~/.cache"
    home = set_to.get("HF_HOME") or f"{base}/huggingface"
    found = set_to.get("HF_HUB_CACHE") or set_to.get(_OLD) or f"{home}/hub"
    return Path(os.path.expandvars(found)).expanduser()
