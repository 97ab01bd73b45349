"""One repository in the hub's cache, laid out as `huggingface_hub` documents it: `blobs`, `snapshots`, `refs`.

A file is a blob named by its etag, and a link to it in the snapshot of each commit; where the file system knows no
links (Drive), the file itself lies in the snapshot. Beside them, in `qvl-run`, the listing of each commit: with it a
whole snapshot is told from one that a lost connection cut short, without a network.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from qvl_run.disk import CHUNK

COMMIT = re.compile(r"[0-9a-f]{40}")
_SHA256 = re.compile(r"[0-9a-f]{64}")


@dataclass(frozen=True, kw_only=True)
class RemoteFile:
    """A file as the hub lists it. `etag` is its sha256, or its git object id where it is small; size in bytes."""

    name: str
    size: int
    etag: str

    @classmethod
    def listed(cls, name: str, entry: Any) -> RemoteFile:
        """From an entry of `HfApi`'s listings, which must carry sizes."""
        if entry.lfs:
            return cls(name=name, size=entry.lfs.size, etag=entry.lfs.sha256)
        return cls(name=name, size=entry.size, etag=entry.blob_id)


@dataclass(frozen=True, kw_only=True)
class RepoCache:
    """The part of the cache at `root` that belongs to one repository."""

    root: Path
    repo: str
    kind: str = "model"

    @property
    def folder(self) -> Path:
        """All of the repository but its locks."""
        return self.root / "--".join([f"{self.kind}s", *self.repo.split("/")])

    @property
    def locks(self) -> Path:
        """Lock files of downloads, named by etag."""
        return self.root / ".locks" / self.folder.name

    def snapshot(self, commit: str) -> Path:
        """The folder that `from_pretrained` takes."""
        return self.folder / "snapshots" / commit

    def blob(self, etag: str) -> Path:
        """Where the content named `etag` lies."""
        return self.folder / "blobs" / etag

    def partial(self, etag: str) -> Path:
        """Where that content lies while it arrives. The name is `huggingface_hub`'s of old."""
        return self.folder / "blobs" / f"{etag}.incomplete"

    def commit(self, revision: str | None) -> str | None:
        """The commit that `revision` (None: main) was when it was last downloaded."""
        if revision and COMMIT.fullmatch(revision):
            return revision
        try:
            text = (self.folder / "refs" / (revision or "main")).read_text().strip()
        except OSError:
            return None
        return text if COMMIT.fullmatch(text) else None

    def listing(self, commit: str) -> tuple[RemoteFile, ...] | None:
        """The files of `commit` that were asked for; None where that was not noted, or the note is broken."""
        try:
            rows = json.loads(self._note(commit).read_text())
            return tuple(RemoteFile(**row) for row in rows)
        except (OSError, ValueError, TypeError):
            return None

    def keep(self, commit: str, files: Sequence[RemoteFile], *, revision: str | None) -> None:
        """Note what `revision` is and which files it takes. Best effort: a cache may be read-only."""
        notes = {self._note(commit): json.dumps([asdict(file) for file in files], indent=1)}
        if revision != commit:
            notes[self.folder / "refs" / (revision or "main")] = commit
        for path, text in notes.items():
            try:
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_text(text)
            except OSError:
                continue

    def has(self, file: RemoteFile, commit: str) -> bool:
        """Whether the snapshot holds `file`, by size: cheap, and enough for what a lost connection cuts short."""
        return _size(self.snapshot(commit) / file.name) == file.size

    def place(self, file: RemoteFile, commit: str, *, content: Path) -> None:
        """Move `content`, whole and checked, to where the libraries look for `file`."""
        pointer, blob = self.snapshot(commit) / file.name, self.blob(file.etag)
        pointer.parent.mkdir(parents=True, exist_ok=True)
        pointer.unlink(missing_ok=True)
        target = Path(os.path.relpath(blob, pointer.parent))
        try:
            pointer.symlink_to(target)
        except OSError:  # no links here: one copy, where it is read
            content.replace(pointer)
            return
        if content != blob:
            content.replace(blob)

    def remove(self, file: RemoteFile, commit: str) -> None:
        """Remove `file` from the snapshot, and the content that it leads to."""
        remove_content(self.snapshot(commit) / file.name)

    def _note(self, commit: str) -> Path:
        return self.folder / "qvl-run" / f"{commit}.json"


def remove_content(path: Path) -> None:
    """Unlink `path` and, where it is a link, each file that it leads to."""
    while True:
        following = path.parent / path.readlink() if path.is_symlink() else None
        path.unlink(missing_ok=True)
        if following is None:
            return
        path = following


class Digest:
    """Computes an etag from the bytes: sha256, or git's object id. `known` is False for etags of other forms."""

    def __init__(self, etag: str, size: int) -> None:
        self._etag = etag
        self.known = bool(_SHA256.fullmatch(etag) or COMMIT.fullmatch(etag))
        self._hash = (
            hashlib.sha256() if _SHA256.fullmatch(etag) else hashlib.sha1(b"blob %d\0" % size)
        )

    def update(self, data: bytes) -> None:
        """Take in `data`."""
        if self.known:
            self._hash.update(data)

    def fits(self) -> bool:
        """Whether what was taken in is what the etag names; True where that cannot be told."""
        return not self.known or self._hash.hexdigest() == self._etag


def is_content(path: Path, etag: str, *, checked: Callable[[], None]) -> bool:
    """Whether the file at `path` is what `etag` names. Calls `checked` as it goes."""
    if (size := _size(path)) is None:
        return False
    digest = Digest(etag, size)
    with path.open("rb") as file:
        while data := file.read(CHUNK):
            digest.update(data)
            checked()
    return digest.fits()


def sizes(paths: Iterable[Path]) -> int:
    """Bytes of those of `paths` that exist."""
    return sum(_size(path) or 0 for path in paths)


def _size(path: Path) -> int | None:
    try:
        return path.stat().st_size
    except OSError:
        return None
