"""Between this machine's disk and a store: into it (`put`), out of it (`fetch`), and what need not stay (`surplus`).

A folder of the store is never written twice, and its manifest arrives last, after every file has been read back and
found equal; what is half there never looks whole.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import itertools
import re
from collections.abc import Iterable, Iterator
from pathlib import Path, PurePosixPath

from qvl_run.checkpoints import manifest as manifests
from qvl_run.checkpoints.manifest import NAME, Broken, Manifest
from qvl_run.checkpoints.pick import Entry, step_of
from qvl_run.checkpoints.store import Held, Store, Wait, chunks_of, stage_folder
from qvl_run.disk import LOCAL, Disk, files_below, make_all, sha256
from qvl_run.faults import crash_point
from qvl_run.units import show_size

KEEP = 2
"""Whole checkpoints of a stage and settings that stay."""
MARGIN = 64 * 1024 * 1024
"""Bytes that stay free in a store."""
_OUTPUT = re.compile(r"final(\.[0-9a-z]{1,8}(-[0-9]+)?)?")
"""The names of ours that an output may have: see `_names`."""


def put(
    folder: Path,
    manifest: Manifest,
    store: Store,
    *,
    disk: Disk = LOCAL,
    rival: str = "",
    wait: Wait = lambda _: None,
) -> Held:
    """Take `folder`, whole and on this machine's disk, into `store`.

    `rival` is a mark of this run's own that its folders bear while another run may be writing beside it. `wait` is
    told of each chunk that was copied or read back. Raises OSError; Broken where the store gives back other bytes
    than it was given. What was begun is then taken away again, as far as that can be done.
    """
    moved = move(folder, manifest, store, rival=rival)
    return moved or copy(folder, manifest, store, disk=disk, rival=rival, wait=wait)


def copy(
    folder: Path,
    manifest: Manifest,
    store: Store,
    *,
    disk: Disk = LOCAL,
    rival: str = "",
    wait: Wait = lambda _: None,
) -> Held:
    """As `put`, where it cannot be one renaming."""
    _check_room(store, manifest)
    for name in _names(manifest, rival):
        target = Held(store, f"{stage_folder(manifest.stage)}/{name}")
        if not store.claim(target.name):
            continue
        try:
            _copy(folder, manifest, target, disk, wait)
        except BaseException:
            with contextlib.suppress(OSError):
                store.remove(target.name, first=NAME)
            raise
        crash_point("mirror.after_manifest")
        return target
    raise AssertionError("there is always another name")


def move(folder: Path, manifest: Manifest, store: Store, *, rival: str = "") -> Held | None:
    """As `put`, where that is one renaming; None, and nothing done, where it would be a copy. Raises OSError."""
    crash_point("mirror.first_file")
    for name in _names(manifest, rival):
        target = Held(store, f"{stage_folder(manifest.stage)}/{name}")
        try:
            if not store.take(folder, target.name):
                return None
        except FileExistsError:
            continue
        crash_point("mirror.after_manifest")
        return target
    raise AssertionError("there is always another name")


def fetch(
    held: Held,
    manifest: Manifest,
    into: Path,
    *,
    disk: Disk = LOCAL,
    wait: Wait = lambda _: None,
) -> Path:
    """`held` as a local folder that can be loaded from: itself where its store allows that, else a copy in `into` of
    the files that the manifest names, verified while it is copied. What an earlier call has already brought to `into`
    is hashed there and not read again. `wait` is told of each chunk, hashed or copied. Raises Broken and OSError."""
    if (path := held.path) is not None:
        return path
    _clear(into, manifest, disk)
    for entry in manifest.files:
        digest = hashlib.sha256()
        path = into / PurePosixPath(entry.name)
        make_all(path.parent, disk)
        if path.exists() and sha256(chunks_of(disk.read(path), wait)) == entry.sha256:
            continue
        try:
            disk.write(path, _hashed(chunks_of(held.read(entry.name), wait), digest))
        except FileNotFoundError:
            raise Broken(f"{entry.name} is missing") from None
        if digest.hexdigest() != entry.sha256:
            raise Broken(f"{entry.name} has other content than was saved")
    disk.write(into / NAME, [manifests.text(manifest).encode()])
    return into


def _clear(into: Path, manifest: Manifest, disk: Disk) -> None:
    """Make the folder `into`, and leave in it nothing but files of the names and sizes that `manifest` says."""
    make_all(into.parent, disk)
    if into.is_symlink() or into.is_file():
        disk.unlink(into)
    make_all(into, disk)
    wanted = {(entry.name, "file", entry.size) for entry in manifest.files}
    for found in list(files_below(into, disk)):
        if found not in wanted and found[1] != "folder":
            disk.unlink(into / found[0])
    while empty := [name for name, kind, _ in files_below(into, disk) if kind == "folder"]:
        for name in empty:
            disk.rmdir(into / name)


def surplus(
    entries: Iterable[Entry], verified: Iterable[str], *, key: str, torn: bool = False
) -> list[Entry]:
    """What may go, by the rules: checkpoints of `key` below the `KEEP` highest steps that are `verified` (names), and
    with `torn` folders without a readable manifest: checkpoints below all of those, and outputs under names of ours
    where a verified output of `key` is there. They may be another script's, so nobody deletes them unasked. Outputs
    with a manifest and other settings' checkpoints stay. Pure."""
    entries, whole = list(entries), set(verified)
    checkpoints = [e for e in entries if e.held.last.startswith("checkpoint-")]
    ours = [e for e in checkpoints if e.manifest and e.manifest.key == key]
    steps = {step_of(e.held.last) for e in ours if e.held.name in whole}
    kept = sorted(steps, reverse=True)[:KEEP]
    going: list[Entry] = []
    if len(kept) == KEEP:
        going += [e for e in ours if step_of(e.held.last) < kept[-1]]
        if torn:
            none = [e for e in checkpoints if e.manifest is None]
            going += [e for e in none if step_of(e.held.last) < kept[-1]]
    if torn and any(_is_output(e, key) and e.held.name in whole for e in entries):
        going += [e for e in entries if e.manifest is None and _OUTPUT.fullmatch(e.held.last)]
    return going


def _is_output(entry: Entry, key: str) -> bool:
    found = entry.manifest
    return found is not None and (found.kind, found.key) == ("output", key)


def _check_room(store: Store, manifest: Manifest) -> None:
    """Raise OSError before a disk is full, not after."""
    free = store.free()
    if free is not None and free < manifest.size + MARGIN:
        text = f"it takes {show_size(manifest.size)}, and {show_size(free)} are free there"
        raise OSError(errno.ENOSPC, text)


def _copy(folder: Path, manifest: Manifest, target: Held, disk: Disk, wait: Wait) -> None:
    store = target.store
    for entry in manifest.files:
        content = disk.read(folder / entry.name)
        store.write(f"{target.name}/{entry.name}", chunks_of(content, wait))
    for entry in manifest.files:
        if sha256(chunks_of(target.read(entry.name), wait)) != entry.sha256:
            raise Broken(f"{target.last}/{entry.name} reads back other than it was written")
    crash_point("mirror.before_manifest")
    text = manifests.text(manifest).encode()
    store.write(f"{target.name}/{NAME}", [text])
    if b"".join(target.read(NAME)) != text:
        raise Broken(f"{target.last}/{NAME} reads back other than it was written")


def _names(manifest: Manifest, rival: str) -> Iterator[str]:
    """The names that a folder may have, the plain one of the guide's layout first."""
    plain = "final" if manifest.kind == "output" else f"checkpoint-{manifest.step}"
    if not rival:
        yield plain
    mark = rival or manifest.key[:8]
    yield f"{plain}.{mark}"
    yield from (f"{plain}.{mark}-{number}" for number in itertools.count(2))


def _hashed(content: Iterable[bytes], digest: hashlib._Hash) -> Iterator[bytes]:
    for chunk in content:
        digest.update(chunk)
        yield chunk
