"""What the checkpoint protocol costs on this machine: hashing, picking among many, saving, and mirroring.

    python benchmarks/checkpoints.py [FOLDER] [--count 50] [--size 1.0]

Makes `count` checkpoints of `size` GB each below FOLDER (the system's temporary folder by default). All but the newest
are sparse files, which take no room and are never read: only the newest needs hashing, and the figure shows that.
The stall of a real save is printed by every run (`sft: 3 saves, 0.05 s each, ...`).
"""

from __future__ import annotations

import argparse
import os
import shutil
import statistics
import tempfile
import time
from pathlib import Path

from qvl_run.checkpoints import manifest as manifests
from qvl_run.checkpoints.folder import FolderStore
from qvl_run.checkpoints.index import look
from qvl_run.checkpoints.manifest import FileEntry, Manifest
from qvl_run.checkpoints.pick import pick
from qvl_run.checkpoints.transfer import fetch
from qvl_run.disk import LOCAL, sha256

GB = 1000**3
ZEROS = "0" * 64


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", nargs="?", type=Path, default=None)
    parser.add_argument("--count", type=int, default=50)
    parser.add_argument("--size", type=float, default=1.0, help="GB each")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=args.folder) as name:
        root = Path(name)
        size = round(args.size * GB)
        newest = root / "checkpoints" / "sft" / f"checkpoint-{100 * args.count}"
        for number in range(1, args.count):
            sparse(newest.with_name(f"checkpoint-{100 * number}"), step=100 * number, size=size)
        manifest = real(newest, step=100 * args.count, size=size)
        show("hash", size, lambda: sha256(LOCAL.read(newest / "model.safetensors")))
        found = show(
            f"pick among {args.count} of {args.size:g} GB",
            size,
            lambda: pick(look(FolderStore(root), "sft"), key="k", kind="checkpoint"),
        )
        assert found.manifest == manifest
        empty = show(
            f"the same, none fits ({args.count} manifests read, nothing hashed)",
            0,
            lambda: pick(look(FolderStore(root), "sft"), key="other", kind="checkpoint"),
        )
        assert empty.manifest is None
        show("commit (hash, sync, manifest)", size, lambda: commit(newest, manifest))
        far = FolderStore(root, lasting=False)
        held = next(e.held for e in look(far, "sft") if e.manifest == manifest)
        show(
            "fetch (copy, hashed on the way)",
            size,
            lambda: fetch(held, manifest, root / "fetched"),
        )
        shutil.rmtree(root / "fetched")


def show(what, size, act):  # type: ignore[no-untyped-def]
    """Print the median of three of `act` in seconds, and in GB/s where it reads `size` bytes; returns its result."""
    seconds = []
    for _ in range(3):
        began = time.perf_counter()
        result = act()
        seconds.append(time.perf_counter() - began)
    median = statistics.median(seconds)
    rate = f"   {size / median / GB:.2f} GB/s" if size else ""
    print(f"{what:64} {median:8.3f} s{rate}", flush=True)
    return result


def real(folder: Path, *, step: int, size: int) -> Manifest:
    """A checkpoint of random bytes, written and committed."""
    folder.mkdir(parents=True)
    block = os.urandom(8 * 1024 * 1024)
    with (folder / "model.safetensors").open("wb") as file:
        for _ in range(max(1, size // len(block))):
            file.write(block)
    return commit(folder, described(folder, step=step, files=()))


def commit(folder: Path, manifest: Manifest) -> Manifest:
    """As the child does at each save."""
    done = described(folder, step=manifest.step, files=manifests.entries(folder))
    manifests.write(folder, done)
    return done


def sparse(folder: Path, *, step: int, size: int) -> None:
    """A checkpoint whose file has a size and no content."""
    folder.mkdir(parents=True)
    with (folder / "model.safetensors").open("wb") as file:
        file.truncate(size)
    entry = FileEntry(name="model.safetensors", size=size, sha256=ZEROS)
    manifests.write(folder, described(folder, step=step, files=(entry,)))


def described(folder: Path, *, step: int, files: tuple[FileEntry, ...]) -> Manifest:
    return Manifest(
        kind="checkpoint", stage="sft", step=step, total=None, key="k", identity={}, attempt=folder.name, facts={},
        files=files,
    )  # fmt: skip


if __name__ == "__main__":
    main()
