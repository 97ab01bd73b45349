"""Clearing what is broken of one repository in the cache, and nothing else of the cache.

Broken is: what is left of downloads that nobody is at, locks that nobody holds, content that is not what its name
says, and the links to it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock, Timeout

from qvl_run.units import show_size
from qvl_trl.downloads.cache import Digest, RemoteFile, RepoCache, is_content, remove_content


@contextmanager
def free_lock(cache: RepoCache, etag: str) -> Iterator[bool]:
    """Whether nobody else downloads `etag`; if so nobody will in this block. A file system without locks: True."""
    path = cache.locks / f"{etag}.lock"
    lock = FileLock(path, timeout=0)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        lock.acquire()
    except Timeout:
        yield False
        return
    except (OSError, NotImplementedError):
        yield True
        return
    try:
        yield True
    finally:
        lock.release()


def clear_broken(
    cache: RepoCache,
    *,
    commit: str | None,
    files: Sequence[RemoteFile],
    checked: Callable[[], None],
) -> list[str]:
    """Remove what is broken; returns what was removed, in words. `files` are those listed for `commit`. Reads all of
    the repository once, and calls `checked` as it goes."""
    cleared = [*_partials(cache)]
    for blob in _below(cache.folder / "blobs"):
        etag = blob.name
        if not Digest(etag, 0).known or is_content(blob, etag, checked=checked):
            continue
        cleared.append(f"{_named(cache, blob)}: not what its name says")
        remove_content(blob)
    for file in files if commit else ():
        pointer = cache.snapshot(commit or "") / file.name
        # A link leads to a blob, seen above; here is the copy where the file system knows no links.
        whole = pointer.is_symlink() or is_content(pointer, file.etag, checked=checked)
        if pointer.is_file() and not whole:
            cleared.append(f"{file.name}: not what the hub lists")
            cache.remove(file, commit or "")
    for pointer in _below(cache.folder / "snapshots", recursive=True):
        if pointer.is_symlink() and not pointer.exists():
            pointer.unlink()
    for lock in _below(cache.locks):
        with free_lock(cache, lock.stem) as free:
            if free:
                lock.unlink(missing_ok=True)
    return cleared


def _partials(cache: RepoCache) -> Iterator[str]:
    for part in _below(cache.folder / "blobs"):
        if part.suffix != ".incomplete":
            continue
        with free_lock(cache, part.name.partition(".")[0]) as free:
            if free:
                size = part.lstat().st_size
                part.unlink()
                yield f"{show_size(size)} of an unfinished download"


def _named(cache: RepoCache, blob: Path) -> str:
    """The file's name in a snapshot that links to `blob`, else the blob's."""
    for pointer in _below(cache.folder / "snapshots", recursive=True):
        if pointer.is_symlink() and pointer.resolve() == blob.resolve():
            return pointer.name
    return blob.name


def _below(folder: Path, *, recursive: bool = False) -> list[Path]:
    found = folder.rglob("*") if recursive else folder.glob("*")
    return sorted(path for path in found if path.is_symlink() or path.is_file())
