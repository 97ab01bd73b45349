import errno
import itertools
import json
import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from qvl_run.checkpoints import manifest as manifests
from qvl_run.checkpoints.folder import FolderStore
from qvl_run.checkpoints.manifest import NAME, Broken, Manifest
from qvl_run.checkpoints.store import Held
from qvl_run.disk import Disk


def checkpoint(folder: Path, *, step: int = 10, key: str = "k" * 64) -> Manifest:
    folder.mkdir(parents=True)
    (folder / "adapter.safetensors").write_bytes(b"weights " * 100)
    (folder / "optimizer.pt").write_bytes(b"moments " * 200)
    (folder / "sub").mkdir()
    (folder / "sub" / "state.json").write_text('{"step": 10}')
    manifest = Manifest(
        kind="checkpoint",
        stage="sft",
        step=step,
        total=20,
        key=key,
        identity={"uses": "sft"},
        attempt="attempt-0001",
        facts={},
        files=manifests.entries(folder),
    )
    manifests.write(folder, manifest)
    return manifest


def held(folder: Path) -> Held:
    return Held(FolderStore(folder.parent), folder.name)


def check(folder: Path) -> None:
    manifests.verify(held(folder), manifests.read(held(folder)))


def test_a_whole_folder_verifies_and_reads_back_equal(tmp_path: Path) -> None:
    written = checkpoint(tmp_path / "c")
    assert manifests.read(held(tmp_path / "c")) == written
    check(tmp_path / "c")


@pytest.mark.parametrize("name", ["adapter.safetensors", "optimizer.pt", "sub/state.json", NAME])
@pytest.mark.parametrize("damage", ["missing", "empty", "half", "flipped", "link"])
def test_damage_to_any_file_is_found(tmp_path: Path, name: str, damage: str) -> None:
    folder = tmp_path / "c"
    checkpoint(folder)
    path = folder / name
    content = path.read_bytes()
    if damage == "missing":
        path.unlink()
    elif damage == "empty":
        path.write_bytes(b"")
    elif damage == "half":
        path.write_bytes(content[: len(content) // 2])
    elif damage == "flipped":
        middle = len(content) // 2
        path.write_bytes(content[:middle] + bytes([content[middle] ^ 1]) + content[middle + 1 :])
    else:
        path.rename(tmp_path / "elsewhere")
        path.symlink_to(tmp_path / "nowhere")
    with pytest.raises(Broken):
        check(folder)


def test_every_combination_of_half_arrived_files_is_refused(tmp_path: Path) -> None:
    folder = tmp_path / "c"
    names = [*(f.name for f in checkpoint(folder).files), NAME]
    whole = {name: (folder / name).read_bytes() for name in names}
    refused = 0
    for states in itertools.product(("whole", "missing", "empty", "half"), repeat=len(names)):
        for name, state in zip(names, states, strict=True):
            path, content = folder / name, whole[name]
            path.unlink(missing_ok=True)
            if state != "missing":
                path.write_bytes(
                    {"whole": content, "empty": b"", "half": content[: len(content) // 2]}[state]
                )
        if set(states) == {"whole"}:
            check(folder)
            continue
        with pytest.raises(Broken):
            check(folder)
        refused += 1
    assert refused == 4 ** len(names) - 1


def test_files_of_equal_size_that_were_swapped_are_found(tmp_path: Path) -> None:
    folder = tmp_path / "c"
    folder.mkdir()
    (folder / "a").write_bytes(b"1111")
    (folder / "b").write_bytes(b"2222")
    manifest = Manifest(
        kind="output", stage="s", step=1, total=1, key="k", identity={}, attempt="a", facts={},
        files=manifests.entries(folder),
    )  # fmt: skip
    manifests.write(folder, manifest)
    (folder / "a").write_bytes(b"2222")
    (folder / "b").write_bytes(b"1111")
    with pytest.raises(Broken, match="other content"):
        check(folder)


def test_a_manifest_cannot_point_outside_of_its_folder(tmp_path: Path) -> None:
    checkpoint(tmp_path / "c")
    path = tmp_path / "c" / NAME
    body = json.loads(path.read_text())
    del body["digest"]
    body["files"][0]["name"] = "../../etc/passwd"
    path.write_text(json.dumps({**body, "digest": manifests._digest(body)}))
    with pytest.raises(Broken, match="outside"):
        manifests.read(held(tmp_path / "c"))


def test_the_content_digest_tells_content_and_nothing_else(tmp_path: Path) -> None:
    first = checkpoint(tmp_path / "a", step=1)
    second = checkpoint(tmp_path / "b", step=2, key="other")
    assert first.content_digest == second.content_digest
    (tmp_path / "b" / "optimizer.pt").write_bytes(b"else")
    changed = manifests.entries(tmp_path / "b")
    assert {f.sha256 for f in changed} != {f.sha256 for f in second.files}


def test_an_unreadable_folder_is_unknown_not_broken(tmp_path: Path) -> None:
    class Dead(Disk):
        def read(self, path: Path) -> Iterator[bytes]:
            raise OSError(errno.ENOTCONN, os.strerror(errno.ENOTCONN))

    checkpoint(tmp_path / "c")
    with pytest.raises(OSError, match="endpoint"):
        manifests.read(Held(FolderStore(tmp_path, disk=Dead()), "c"))


def test_a_mount_that_calls_what_it_lists_missing_is_unknown_too(tmp_path: Path) -> None:
    class Dead(Disk):
        def read(self, path: Path) -> Iterator[bytes]:
            raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), str(path))

    checkpoint(tmp_path / "c")
    with pytest.raises(OSError, match="listed, but cannot be opened"):
        manifests.read(Held(FolderStore(tmp_path, disk=Dead()), "c"))


def test_a_folder_that_is_taken_away_once_its_manifest_is_there_ends_nothing(
    tmp_path: Path,
) -> None:
    class Taken(Disk):
        def rename(self, path: Path, target: Path) -> None:
            super().rename(path, target)
            if target.name == NAME:
                target.parent.rename(tmp_path / "stored")

    manifest = checkpoint(tmp_path / "c")
    (tmp_path / "c" / NAME).unlink()
    manifests.write(tmp_path / "c", manifest, Taken())
    check(tmp_path / "stored")
