"""Whether a token for the Hugging Face hub is there for those models that need one. The token itself is not read."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Mapping
from pathlib import Path

from qvl_run import plugins
from qvl_run.spec.diagnostic import Diagnostic
from qvl_run.spec.job import Job
from qvl_run.spec.paths import exists, expanded

_VARIABLES = ("HF_TOKEN", "HUGGING_FACE_HUB_TOKEN")
_HUB_ID = re.compile(r"[\w.-]+/[\w.-]+")
OPEN = ("Qwen/",)
"""Owners whose models anyone may download."""


def token_missing(job: Job, environ: Mapping[str, str] = os.environ) -> Iterator[Diagnostic]:
    """For each model of the hub that may be gated: whether it is, only the hub knows."""
    if has_token(environ):
        return
    seen = set()
    for stage in job.stages:
        name = stage.model["name"]
        at = ("stages", stage.name, "model", "name")
        if name in seen or not _may_be_gated(name):
            continue
        seen.add(name)
        span = job.document.span(at if job.document.has(at) else ("model", "name"))
        yield Diagnostic(
            code="QVL425",
            message="no token for the Hugging Face hub was found: "
            f"if {job.shown(name)} is gated, it cannot be downloaded",
            span=span,
            hint="accept its licence on its page; then set HF_TOKEN, or run: hf auth login",
            severity="warning",
        )


def has_token(environ: Mapping[str, str]) -> bool:
    """Whether a token is in the environment, or in the file where the hub's library looks for one
    (huggingface_hub/constants.py)."""
    if any(environ.get(name, "").strip() for name in _VARIABLES):
        return True
    cache = environ.get("XDG_CACHE_HOME") or "~/.cache"
    home = environ.get("HF_HOME") or f"{cache}/huggingface"
    return exists(expanded(environ.get("HF_TOKEN_PATH") or f"{home}/token"))


def _may_be_gated(name: str) -> bool:
    if name in plugins.installed("qvl.models") or not _HUB_ID.fullmatch(name):
        return False
    return not name.startswith(OPEN) and not exists(Path(name))
