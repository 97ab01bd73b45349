from pathlib import Path

import pytest

from qvl_run.checkpoints.manifest import Manifest
from qvl_run.checkpoints.store import FolderStore
from qvl_run.run.mirror import Mirror
from tests.qvl_run.checkpoints.test_manifest import check, checkpoint


class Drive(FolderStore):
    """A store that is away for a while."""

    away = True

    def put(self, folder: Path, manifest: Manifest) -> Path:
        if self.away:
            raise OSError(107, "Transport endpoint is not connected")
        return super().put(folder, manifest)


@pytest.fixture
def drive(tmp_path: Path) -> Drive:
    (tmp_path / "drive").mkdir()
    return Drive(tmp_path / "drive")


def test_what_could_not_be_taken_is_tried_again_and_told_once(tmp_path: Path, drive: Drive) -> None:
    told: list[str] = []
    mirror = Mirror(tmp_path / "work", drive, tell=told.append)
    checkpoint(tmp_path / "work" / "checkpoint-10", step=10)
    assert [mirror._sweep() for _ in range(3)] == [False] * 3
    assert len(told) == 1
    drive.away = False
    checkpoint(tmp_path / "work" / "checkpoint-20", step=20)
    assert mirror._sweep()
    assert [p.name for p in drive.folders("sft")] == ["checkpoint-10", "checkpoint-20"]
    for folder in drive.folders("sft"):
        check(folder)
    assert "again" in told[1]
    assert mirror._sweep()


def test_a_folder_that_goes_while_it_is_looked_into_ends_nothing(
    tmp_path: Path, drive: Drive, monkeypatch: pytest.MonkeyPatch
) -> None:
    def gone(self: Path, pattern: str) -> list[Path]:
        raise FileNotFoundError(pattern)

    drive.away = False
    mirror = Mirror(tmp_path / "work", drive, tell=print)
    with monkeypatch.context() as patched:
        patched.setattr(Path, "glob", gone)
        assert not mirror._sweep()
    checkpoint(tmp_path / "work" / "checkpoint-10", step=10)
    assert mirror._sweep()
    assert [p.name for p in drive.folders("sft")] == ["checkpoint-10"]
