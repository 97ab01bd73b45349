"""A store in a bucket of an object storage, through fsspec: `storage.bucket: s3://my-bucket/qwen3_vl`.

Promised: a file that was written and read back is there for every later reader; listings are asked for anew each
time; memory stays within a few parts of a file; whatever goes wrong surfaces as an OSError.

Not promised: that two machines are never both told True by `claim`, where the storage cannot create a file exclusively
(S3 itself and Google Cloud Storage can; some servers that speak S3's protocol cannot); that a bucket which does not
exist is told from an empty one where listing it is not allowed (the first write tells); that a write which failed
leaves no parts behind (have the bucket's lifecycle end unfinished uploads); that a removed file is gone from a bucket
that keeps versions.
"""

from __future__ import annotations

import contextlib
import errno
import os
import secrets
import socket
import ssl
import threading
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

from qvl_run.checkpoints.store import Level
from qvl_run.disk import CHUNK

PART = 8 * 1024 * 1024
"""Bytes of a file that are sent at once: S3 takes no parts below 5 MiB, and at most 10,000 of them."""
_BEFORE, _AFTER = ".claim-", ".tmp"
"""Around the name of a folder: the file beside it that says who may write its first file."""
_KEPT = frozenset(
    {
        errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EFBIG, errno.EMSGSIZE, errno.ENAMETOOLONG, errno.ENOSYS,
        errno.EINVAL, errno.ENOTEMPTY, errno.EBUSY,
    }
)  # fmt: skip
"""What an OSError of a file system says that is worth passing on. Everything else may pass: EIO."""
_SURE = (FileNotFoundError, FileExistsError, IsADirectoryError, NotADirectoryError)
_BROKEN_LINE = (ConnectionError, TimeoutError, socket.gaierror, ssl.SSLError)


class BucketStore:
    """See `Store`. `fs` is an fsspec file system, `root` a path in it and `place` that path for people. `top` is a
    folder above `root` that is listed wherever the store can be reached, the bucket itself: with it, "not found" is
    only believed where `top` is found. Threads may share it as far as they may share `fs`."""

    finished: Level

    def __init__(
        self, fs: Any, root: str, *, place: str, top: str = "", lasting: bool = True
    ) -> None:
        self.place = place
        self.finished = "durable" if lasting else "mirrored"
        self._fs = fs
        self._root = root.rstrip("/")
        self._top = top
        self._claims: set[str] = set()
        self._lock = threading.Lock()

    def names(self, folder: str) -> Sequence[str]:
        """See `Store`."""
        found = {_last(entry) for entry in self._list(folder)}
        return sorted(name for name in found if not _is_claim(name))

    def sizes(self, folder: str) -> dict[str, int]:
        """See `Store`."""
        found = self._below(folder)
        return {name: int(entry["size"]) for name, entry in found if entry["type"] == "file"}

    def read(self, name: str) -> Iterator[bytes]:
        """See `Store`."""
        try:
            with self._asked(name):
                self._fs.invalidate_cache()
                # Without a block size of ours, file systems read ahead by up to 50 MiB.
                file = self._fs.open(
                    self._path(name), "rb", block_size=CHUNK, cache_type="readahead"
                )
        except FileNotFoundError:
            self._prove_absent()
            raise
        try:
            while True:
                with self._asked(name):
                    chunk = file.read(CHUNK)
                if not chunk:
                    return
                yield chunk
        finally:
            with contextlib.suppress(Exception):
                file.close()

    def write(self, name: str, chunks: Iterable[bytes]) -> None:
        """See `Store`. On an object storage the file is there as a whole, or not at all."""
        with self._asked(name, absent=False):
            file = self._fs.open(self._path(name), "wb", block_size=PART)
        try:
            for chunk in chunks:
                with self._asked(name, absent=False):
                    file.write(chunk)
            with self._asked(name, absent=False):
                _sync(file)
                file.close()
        except BaseException:
            _abandon(file)
            raise
        self._settle(name)

    def claim(self, folder: str) -> bool:
        """See `Store`: a folder is nothing to an object storage, so a small file beside it is created exclusively, and
        taken away once the folder has its first file. A run that dies in between leaves it, and the folder's name
        unused. Where the storage cannot create exclusively, only callers of this very object are told apart; two runs
        that know of each other share no names (see `Lease`), and what others mixed does not verify."""
        with self._lock:
            if folder in self._claims or self._taken(folder) or not self._create(folder):
                return False
            self._claims.add(folder)
            # Another may have written here, and taken its claim away, between the first look and our claim.
            if not self._taken(folder):
                return True
            self._unclaim(folder)
            return False

    def remove(self, folder: str, *, first: str) -> None:
        """See `Store`. Nothing happens where there is no such folder."""
        path = self._path(folder)
        with self._asked(folder), contextlib.suppress(FileNotFoundError):
            found = self._fs.info(path)
            # Of a link, what it leads to is not ours.
            if found.get("islink") or (found["type"] == "file" and not found["name"].endswith("/")):
                self._fs.rm_file(path)
                return
        names = [name for name, _ in self._below(folder)]
        for name in sorted(names, key=lambda name: name != first):
            with self._asked(folder), contextlib.suppress(FileNotFoundError):
                self._fs.rm_file(f"{path}/{name}")
        with self._asked(folder), contextlib.suppress(FileNotFoundError):
            self._fs.invalidate_cache()
            self._fs.rm(path, recursive=True)  # what stands for empty folders
        with self._lock:
            if folder in self._claims:
                self._unclaim(folder)

    def free(self) -> int | None:
        """See `Store`: a bucket has no bounds that it tells of."""
        return None

    def local(self, folder: str) -> Path | None:  # noqa: ARG002
        """See `Store`: a bucket is never local."""
        return None

    def take(self, folder: Path, name: str) -> bool:  # noqa: ARG002
        """See `Store`: nothing can be renamed into a bucket."""
        return False

    def _path(self, name: str) -> str:
        return f"{self._root}/{name}" if name else self._root

    def _list(self, folder: str) -> list[dict[str, Any]]:
        """What lies directly in `folder`, asked for anew."""
        path = self._path(folder)
        try:
            with self._asked(folder):
                self._fs.invalidate_cache()
                entries: list[dict[str, Any]] = list(self._fs.ls(path, detail=True))
        except FileNotFoundError:
            self._prove_absent()
            return []
        found = []
        for entry in entries:
            if entry["name"].rstrip("/") != path:
                found.append(entry)
            elif entry["type"] == "file" and not entry["name"].endswith("/"):
                raise NotADirectoryError(
                    errno.ENOTDIR, os.strerror(errno.ENOTDIR), self._at(folder)
                )
        return found

    def _below(self, folder: str) -> Iterator[tuple[str, dict[str, Any]]]:
        """All that is no folder below `folder`, by its name relative to it. Not fsspec's `find`: its default leaves
        out what it could not list."""
        for entry in self._list(folder):
            name = _last(entry)
            if entry["type"] == "directory":
                for below, its in self._below(f"{folder}/{name}"):
                    yield f"{name}/{below}", its
            elif not _is_claim(name):
                yield name, entry

    def _prove_absent(self) -> None:
        """Raise OSError where it is the bucket that was not found."""
        if not self._top:
            return
        try:
            with self._asked(""):
                self._fs.ls(self._top, detail=False)
        except FileNotFoundError:
            raise OSError(errno.EINVAL, f"there is no {self._top}", self.place) from None
        except OSError as error:
            if error.errno == errno.EIO:
                raise
        self._top = ""

    def _taken(self, folder: str) -> bool:
        try:
            return bool(self._list(folder))
        except NotADirectoryError:
            return True

    def _create(self, folder: str) -> bool:
        """Make the file that claims `folder`; False where another has."""
        path, token = self._path(_claim(folder)), secrets.token_hex(8).encode()
        try:
            file = self._fs.open(path, "xb", block_size=PART)
            try:
                file.write(token)
                file.close()
            except BaseException:
                _abandon(file)
                raise
        except Exception as error:
            if isinstance(error, (NotImplementedError, ValueError)):
                return True
            if isinstance(error, OSError) and error.errno == errno.ENOSYS:
                return True
            with self._asked(folder), contextlib.suppress(FileNotFoundError):
                # Ours, where a client sent it twice because the first answer was lost.
                return bool(self._fs.cat_file(path) == token)
            raise failure(error, self._at(folder)) from error
        return True

    def _unclaim(self, folder: str) -> None:
        """Take the claim away. Where that fails it stays, which costs a name and nothing else."""
        self._claims.discard(folder)
        with contextlib.suppress(Exception):
            self._fs.rm_file(self._path(_claim(folder)))

    def _settle(self, name: str) -> None:
        """`name` has been written: the folder that was claimed for it now speaks for itself."""
        with self._lock:
            for folder in [one for one in self._claims if name.startswith(f"{one}/")]:
                self._unclaim(folder)

    def _at(self, name: str) -> str:
        return f"{self.place.rstrip('/')}/{name}".rstrip("/")

    @contextlib.contextmanager
    def _asked(self, name: str, *, absent: bool = True) -> Iterator[None]:
        """Whatever the file system raises, as an OSError. A FileNotFoundError stays one where `absent` says that it
        speaks of `name`, and not of what is to hold it."""
        try:
            yield
        except _SURE as error:
            if absent or not isinstance(error, FileNotFoundError):
                raise _sure(error, self._at(name)) from error
            text = f"it cannot be written: {_text(error)}"
            raise OSError(errno.EINVAL, text, self._at(name)) from error
        except Exception as error:
            raise failure(error, self._at(name)) from error


def _last(entry: dict[str, Any]) -> str:
    name: str = entry["name"].rstrip("/").rpartition("/")[2]
    return name


def _claim(folder: str) -> str:
    above, slash, name = folder.rpartition("/")
    return f"{above}{slash}{_BEFORE}{name}{_AFTER}"


def _is_claim(name: str) -> bool:
    return name.startswith(_BEFORE) and name.endswith(_AFTER)


def _sync(file: Any) -> None:
    """Have a disk hold what was written, where it is one."""
    try:
        descriptor = file.fileno()
    except (AttributeError, OSError):
        return
    file.flush()
    os.fsync(descriptor)


def _abandon(file: Any) -> None:
    """Give up a file that was begun. Closed as usual, what is there of it would be stored as if it were whole."""
    from fsspec.spec import AbstractBufferedFile

    with contextlib.suppress(Exception):
        file.discard()
    with contextlib.suppress(Exception):
        if isinstance(file, AbstractBufferedFile):
            file.closed = True
        else:
            file.close()


def _sure(error: OSError, place: str) -> OSError:
    """`error` with its number and place, which file systems leave out."""
    numbers = (errno.ENOENT, errno.EEXIST, errno.EISDIR, errno.ENOTDIR)
    number = next(n for kind, n in zip(_SURE, numbers, strict=True) if isinstance(error, kind))
    return type(error)(number, os.strerror(number), place) if type(error) in _SURE else error


def failure(error: Exception, place: str) -> OSError:
    """What an unreachable store raises. Never a PermissionError: of a bucket it speaks of the credentials, and says
    nothing about the file."""
    if _is_refusal(error):
        return OSError(errno.EINVAL, f"access was refused: {_text(error)}", place)
    number = None
    if isinstance(error, OSError) and not isinstance(error, _BROKEN_LINE):
        number = error.errno
    return OSError(number if number in _KEPT else errno.EIO, _text(error), place)


def _is_refusal(error: Exception) -> bool:
    # By name, because the libraries that define them need not be there.
    return (
        isinstance(error, PermissionError)
        or "Credentials" in type(error).__name__
        or str(getattr(error, "code", "")) in ("401", "403")
        or (isinstance(error, OSError) and str(error).startswith("Forbidden"))
    )


def _text(error: Exception) -> str:
    text = " ".join(str(error).split())
    return f"{type(error).__name__}: {text}" if text else type(error).__name__
