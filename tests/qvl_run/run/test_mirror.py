import errno
import shutil
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from qvl_run.checkpoints import manifest as manifests
from qvl_run.checkpoints import pick
from qvl_run.checkpoints.folder import FolderStore
from qvl_run.checkpoints.index import Index
from qvl_run.checkpoints.pick import Entry
from qvl_run.checkpoints.store import Held, held
from qvl_run.run.lease import boot
from qvl_run.run.mirror import Local, Mirror, Throttle
from tests.qvl_run.checkpoints.test_manifest import check, checkpoint
from tests.qvl_run.checkpoints.test_transfer import OtherDisk


class Drive(OtherDisk):
    """Another disk, which is away for a while."""

    away = False

    def write(self, path: Path, chunks: Iterable[bytes], *, sync: bool = False) -> None:
        if self.away and self.root in path.parents:
            raise OSError(errno.ENOTCONN, "Transport endpoint is not connected")
        super().write(path, chunks, sync=sync)


class Setting:
    """A mirror between `work` and `drive`, and what it told."""

    def __init__(self, folder: Path) -> None:
        self.work, self.root = folder / "work", folder / "drive"
        self.work.mkdir()
        self.root.mkdir()
        self.disk = Drive(self.root)
        self.told: list[str] = []
        self.noted: list[dict[str, Any]] = []
        self.store = FolderStore(self.root, lasting=False, disk=self.disk)
        self.mirror = self.start()

    def start(self) -> Mirror:
        mirror = Mirror(
            committed=self.committed,
            store=self.store,
            index=Index(self.store, ["sft"]),
            tell=self.told.append,
            note=lambda event, **details: self.noted.append({"event": event, **details}),
            rate=1e12,
        )
        mirror._pause = lambda seconds: None  # type: ignore[method-assign]
        return mirror

    def committed(self) -> list[Entry]:
        local = FolderStore(self.work)
        found = [pick.entry_of(Held(local, name), stage="sft") for name in local.names("")]
        return [entry for entry in found if entry.manifest]

    def save(self, step: int, *, machine: str | None = None) -> None:
        folder = self.work / f"checkpoint-{step}"
        manifest = checkpoint(folder, step=step)
        if machine:
            manifests.write(folder, replace(manifest, facts={"machine": machine}))

    @property
    def stored(self) -> list[str]:
        return [place.last for place in held(self.store, "sft")]


@pytest.fixture
def setting(tmp_path: Path) -> Setting:
    return Setting(tmp_path)


def test_what_could_not_be_taken_is_tried_again_and_told_once(setting: Setting) -> None:
    setting.disk.away = True
    setting.save(10)
    assert [setting.mirror.sweep() for _ in range(3)] == [False] * 3
    assert len(setting.told) == 1
    assert "sft/checkpoint-10 could not be taken" in setting.told[0]
    assert [local.name for local in setting.mirror.pending()] == ["sft/checkpoint-10"]
    setting.disk.away = False
    setting.save(20)
    assert setting.mirror.sweep()
    assert setting.stored == ["checkpoint-10", "checkpoint-20"]
    for name in setting.stored:
        check(setting.root / "checkpoints" / "sft" / name)
    assert "again" in setting.told[1]
    assert setting.mirror.sweep()
    assert setting.mirror.pending() == []
    assert [note["level"] for note in setting.noted] == ["mirrored", "mirrored"]


def test_after_a_long_absence_the_newest_go_first_and_overtaken_ones_not_at_all(
    setting: Setting,
) -> None:
    setting.disk.away = True
    for step in (10, 20, 30, 40):
        setting.save(step)
        setting.mirror.sweep()
    setting.disk.away = False
    assert setting.mirror.sweep()
    assert [note["step"] for note in setting.noted] == [40, 30]
    assert setting.stored == ["checkpoint-30", "checkpoint-40"]
    assert sorted(p.name for p in setting.work.iterdir()) == setting.stored


def test_retention_counts_what_it_has_verified_of_earlier_runs(setting: Setting) -> None:
    for step in (10, 20):
        setting.save(step)
    setting.mirror.sweep()
    torn = setting.root / "checkpoints" / "sft" / "checkpoint-20" / "optimizer.pt"
    torn.write_bytes(b"")
    for path in setting.work.iterdir():
        shutil.rmtree(path)  # another machine
    setting.mirror = setting.start()
    setting.save(30)
    setting.mirror.sweep()
    assert "checkpoint-10" in setting.stored, "one of two is torn: the third must stay"
    setting.save(40)
    setting.mirror.sweep()
    assert setting.stored == ["checkpoint-30", "checkpoint-40"]


def test_what_another_machine_wrote_outlives_what_this_one_only_copied(setting: Setting) -> None:
    for step in (10, 20):
        setting.save(step, machine="another")
    setting.mirror.sweep()
    for step in (30, 40, 50):
        setting.save(step, machine=boot())
        setting.mirror.sweep()
    assert setting.stored == ["checkpoint-20", "checkpoint-40", "checkpoint-50"]


def test_a_folder_without_a_manifest_is_not_deleted_unasked(setting: Setting) -> None:
    plain = setting.root / "checkpoints" / "sft" / "checkpoint-5"
    plain.mkdir(parents=True)
    setting.mirror = setting.start()
    for step in (10, 20, 30):
        setting.save(step)
        setting.mirror.sweep()
    assert setting.stored == ["checkpoint-20", "checkpoint-30", "checkpoint-5"]


def test_a_new_start_knows_what_is_there_already(setting: Setting) -> None:
    setting.save(10)
    setting.mirror.sweep()
    again = setting.start()
    assert again.sweep()
    assert setting.stored == ["checkpoint-10"]
    (setting.root / "checkpoints/sft/checkpoint-10/optimizer.pt").write_bytes(b"cut")
    assert setting.start().sweep()
    assert len(setting.stored) == 2, "a torn copy is left alone and another is made"


def test_a_folder_that_goes_while_it_is_looked_into_ends_nothing(
    setting: Setting, monkeypatch: pytest.MonkeyPatch
) -> None:
    looks = 0

    def going() -> list[Entry]:
        nonlocal looks
        looks += 1
        if looks % 3:
            raise FileNotFoundError("checkpoint-10")
        return setting.committed()

    setting.save(10)
    monkeypatch.setattr(setting.mirror, "committed", going)
    assert [local.name for local in setting.mirror.pending()] == ["sft/checkpoint-10"]
    monkeypatch.setattr(setting.mirror, "committed", lambda: (_ for _ in ()).throw(OSError("dead")))
    assert not setting.mirror.sweep()
    monkeypatch.undo()
    assert setting.mirror.sweep()
    assert setting.stored == ["checkpoint-10"]


def test_the_end_of_a_run_takes_what_is_left_and_names_what_it_cannot(setting: Setting) -> None:
    setting.save(10)
    setting.mirror.start()
    assert setting.mirror.close() == []
    assert setting.stored == ["checkpoint-10"]
    setting.disk.away = True
    setting.save(20)
    late = setting.start()
    late.start()
    left = late.close(patience=0.0)
    assert [local.name for local in left] == ["sft/checkpoint-20"]


def test_the_end_does_not_wait_once_the_user_has_had_enough(setting: Setting) -> None:
    setting.disk.away = True
    setting.save(10)
    setting.mirror.start()
    left = setting.mirror.close(patience=float("inf"), enough=lambda: True)
    assert [type(local) for local in left] == [Local]
    setting.disk.away = False
    assert setting.mirror.close() == []


def test_a_copy_is_slowed_down_to_its_rate() -> None:
    now, slept = [0.0], [0.0]

    def sleep(seconds: float) -> None:
        now[0] += seconds
        slept[0] += seconds

    throttle = Throttle(rate=100.0, clock=lambda: now[0], sleep=sleep)
    for _ in range(10):
        throttle(50)
    assert now[0] == pytest.approx(5.0)
    now[0] += 100.0  # what was idle is not made up for
    throttle(50)
    assert now[0] == pytest.approx(105.5)
