"""The manifest of a checkpoint or of a stage's output: every file with its size and sha256, written last.

A folder is whole exactly when its manifest reads, its own digest holds, and every file it names has the size and
the hash it says. That stays true for any subset and order of uploaded files, each whole, empty or cut short.
Nothing is promised of files that the manifest does not name: they are never loaded.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any, Literal

from qvl_run.checkpoints.store import Held, Wait, chunks_of
from qvl_run.disk import LOCAL, Disk, files_below, sha256
from qvl_run.faults import crash_point
from qvl_run.units import show_share

NAME = "manifest.json"
FORMAT = 1


class Broken(Exception):
    """A folder that cannot be used; the message says why, for people."""


@dataclass(frozen=True, kw_only=True)
class FileEntry:
    """One file: `name` relative to the folder with forward slashes, `size` in bytes, `sha256` in hex."""

    name: str
    size: int
    sha256: str


@dataclass(frozen=True, kw_only=True)
class Manifest:
    """What a folder holds and what made it. `identity` is everything that decides the result (see
    `qvl_run.plan.identity`), kept whole so that a mismatch can be told field by field; `key` is its digest.
    `facts` decide nothing: versions, the report's numbers, how long its steps took. `total` is the stage's number of
    steps, where known."""

    kind: Literal["checkpoint", "output"]
    stage: str
    step: int
    total: int | None
    key: str
    identity: Mapping[str, Any]
    attempt: str
    facts: Mapping[str, Any]
    files: tuple[FileEntry, ...]

    @property
    def content_digest(self) -> str:
        """sha256 over the files' names and hashes: equal for equal content, whenever and wherever it was made."""
        lines = "".join(f"{f.sha256}  {f.name}\n" for f in sorted(self.files, key=lambda f: f.name))
        return hashlib.sha256(lines.encode()).hexdigest()

    @property
    def size(self) -> int:
        """Bytes of all files."""
        return sum(f.size for f in self.files)


def entries(folder: Path, disk: Disk = LOCAL) -> tuple[FileEntry, ...]:
    """Every regular file below `folder`, hashed; the manifest itself and hidden files left out."""
    return tuple(
        FileEntry(name=name, size=size, sha256=sha256(disk.read(folder / name)))
        for name, kind, size in files_below(folder, disk)
        if kind == "file" and not name.rpartition("/")[2].startswith(".") and name != NAME
    )


def write(folder: Path, manifest: Manifest, disk: Disk = LOCAL) -> None:
    """Write `manifest` into `folder` on this machine's disk, after its files and their names have reached it. When
    this returns, the folder survives the loss of power."""
    folders = {folder}
    for entry in manifest.files:
        disk.sync(folder / entry.name)
        folders |= {folder / parent for parent in PurePosixPath(entry.name).parents}
    for inner in sorted(folders, reverse=True):
        disk.sync(inner)
    crash_point(f"{manifest.kind}.before_manifest")
    temporary = folder / f".{NAME}"
    disk.write(temporary, [text(manifest).encode()], sync=True)
    disk.rename(temporary, folder / NAME)
    # From here on the runner may take the folder away; it then syncs what it takes.
    with contextlib.suppress(FileNotFoundError):
        disk.sync(folder)
        disk.sync(folder.parent)
    crash_point(f"{manifest.kind}.after_manifest")


def text(manifest: Manifest) -> str:
    """The content of the file."""
    body = _body(manifest)
    return json.dumps({**body, "digest": _digest(body)}, indent=1) + "\n"


def read(held: Held) -> Manifest:
    """The manifest of `held`, its own digest checked. Raises Broken; OSError where the store cannot be read."""
    try:
        content = b"".join(held.read(NAME)).decode("utf-8")
    except FileNotFoundError:
        raise Broken(
            "has no manifest: it was not written to its end, or not uploaded to its end"
        ) from None
    except (IsADirectoryError, NotADirectoryError):
        raise Broken("its manifest is no file") from None
    except PermissionError as error:
        raise Broken(f"its manifest cannot be read: {error.strerror}") from None
    except UnicodeDecodeError:
        raise Broken("its manifest is damaged") from None
    return parse(content)


def parse(content: str) -> Manifest:
    """The manifest that `content` is. Raises Broken."""
    try:
        body = json.loads(content)
        digest = body.pop("digest")
        whole = body["format"] == FORMAT and digest == _digest(body)
        entries = tuple(FileEntry(**entry) for entry in body.pop("files"))
        body.pop("format")
        manifest = Manifest(files=entries, **body)
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        raise Broken(f"its manifest is damaged ({len(content)} characters)") from None
    if not whole:
        raise Broken("its manifest is damaged, or of a newer qvl-run")
    for entry in manifest.files:
        path = PurePosixPath(entry.name)
        if path.is_absolute() or ".." in path.parts:
            raise Broken(f"its manifest names a file outside of the folder: {entry.name}")
    return manifest


def verify(held: Held, manifest: Manifest, *, wait: Wait = lambda _: None) -> None:
    """Check every byte that `manifest` speaks of; sizes first, since they cost nothing. `wait` is told of each chunk.
    Raises Broken; OSError where the store cannot be read."""
    check_sizes(held, manifest)
    for entry in manifest.files:
        try:
            equal = sha256(chunks_of(held.read(entry.name), wait)) == entry.sha256
        except FileNotFoundError:
            raise Broken(f"{entry.name} is missing") from None
        except PermissionError as error:
            raise Broken(f"{entry.name} cannot be read: {error.strerror}") from None
        if not equal:
            raise Broken(f"{entry.name} has other content than was saved")


def check_sizes(held: Held, manifest: Manifest) -> None:
    """The part of `verify` that reads no file."""
    try:
        sizes = held.sizes()
    except NotADirectoryError:
        raise Broken("it is no folder") from None
    if NAME not in sizes:
        raise Broken("its manifest is a link, or has gone")
    for entry in manifest.files:
        size = sizes.get(entry.name)
        if size is None:
            raise Broken(f"{entry.name} is missing")
        if size < entry.size:
            raise Broken(f"{entry.name} has {show_share(size, entry.size)}")
        if size > entry.size:
            raise Broken(f"{entry.name} has {size} bytes, {size - entry.size} more than were saved")


def _body(manifest: Manifest) -> dict[str, Any]:
    return {
        "format": FORMAT,
        "kind": manifest.kind,
        "stage": manifest.stage,
        "step": manifest.step,
        "total": manifest.total,
        "key": manifest.key,
        "identity": manifest.identity,
        "attempt": manifest.attempt,
        "facts": manifest.facts,
        "files": [{"name": f.name, "size": f.size, "sha256": f.sha256} for f in manifest.files],
    }


def _digest(body: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps(body, sort_keys=True).encode()).hexdigest()
