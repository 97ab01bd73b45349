"""Bring the missing files of a repository into the hub's cache. What is there, whole, is not asked for again."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from qvl_run.contract import StageError
from qvl_run.disk import LOCAL
from qvl_trl.downloads.broken import clear_broken, free_lock
from qvl_trl.downloads.cache import RemoteFile, RepoCache, sizes
from qvl_trl.downloads.explain import no_space
from qvl_trl.downloads.transfer import Transfer
from qvl_trl.downloads.watch import Watch

MARGIN = 64 * 1024 * 1024
"""Bytes that stay free beside a download."""
CLEAR_FROM = 2
"""Failed tries in a row from which on the cache itself is suspected."""

_log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class Fetch:
    """How one repository's files come into its cache; `free` measures a folder's free bytes."""

    cache: RepoCache
    watch: Watch
    transfer: Transfer
    free: Callable[[Path], int] = LOCAL.free
    subject: str = "model"
    """What it is for people: "model" or "data set"."""

    def suspect(self, commit: str | None, files: Sequence[RemoteFile]) -> list[str]:
        """After repeated failures: clear what is broken of this repository, `files` being those listed for `commit`.
        Returns what was cleared, in words."""
        if self.watch.tries < CLEAR_FROM or not self.cache.folder.is_dir():
            return []
        self.watch.begin(have=0, total=0)
        cleared = clear_broken(self.cache, commit=commit, files=files, checked=self.watch.checked)
        for what in cleared:
            _log.warning("cleared from the cache of %s: %s", self.cache.repo, what)
        return cleared

    def files(self, commit: str, files: Sequence[RemoteFile]) -> Path:
        """The snapshot of `commit` with all of `files` in it. Raises StageError for want of space, StageStopped, and
        what `Transfer.fetch` raises."""
        missing = [file for file in files if not self.cache.has(file, commit)]
        if missing:
            for file in missing:
                if not self._adopt(file, commit):
                    self.cache.remove(file, commit)
            self._download(commit, files)
        return self.cache.snapshot(commit)

    def _adopt(self, file: RemoteFile, commit: str) -> bool:
        """Link content that is there, of another commit or of a try that ended before the link."""
        blob = self.cache.blob(file.etag)
        if sizes([blob]) != file.size or not blob.exists():
            return False
        self.cache.place(file, commit, content=blob)
        return True

    def _download(self, commit: str, files: Sequence[RemoteFile]) -> None:
        missing = [file for file in files if not self.cache.has(file, commit)]
        total = sum(file.size for file in files)
        need = sum(max(0, file.size - sizes([self.cache.partial(file.etag)])) for file in missing)
        self.watch.begin(have=total - need, total=total)
        self._need_space(need)
        for file in missing:
            self._one(commit, file)
        self.watch.finished()

    def _one(self, commit: str, file: RemoteFile) -> None:
        part = self.cache.partial(file.etag)
        with free_lock(self.cache, file.etag) as alone:
            if not alone:
                # Another process is at it: a copy of our own costs bytes, waiting might never end.
                part = part.with_name(f"{file.etag}.{os.getpid():x}.incomplete")
            part.parent.mkdir(parents=True, exist_ok=True)
            self.transfer.fetch(self._url(commit, file), file, part)
            self.cache.place(file, commit, content=part)

    def _url(self, commit: str, file: RemoteFile) -> str:
        from huggingface_hub import hf_hub_url

        kind = None if self.cache.kind == "model" else self.cache.kind
        return hf_hub_url(self.cache.repo, file.name, repo_type=kind, revision=commit)

    def room(self) -> int:
        """Free bytes where the cache lies."""
        self.cache.root.mkdir(parents=True, exist_ok=True)
        return self.free(self.cache.root)

    def _need_space(self, need: int) -> None:
        if (free := self.room()) < need + MARGIN:
            raise no_space(
                self.cache.repo, kind=self.subject, folder=self.cache.root, need=need, free=free
            )


def hub_cache() -> Path:
    """The hub's cache on this machine, as its variables say."""
    from huggingface_hub import constants

    return Path(constants.HF_HUB_CACHE).expanduser().resolve()


def make_fetch(repo: str, *, kind: str, watch: Watch) -> Fetch:
    """For `repo` (kind "model" or "dataset"), with the user's token."""
    from huggingface_hub.utils import build_hf_headers  # type: ignore[attr-defined]

    return Fetch(
        cache=RepoCache(root=hub_cache(), repo=repo, kind=kind),
        watch=watch,
        transfer=Transfer(watch=watch, headers=build_hf_headers()),
        subject="model" if kind == "model" else "data set",
    )


def no_weights(repo: str) -> StageError:
    """`repo` has nothing that may be loaded."""
    return StageError(
        f"the model {repo} has no weights in safetensors files; pickles are never loaded, as they could run code",
        failure="config",
    )
