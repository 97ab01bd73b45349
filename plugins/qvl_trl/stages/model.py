"""What is wrong with the model that a job names, as far as can be told without asking the hub."""

from __future__ import annotations

import re
from collections.abc import Iterator
from difflib import get_close_matches
from pathlib import Path

from qvl_run import plugins
from qvl_run.contract import Finding
from qvl_run.settings import ModelSettings, StageSettings
from qvl_trl.models.architecture import (
    FAMILY,
    KNOWN,
    RANDOM,
    family,
    is_folder,
    is_known,
    known_names,
)

_AT = "model.name"
_HUB_ID = re.compile(r"[\w.-]+/[\w.-]+", re.ASCII)
_PATH = (".", "/", "~")
_EXPERTS = re.compile(r"Qwen/Qwen3-VL-\d+B-A\d+B\b")
"""Names of mixtures of experts: so many parameters, so many of them active."""


def check_model(settings: StageSettings) -> Iterator[Finding]:
    """What `random:` cannot make, a folder that holds no model, and what is no dense Qwen3-VL."""
    model, name = settings.model, settings.model.name
    if name.startswith(RANDOM):
        yield from _check_random(model)
        return
    if is_folder(name) and name not in plugins.installed("qvl.models"):
        if not (Path(name) / "config.json").is_file():
            yield Finding(_AT, f"the folder {name} has no config.json: there is no model in it")
            return
    elif name not in plugins.installed("qvl.models") and not _is_id(name):
        yield _nowhere(name)
        return
    found = family(settings)
    if found is None:
        yield from _check_id(name)
    elif found != FAMILY:
        what = f"is a {found}" if found else "says in its config.json no model_type"
        message = f"{name} {what}: only a dense Qwen3-VL ({FAMILY}) can be trained"
        yield Finding(_AT, message, f"known: {known_names()}")


def _check_random(model: ModelSettings) -> Iterator[Finding]:
    if not is_known(model.name):
        message = f"the sizes of {model.name.removeprefix(RANDOM)} are not known"
        yield Finding(_AT, f"{message}; those of these are: {known_names()}")
    if model.revision is not None:
        message = "random weights have no revision: it would do nothing"
        yield Finding("model.revision", message)


def _is_id(name: str) -> bool:
    return _HUB_ID.fullmatch(name) is not None and not name.startswith(_PATH)


def _nowhere(name: str) -> Finding:
    if name.startswith(_PATH):
        where = ", seen from where the command is run" if name.startswith(".") else ""
        return Finding(_AT, f"there is no folder {name}{where}")
    bundled = ", ".join(plugins.installed("qvl.models"))
    message = f"{name} is no hub id (owner/name), no folder here and no bundled model ({bundled})"
    return Finding(_AT, message, _near(name))


def _check_id(name: str) -> Iterator[Finding]:
    """An id of the hub whose config.json is not here."""
    if _EXPERTS.match(name):
        message = f"{name} is a mixture of experts: only a dense Qwen3-VL can be trained"
        yield Finding(_AT, message, f"known: {known_names()}")
    elif name.startswith("Qwen/") and name not in KNOWN:
        message = f"no Qwen3-VL called {name} is known: its sizes, and whether it is there, show at the download"
        yield Finding(_AT, message, _near(name) or f"known: {known_names()}", "warning")


def _near(name: str) -> str:
    """The known name of the same size that `name`, with or without an owner, is most like."""
    tail = name.rpartition("/")[2].lower()
    tails = {
        known.rpartition("/")[2].lower(): known
        for known in (*KNOWN, *plugins.installed("qvl.models"))
        if re.findall(r"\d+", known) == re.findall(r"\d+", tail)
    }
    near = get_close_matches(tail, tails, n=1, cutoff=0.8)
    return f'did you mean "{tails[near[0]]}"?' if near else ""
