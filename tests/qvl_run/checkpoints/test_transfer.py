import errno
import itertools
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import pytest

from qvl_run.checkpoints import manifest as manifests
from qvl_run.checkpoints.folder import FolderStore
from qvl_run.checkpoints.manifest import Broken, Manifest
from qvl_run.checkpoints.pick import Entry
from qvl_run.checkpoints.store import Held, held
from qvl_run.checkpoints.transfer import fetch, move, put, surplus
from qvl_run.disk import Disk, files_below
from tests.qvl_run.checkpoints.test_manifest import check, checkpoint


class OtherDisk(Disk):
    """As if the store lay on another disk than everything else."""

    def __init__(self, root: Path) -> None:
        self.root = root

    def device(self, path: Path) -> int:
        return 2 if self.root in (path, *path.parents) else 1


@pytest.fixture
def root(tmp_path: Path) -> Path:
    (tmp_path / "drive").mkdir()
    return tmp_path / "drive"


@pytest.fixture(params=["same disk", "other disk"])
def disk(request: pytest.FixtureRequest, root: Path) -> Disk:
    return OtherDisk(root) if request.param == "other disk" else Disk()


@pytest.fixture
def store(root: Path, disk: Disk) -> FolderStore:
    return FolderStore(root, disk=disk)


def names(store: FolderStore) -> list[str]:
    return [place.last for place in held(store, "sft")]


def test_what_is_put_is_whole_under_the_guides_name(tmp_path: Path, store: FolderStore) -> None:
    place = put(tmp_path / "c", checkpoint(tmp_path / "c"), store)
    assert place.name == "checkpoints/sft/checkpoint-10"
    check(store.root / place.name)
    assert (tmp_path / "c").exists() == (type(store._disk) is OtherDisk)


def test_a_folder_is_never_written_twice(tmp_path: Path, store: FolderStore) -> None:
    places = []
    for turn in range(3):
        folder = tmp_path / f"c{turn}"
        places.append(put(folder, checkpoint(folder, key="abcdefgh1"), store).last)
    assert places == ["checkpoint-10", "checkpoint-10.abcdefgh", "checkpoint-10.abcdefgh-2"]
    for name in places:
        check(store.root / "checkpoints" / "sft" / name)


def test_one_file_system_mounted_twice_is_copied_between(tmp_path: Path, root: Path) -> None:
    class Bound(Disk):
        def rename(self, path: Path, target: Path) -> None:
            if path.is_dir():
                raise OSError(errno.EXDEV, "Invalid cross-device link")
            super().rename(path, target)

    place = put(tmp_path / "c", checkpoint(tmp_path / "c"), FolderStore(root, disk=Bound()))
    check(root / place.name)


def test_a_run_with_a_rival_shares_no_name_with_it(tmp_path: Path, store: FolderStore) -> None:
    place = put(tmp_path / "c", checkpoint(tmp_path / "c"), store, rival="7e57")
    assert place.last == "checkpoint-10.7e57"
    check(store.root / place.name)


def test_what_reads_back_other_than_it_was_written_is_not_taken(tmp_path: Path, root: Path) -> None:
    class Lossy(OtherDisk):
        def write(self, path: Path, chunks: Iterable[bytes], *, sync: bool = False) -> None:
            if path.name == "optimizer.pt" and root in path.parents:
                chunks = [b"moments?" * 200]
            super().write(path, chunks, sync=sync)

    store = FolderStore(root, disk=Lossy(root))
    with pytest.raises(Broken, match=r"optimizer\.pt reads back other"):
        put(tmp_path / "c", checkpoint(tmp_path / "c"), store)
    assert names(store) == []
    check(tmp_path / "c")


def test_there_must_be_room_before_a_copy_is_begun(tmp_path: Path, root: Path) -> None:
    class Full(OtherDisk):
        def free(self, path: Path) -> int:
            return 1000

    store = FolderStore(root, disk=Full(root))
    with pytest.raises(OSError, match=r"2\.4 KiB, and 1000 B are free") as caught:
        put(tmp_path / "c", checkpoint(tmp_path / "c"), store)
    assert caught.value.errno == errno.ENOSPC
    assert names(store) == []


def test_removal_takes_the_manifest_first_and_empties_every_file(
    tmp_path: Path, root: Path
) -> None:
    order: list[tuple[str, int]] = []

    class Noting(Disk):
        def unlink(self, path: Path) -> None:
            order.append((path.name, path.stat().st_size))
            super().unlink(path)

    store = FolderStore(root, disk=Noting())
    place = put(tmp_path / "c", checkpoint(tmp_path / "c"), store)
    store.remove(place.name, first=manifests.NAME)
    assert names(store) == []
    assert order[0][0] == manifests.NAME
    assert {size for _, size in order} == {0}


def test_removing_a_link_leaves_what_it_leads_to(tmp_path: Path, store: FolderStore) -> None:
    checkpoint(tmp_path / "c")
    (store.root / "link").symlink_to(tmp_path / "c")
    store.remove("link", first=manifests.NAME)
    check(tmp_path / "c")
    assert not (store.root / "link").is_symlink()


def test_a_stage_without_folder_has_none_but_a_dead_root_says_nothing(root: Path) -> None:
    assert list(held(FolderStore(root), "sft")) == []
    with pytest.raises(OSError, match="gone"):
        list(held(FolderStore(root.parent / "gone"), "sft"))


def test_a_mount_that_has_gone_is_not_taken_for_an_empty_folder(tmp_path: Path, root: Path) -> None:
    disk = OtherDisk(root)
    store = FolderStore(root, disk=disk)
    assert store.names("") == []
    disk.root = tmp_path / "elsewhere"
    with pytest.raises(OSError, match="no longer mounted"):
        store.names("")
    disk.root = root
    assert store.names("") == []


def test_a_fetched_copy_is_verified(tmp_path: Path, root: Path) -> None:
    manifest = checkpoint(tmp_path / "c")
    place = put(tmp_path / "c", manifest, FolderStore(root))
    assert fetch(place, manifest, tmp_path / "local") == root / place.name
    far = Held(FolderStore(root, lasting=False), place.name)
    assert fetch(far, manifest, tmp_path / "local") == tmp_path / "local"
    check(tmp_path / "local")
    for content, reason in ((b"rotten", "other content"), (None, "missing")):
        path = root / place.name / "optimizer.pt"
        path.write_bytes(content) if content else path.unlink()
        with pytest.raises(Broken, match=rf"optimizer\.pt .*{reason}"):
            fetch(far, manifest, tmp_path / reason)


class Flaky(Disk):
    """Notes which files below `root` are read, and fails in the middle of those called as `failing` says."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.failing = ""
        self.reads: list[str] = []

    def read(self, path: Path) -> Iterator[bytes]:
        if self.root not in path.parents:
            yield from super().read(path)
            return
        self.reads.append(path.name)
        content = b"".join(super().read(path))
        yield content[: len(content) // 2]
        if path.name == self.failing:
            raise OSError(errno.ENOTCONN, "Transport endpoint is not connected")
        yield content[len(content) // 2 :]


def far(tmp_path: Path, root: Path, **fields: Any) -> tuple[Held, Manifest, Flaky]:
    """A checkpoint in a store that must be fetched from."""
    folder = tmp_path / "made"
    manifest = checkpoint(folder, **fields)
    place = put(folder, manifest, FolderStore(root, disk=OtherDisk(root)))
    disk = Flaky(root)
    return Held(FolderStore(root, lasting=False, disk=disk), place.name), manifest, disk


def test_a_fetch_that_failed_goes_on_where_it_was(tmp_path: Path, root: Path) -> None:
    place, manifest, disk = far(tmp_path, root)
    names = [entry.name.rpartition("/")[2] for entry in manifest.files]
    assert len(names) > 2
    disk.failing = names[-1]
    with pytest.raises(OSError, match="not connected"):
        fetch(place, manifest, tmp_path / "local")
    assert not (tmp_path / "local" / manifests.NAME).exists()
    disk.failing, disk.reads = "", []
    chunks: list[int] = []
    fetch(place, manifest, tmp_path / "local", wait=chunks.append)
    assert disk.reads == names[-1:]
    assert sum(chunks) == manifest.size, "what is hashed again here is told of too"
    check(tmp_path / "local")


def test_what_lies_where_a_fetch_goes_is_not_trusted(tmp_path: Path, root: Path) -> None:
    place, manifest, disk = far(tmp_path, root)
    local = tmp_path / "local"
    checkpoint(local, step=99)
    (local / "of-another" / "deep").mkdir(parents=True)
    (local / "of-another" / "file").write_bytes(b"x")
    first, second = manifest.files[0], manifest.files[1]
    (local / first.name).write_bytes(b"?" * first.size)
    (local / second.name).unlink()
    (local / second.name / "folder").mkdir(parents=True)
    fetch(place, manifest, local)
    check(local)
    assert {first.name.rpartition("/")[2], second.name.rpartition("/")[2]} <= set(disk.reads)
    assert {name for name, _, _ in files_below(local)} == {
        manifests.NAME,
        *(entry.name for entry in manifest.files),
    }


def test_a_fetch_does_not_follow_a_link(tmp_path: Path, root: Path) -> None:
    place, manifest, _ = far(tmp_path, root)
    (tmp_path / "theirs").mkdir()
    (tmp_path / "theirs" / "precious").write_bytes(b"x")
    (tmp_path / "local").symlink_to(tmp_path / "theirs")
    fetch(place, manifest, tmp_path / "local")
    check(tmp_path / "local")
    assert [path.name for path in (tmp_path / "theirs").iterdir()] == ["precious"]


def test_moving_copies_nothing(tmp_path: Path, store: FolderStore) -> None:
    manifest = checkpoint(tmp_path / "c")
    place = move(tmp_path / "c", manifest, store)
    if type(store._disk) is OtherDisk:
        assert place is None
        assert names(store) == []
        check(tmp_path / "c")
    else:
        assert place is not None
        check(store.root / place.name)


def entry(name: str, *, key: str | None) -> Entry:
    from tests.qvl_run.checkpoints.test_pick import step_of

    place = Held(FolderStore(Path("/nowhere")), f"checkpoints/sft/{name}")
    if key is None:
        return Entry(held=place, broken="torn")
    kind = "output" if name.startswith("final") else "checkpoint"
    manifest = manifests.Manifest(
        kind=kind, stage="sft", step=step_of(name), total=None, key=key, identity={}, attempt="a",
        facts={}, files=(),
    )  # fmt: skip
    return Entry(held=place, manifest=manifest)


def test_retention_keeps_two_verified_every_output_and_other_settings() -> None:
    entries = [entry(f"checkpoint-{step}", key="k") for step in (10, 20, 30, 40, 50)]
    entries += [entry("final", key="k"), entry("checkpoint-15", key="other")]
    entries += [entry("checkpoint-12", key=None), entry("checkpoint-60", key=None)]
    prefix = "checkpoints/sft/"

    def gone(*verified: int) -> list[str]:
        whole = [f"{prefix}checkpoint-{step}" for step in verified]
        return sorted(e.held.last for e in surplus(entries, whole, key="k", torn=True))

    assert gone(50, 40, 30, 20, 10) == [
        "checkpoint-10",
        "checkpoint-12",
        "checkpoint-20",
        "checkpoint-30",
    ]
    assert gone(50, 20) == ["checkpoint-10", "checkpoint-12"]
    assert gone(50) == gone() == []


def test_retention_never_leaves_fewer_than_two_verified() -> None:
    steps = range(5)
    entries = [entry(f"checkpoint-{step}", key="k") for step in steps]
    for count in range(len(steps) + 1):
        for verified in itertools.combinations(steps, count):
            whole = {f"checkpoints/sft/checkpoint-{step}" for step in verified}
            left = whole - {e.held.name for e in surplus(entries, whole, key="k")}
            assert len(left) == min(2, count)


def test_torn_outputs_under_our_names_may_go_once_one_is_whole() -> None:
    ours = ("final", "final.1a2b3c", "final.kkkkkkkk-2")
    entries = [entry(name, key=None) for name in (*ours, "final_model", "final.backup.old")]
    entries += [entry("final.abcdefgh", key="k"), entry("final.other", key="other")]
    whole = ["checkpoints/sft/final.abcdefgh"]

    def gone(*verified: str, key: str = "k", torn: bool = True) -> list[str]:
        return [e.held.last for e in surplus(entries, verified, key=key, torn=torn)]

    assert gone(*whole) == list(ours)
    assert gone() == gone(*whole, torn=False) == gone(*whole, key="other") == []
