"""A model of the hub, as a folder: downloaded first, checked, then loaded without a network.

Exactly what is loaded comes: weights in safetensors, configuration and tokenizer; never a pickle. A model that is
whole in the cache is not asked for again, so that every attempt and stage trains on the same commit.
"""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from qvl_run.contract import StageError, StageStopped
from qvl_trl.downloads.cache import RemoteFile
from qvl_trl.downloads.explain import explained, last_words
from qvl_trl.downloads.fetch import CLEAR_FROM, Fetch, make_fetch, no_weights
from qvl_trl.downloads.watch import Watch

ASK_TIMEOUT = 20.0
"""Seconds for the hub to list a repository: the library's own default is to wait for ever."""
_WEIGHTS = "model.safetensors"
_SHARD = re.compile(r"model-\d+-of-\d+\.safetensors")
_TEXTS = re.compile(r"[^/]+\.(json|txt|model|jinja)|additional_chat_templates/[^/]+\.jinja")
_HEADER = 8
"""Bytes at the start of a safetensors file that hold its header's length."""


def model_folder(
    repo: str, *, revision: str | None, watch: Watch, fetch: Fetch | None = None
) -> Path:
    """The folder of `repo` in the cache, whole. Raises StageError ("config", "disk", "download") and StageStopped."""
    try:
        fetch = fetch or make_fetch(repo, kind="model", watch=watch)
        return _folder(fetch, revision)
    except (StageError, StageStopped):
        raise
    except Exception as error:
        root = fetch.cache.root if fetch else Path()
        told = explained(error, repo, kind="model", revision=revision, folder=root)
        if told is None:
            raise
        tries = watch.tries + 1
        if fetch is None or told.failure != "download" or tries <= CLEAR_FROM:
            raise told from error
        cache = fetch.cache
        commit = cache.commit(revision)
        listed = commit is not None and cache.listing(commit) is not None
        more = last_words(tries, folder=cache.root, free=fetch.room(), listed=listed)
        raise StageError(f"{told}{more}", failure="download") from error


def _folder(fetch: Fetch, revision: str | None) -> Path:
    cache = fetch.cache
    commit = cache.commit(revision)
    files = cache.listing(commit) if commit else None
    fetch.suspect(commit, files or ())
    if commit is None or files is None:
        try:
            info = fetch.transfer.patiently(lambda: _ask(fetch, revision))
        except Exception as error:
            # A cache that other tools filled has no listing of ours: without a network its files must speak.
            told = explained(error, cache.repo, kind="model", revision=revision, folder=cache.root)
            if told is None or told.failure != "download" or commit is None:
                raise
            problems = problems_of(cache.snapshot(commit))
            if problems:
                raise StageError(f"{told}; {'; '.join(problems)}", failure="download") from error
            return cache.snapshot(commit)
        commit, files = info.sha, needed(cache.repo, info.siblings)
        cache.keep(commit, files, revision=revision)
    return fetch.files(commit, files)


def _ask(fetch: Fetch, revision: str | None) -> Any:
    from huggingface_hub import HfApi

    return HfApi().model_info(
        fetch.cache.repo, revision=revision, files_metadata=True, timeout=ASK_TIMEOUT
    )


def needed(repo: str, siblings: Sequence[Any]) -> tuple[RemoteFile, ...]:
    """Of the hub's listing, the files that are loaded. Raises StageError where there are no weights."""
    names = {entry.rfilename for entry in siblings}
    weights = {_WEIGHTS} & names or {name for name in names if _SHARD.fullmatch(name)}
    if not weights:
        raise no_weights(repo)
    return tuple(
        RemoteFile.listed(entry.rfilename, entry)
        for entry in sorted(siblings, key=lambda entry: str(entry.rfilename))
        if entry.rfilename in weights or _TEXTS.fullmatch(entry.rfilename)
    )


def problems_of(folder: Path) -> list[str]:
    """What is missing or cut short in a model's folder, in words, judged by the files alone."""
    index = folder / f"{_WEIGHTS}.index.json"
    names = {"config.json", "preprocessor_config.json", "tokenizer_config.json"}
    names |= {path.name for path in folder.glob("*.json")}
    if not (folder / "tokenizer.json").exists():
        names |= {"vocab.json", "merges.txt"}
    broken = [f"{name} {why}" for name in sorted(names) if (why := _wrong_text(folder / name))]
    weights = [_WEIGHTS]
    if not (folder / _WEIGHTS).exists() and index.exists() and not _wrong_text(index):
        weights = sorted(set(json.loads(index.read_text(encoding="utf-8"))["weight_map"].values()))
    return broken + [f"{name} {why}" for name in weights if (why := _wrong_weights(folder / name))]


def _wrong_text(path: Path) -> str | None:
    try:
        text = path.read_text(encoding="utf-8")
        if path.suffix == ".json":
            json.loads(text)
    except OSError:
        return "is missing"
    except ValueError:
        return "is cut short"
    return None if text else "is empty"


def _wrong_weights(path: Path) -> str | None:
    """By the header, which says how long the file must be."""
    try:
        size = path.stat().st_size
        with path.open("rb") as file:
            length = int.from_bytes(file.read(_HEADER), "little")
            header = json.loads(file.read(length if length < size else 0))
    except OSError:
        return "is missing"
    except ValueError:
        return "is cut short"
    ends = [value["data_offsets"][1] for name, value in header.items() if name != "__metadata__"]
    return None if size == _HEADER + length + max(ends, default=0) else "is cut short"
