import errno
from pathlib import Path

import pytest

from qvl_run.checkpoints import manifest as manifests
from qvl_run.checkpoints.manifest import Broken
from qvl_run.checkpoints.store import FolderStore
from qvl_run.run.mirror import retain
from tests.qvl_run.checkpoints.test_manifest import check, checkpoint


@pytest.fixture
def store(tmp_path: Path) -> FolderStore:
    (tmp_path / "drive").mkdir()
    return FolderStore(tmp_path / "drive")


@pytest.fixture(params=["same disk", "other disk"])
def disk(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    if request.param == "other disk":

        def refuse(self: Path, target: Path) -> Path:
            raise OSError(errno.EXDEV, "other disk")

        monkeypatch.setattr(Path, "rename", refuse)
    return str(request.param)


def test_what_is_put_is_whole_under_the_guides_name(
    tmp_path: Path, store: FolderStore, disk: str
) -> None:
    put = store.put(tmp_path / "c", checkpoint(tmp_path / "c"))
    assert put == tmp_path / "drive" / "checkpoints" / "sft" / "checkpoint-10"
    check(put)
    assert (tmp_path / "c").exists() == (disk == "other disk")


def test_a_folder_is_never_written_twice(tmp_path: Path, store: FolderStore, disk: str) -> None:
    names = []
    for turn in range(3):
        names.append(
            store.put(
                tmp_path / f"c{turn}", checkpoint(tmp_path / f"c{turn}", key="abcdefgh1")
            ).name
        )
    assert names == ["checkpoint-10", "checkpoint-10.abcdefgh", "checkpoint-10.abcdefgh-2"]
    assert [p.name for p in store.folders("sft")] == sorted(names)


def test_a_stage_without_folder_has_none_but_a_dead_root_says_nothing(tmp_path: Path) -> None:
    (tmp_path / "drive").mkdir()
    assert list(FolderStore(tmp_path / "drive").folders("sft")) == []
    with pytest.raises(OSError, match="gone"):
        list(FolderStore(tmp_path / "gone").folders("sft"))


def test_removal_takes_the_manifest_first(
    tmp_path: Path, store: FolderStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = store.put(tmp_path / "c", checkpoint(tmp_path / "c"))
    real, order = Path.unlink, []

    def note(self: Path, missing_ok: bool = False) -> None:
        order.append((self.name, self.stat().st_size))
        real(self, missing_ok=missing_ok)

    monkeypatch.setattr(Path, "unlink", note)
    store.remove(folder)
    assert not folder.exists()
    assert order[0][0] == manifests.NAME
    assert {size for _, size in order[1:]} == {0}


def test_retention_keeps_two_that_verify_and_never_another_jobs(
    tmp_path: Path, store: FolderStore
) -> None:
    for step in (10, 20, 30, 40):
        newest = checkpoint(tmp_path / str(step), step=step)
        store.put(tmp_path / str(step), newest)
    other = checkpoint(tmp_path / "other", step=5, key="other key")
    store.put(tmp_path / "other", other)
    (store.stage_folder("sft") / "checkpoint-30" / "optimizer.pt").write_bytes(b"")
    retain(store, newest)
    left = {p.name for p in store.folders("sft")}
    assert left == {"checkpoint-40", "checkpoint-30", "checkpoint-20", "checkpoint-5"}


def test_a_fetched_copy_is_verified(
    tmp_path: Path, store: FolderStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    manifest = checkpoint(tmp_path / "c")
    folder = store.put(tmp_path / "c", manifest)
    assert store.fetch(folder, manifest, tmp_path / "local") == folder
    (folder / "optimizer.pt").write_bytes(b"rotten")
    from qvl_run.checkpoints import store as stores

    monkeypatch.setattr(stores, "same_disk", lambda a, b: False)
    with pytest.raises(Broken, match=r"optimizer\.pt"):
        store.fetch(folder, manifest, tmp_path / "local")
