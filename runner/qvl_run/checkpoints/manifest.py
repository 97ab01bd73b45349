"""The manifest of a checkpoint or of a stage's output: every file with its size and sha256, written last.

A folder is whole exactly when its manifest reads, its own digest holds, and every file it names has the size and
the hash it says. That stays true for any subset and order of uploaded files, each whole, empty or cut short.
Nothing is promised of files that the manifest does not name: they are never loaded.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any, Literal

from qvl_run import files
from qvl_run.faults import crash_point

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
    `facts` are for people: versions, the report's numbers. `total` is the stage's number of steps, where known."""

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


def entries(folder: Path) -> tuple[FileEntry, ...]:
    """Every regular file below `folder`, hashed; the manifest itself left out."""
    found = []
    for path in sorted(folder.rglob("*")):
        name = path.relative_to(folder).as_posix()
        if path.is_file() and name != NAME:
            found.append(FileEntry(name=name, size=path.stat().st_size, sha256=files.sha256(path)))
    return tuple(found)


def write(folder: Path, manifest: Manifest) -> None:
    """Write `manifest` into `folder`, after its files have reached the disk."""
    for entry in manifest.files:
        files.sync(folder / entry.name)
    crash_point(f"{manifest.kind}.before_manifest")
    body = _body(manifest)
    files.write_json(folder / NAME, {**body, "digest": _digest(body)})
    files.sync(folder)
    crash_point(f"{manifest.kind}.after_manifest")


def copy(manifest: Manifest, folder: Path) -> None:
    """Write `manifest` into `folder`, where its files have been copied to."""
    body = _body(manifest)
    text = json.dumps({**body, "digest": _digest(body)}, indent=1) + "\n"
    (folder / NAME).write_text(text, encoding="utf-8")


def read(folder: Path) -> Manifest:
    """The manifest of `folder`, its own digest checked. Raises Broken; OSError where the folder cannot be read."""
    try:
        text = (folder / NAME).read_text(encoding="utf-8")
    except FileNotFoundError:
        raise Broken(
            "has no manifest: it was not written to its end, or not uploaded to its end"
        ) from None
    except UnicodeDecodeError:
        raise Broken("its manifest is damaged") from None
    try:
        body = json.loads(text)
        digest = body.pop("digest")
        whole = body["format"] == FORMAT and digest == _digest(body)
        entries = tuple(FileEntry(**entry) for entry in body.pop("files"))
        body.pop("format")
        manifest = Manifest(files=entries, **body)
    except (ValueError, KeyError, TypeError, AttributeError):
        raise Broken(f"its manifest is damaged ({len(text)} characters)") from None
    if not whole:
        raise Broken("its manifest is damaged, or of a newer qvl-run")
    for entry in manifest.files:
        path = PurePosixPath(entry.name)
        if path.is_absolute() or ".." in path.parts:
            raise Broken(f"its manifest names a file outside of the folder: {entry.name}")
    return manifest


def verify(folder: Path, manifest: Manifest) -> None:
    """Check every byte that `manifest` speaks of; sizes first, since they cost nothing. Raises Broken."""
    for entry in manifest.files:
        path = folder / entry.name
        if path.is_symlink() or not path.is_file():
            raise Broken(f"{entry.name} is missing")
        if (size := path.stat().st_size) != entry.size:
            raise Broken(f"{entry.name} has {size} of {entry.size} bytes")
    for entry in manifest.files:
        if files.sha256(folder / entry.name) != entry.sha256:
            raise Broken(f"{entry.name} has other content than was saved")


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
