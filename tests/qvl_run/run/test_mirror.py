import errno
import queue
import shutil
import threading
from collections.abc import Callable, Iterable, Iterator
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
from qvl_run.disk import Disk
from qvl_run.run import mirror as mirrors
from qvl_run.run.lease import boot
from qvl_run.run.mirror import Local, Mirror, Throttle
from tests.qvl_run.checkpoints.test_manifest import check, checkpoint
from tests.qvl_run.checkpoints.test_transfer import OtherDisk

DEADLINE = 20
"""Seconds after which a thread that should have come somewhere counts as lost."""


class Drive(OtherDisk):
    """Another disk, which is away for a while, or hangs: then each write is told of by `asked`, and goes on once
    `answer` has been released for it."""

    away = hangs = False

    def __init__(self, root: Path) -> None:
        super().__init__(root)
        self.asked: queue.Queue[str] = queue.Queue()
        self.answer = threading.Semaphore(0)
        self.written: list[str] = []

    def write(self, path: Path, chunks: Iterable[bytes], *, sync: bool = False) -> None:
        if self.root in path.parents:
            if self.away:
                raise OSError(errno.ENOTCONN, "Transport endpoint is not connected")
            if self.hangs:
                self.asked.put(path.name)
                assert self.answer.acquire(timeout=DEADLINE)
            self.written.append(path.name)
        super().write(path, chunks, sync=sync)

    def wake(self) -> None:
        """Hang no more."""
        self.hangs = False
        self.answer.release(1000)


class Setting:
    """A mirror between `work` and `drive`, and what it told."""

    def __init__(self, folder: Path) -> None:
        self.work, self.root = folder / "work", folder / "drive"
        self.work.mkdir()
        self.root.mkdir()
        self.disk = Drive(self.root)
        self.now = 1000.0
        self.story = folder / "events"
        self.story.mkdir()
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
            segments=lambda: list(self.story.glob("*.jsonl"))[::-1],
            run="runs/job",
            clock=lambda: self.now,
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

    def hang(self, act: Callable[[], object]) -> threading.Thread:
        """`act` in a thread that hangs in its first write to the drive when this returns."""
        self.disk.hangs = True
        thread = threading.Thread(target=act, daemon=True)
        thread.start()
        self.disk.asked.get(timeout=DEADLINE)
        return thread

    @property
    def here(self) -> list[str]:
        return sorted(path.name for path in self.work.iterdir())

    @property
    def stored(self) -> list[str]:
        return [place.last for place in held(self.store, "sft")]


@pytest.fixture
def setting(tmp_path: Path) -> Iterator[Setting]:
    setting = Setting(tmp_path)
    yield setting
    setting.disk.wake()


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

    def passing() -> bool:
        setting.now += 1.0
        return False

    left = late.close(patience=0.0, enough=passing)
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


def test_a_copy_that_hangs_does_not_keep_this_disk_from_being_tidied(setting: Setting) -> None:
    setting.save(10)
    sweep = setting.hang(setting.mirror.sweep)
    for step in (20, 30, 40):
        setting.save(step)
    setting.mirror.look()
    assert setting.here == ["checkpoint-10", "checkpoint-30", "checkpoint-40"], "10 is being copied"
    setting.disk.wake()
    sweep.join(DEADLINE)
    assert setting.here == ["checkpoint-30", "checkpoint-40"]
    assert [note["step"] for note in setting.noted] == [10, 40, 30]
    check(setting.root / "checkpoints" / "sft" / "checkpoint-40")
    assert setting.told == []


def test_this_disk_is_tidied_all_the_time(
    setting: Setting, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(mirrors, "TIDY", 0.005)
    monkeypatch.setattr(mirrors, "INTERVAL", 0.005)
    looks: queue.Queue[None] = queue.Queue()

    def committed() -> list[Entry]:
        looks.put(None)
        return setting.committed()

    setting.mirror.committed = committed
    setting.save(10)
    setting.hang(setting.mirror.start)
    for step in (20, 30, 40):
        setting.save(step)
    while "checkpoint-20" in setting.here:
        looks.get(timeout=DEADLINE)
    assert setting.here == ["checkpoint-10", "checkpoint-30", "checkpoint-40"]
    setting.disk.wake()
    assert setting.mirror.close() == []


def test_the_end_does_not_wait_for_a_drive_that_hangs(setting: Setting) -> None:
    setting.save(10)
    setting.mirror.start()
    began = setting.now

    def passing() -> bool:
        setting.now += 5.0
        return False

    setting.disk.hangs = True
    left = setting.mirror.close(patience=20.0, enough=passing)
    assert [local.name for local in left] == ["sft/checkpoint-10"]
    assert 20.0 < setting.now - began <= 30.0


def test_the_end_waits_for_a_drive_that_is_only_slow(setting: Setting) -> None:
    setting.save(10)
    setting.disk.hangs = True
    began = setting.now
    writes = iter(range(4))

    def passing() -> bool:
        if next(writes, None) is not None:
            setting.disk.asked.get(timeout=DEADLINE)
            setting.now += 15.0
            setting.disk.answer.release()
        return False

    setting.mirror.start()
    assert setting.mirror.close(patience=20.0, enough=passing) == []
    assert setting.now - began == 60.0
    assert setting.mirror.slowest_upload == 60.0


def test_who_waits_for_the_drive_waits_for_one_that_hangs_too(setting: Setting) -> None:
    setting.save(10)
    setting.disk.hangs = True
    asked = 0

    def enough() -> bool:
        nonlocal asked
        setting.now += 1e6
        asked += 1
        return asked > 5

    setting.mirror.start()
    left = setting.mirror.close(patience=float("inf"), enough=enough)
    assert (len(left), asked) == (1, 6)


def test_how_long_it_has_refused_and_what_waits_can_be_asked(setting: Setting) -> None:
    mirror = setting.mirror
    setting.now += 500.0
    assert (mirror.refusing_for(), mirror.waiting(), mirror.slowest_upload) == (0.0, (0, 0.0), None)
    setting.disk.away = True
    setting.save(10)
    mirror.sweep()
    setting.now += 60.0
    setting.save(20)
    mirror.sweep()
    setting.now += 30.0
    assert (mirror.refusing_for(), mirror.waiting()) == (90.0, (2, 90.0))
    setting.disk.away = False
    assert mirror.sweep()
    setting.now += 500.0
    assert (mirror.refusing_for(), mirror.waiting()) == (0.0, (0, 0.0))
    assert mirror.slowest_upload == 0.0


def test_a_drive_that_hangs_counts_as_refusing(setting: Setting) -> None:
    mirror = setting.mirror
    setting.save(10)
    sweep = setting.hang(mirror.sweep)
    setting.now += 40.0
    setting.save(20)
    mirror.look()
    setting.now += 2.0
    assert (mirror.refusing_for(), mirror.waiting()) == (42.0, (2, 42.0))
    setting.disk.wake()
    sweep.join(DEADLINE)
    assert (mirror.refusing_for(), mirror.waiting()) == (0.0, (0, 0.0))
    assert mirror.slowest_upload == 42.0


@pytest.mark.parametrize("near", [True, False], ids=["same disk", "other disk"])
def test_settling_takes_what_is_only_renamed(setting: Setting, near: bool) -> None:
    disk = Disk() if near else setting.disk
    setting.store = FolderStore(setting.root, disk=disk)
    setting.mirror = setting.start()
    for step in (10, 20, 30):
        setting.save(step)
    setting.mirror.settle()
    every = ["checkpoint-10", "checkpoint-20", "checkpoint-30"]
    assert (setting.stored, setting.here) == ((every[1:], every[:1]) if near else ([], every))
    known = [entry.held.last for entry in setting.mirror.index.of("sft")]
    assert sorted(known) == setting.stored
    assert setting.mirror.sweep()
    assert setting.stored == every[1:]


def test_settling_waits_for_no_copy(setting: Setting) -> None:
    setting.store = FolderStore(setting.root, disk=setting.disk)
    setting.mirror = setting.start()
    setting.save(10)
    setting.hang(setting.mirror.sweep)
    settle = threading.Thread(target=setting.mirror.settle, daemon=True)
    settle.start()
    settle.join(DEADLINE / 4)
    assert not settle.is_alive()
    assert setting.here == ["checkpoint-10"]


def test_settling_leaves_a_store_alone_that_is_not_of_this_disk(setting: Setting) -> None:
    setting.save(10)
    setting.mirror.settle()
    assert setting.disk.written == []


def write_segments(setting: Setting, *numbers: int) -> None:
    for number in numbers:
        (setting.story / f"events-1-abc-{number:04d}.jsonl").write_text(
            f'{{"event": "{number}"}}\n'
        )
    (setting.story / "events-1-abc-0009.open").write_text("{")


def segments(setting: Setting) -> list[str]:
    return list(setting.store.names("runs/job"))


def test_closed_segments_go_first_and_in_order_each_once(setting: Setting) -> None:
    write_segments(setting, 2, 1, 3)
    setting.save(10)
    assert setting.mirror.sweep()
    names = [f"events-1-abc-{number:04d}.jsonl" for number in (1, 2, 3)]
    assert setting.disk.written[:4] == [*names, "adapter.safetensors"]
    assert segments(setting) == names
    for name in names:
        text = (setting.root / "runs/job" / name).read_text()
        assert text == (setting.story / name).read_text()
    write_segments(setting, 4)
    for mirror in (setting.mirror, setting.start()):
        del setting.disk.written[:]
        assert mirror.sweep()
    assert setting.disk.written == [], "a new start knows what is there"
    assert len(segments(setting)) == 4


def test_a_segment_that_was_cut_short_on_its_way_goes_again(setting: Setting) -> None:
    write_segments(setting, 1, 2)
    setting.store.write("runs/job/events-1-abc-0001.jsonl", [b"{"])
    setting.store.write("runs/job/events-1-other-0001.jsonl", [b"another machine's"])
    assert setting.mirror.sweep()
    for name in ("events-1-abc-0001.jsonl", "events-1-abc-0002.jsonl"):
        assert (setting.root / "runs/job" / name).read_text() == (setting.story / name).read_text()
    assert (setting.root / "runs/job/events-1-other-0001.jsonl").read_text() == "another machine's"


def test_segments_that_could_not_be_taken_are_told_of_once_and_tried_again(
    setting: Setting,
) -> None:
    setting.disk.away = True
    write_segments(setting, 1)
    assert [setting.mirror.sweep() for _ in range(3)] == [False] * 3
    assert len(setting.told) == 1
    assert "the log of events could not be taken to storage yet" in setting.told[0]
    setting.now += 70.0
    assert setting.mirror.refusing_for() == 70.0
    setting.disk.away = False
    assert setting.mirror.sweep()
    assert segments(setting) == ["events-1-abc-0001.jsonl"]
    assert setting.mirror.refusing_for() == 0.0


def test_a_segment_that_reads_back_other_is_not_taken(setting: Setting) -> None:
    class Lossy(Drive):
        def write(self, path: Path, chunks: Iterable[bytes], *, sync: bool = False) -> None:
            super().write(path, [b"".join(chunks)[1:]], sync=sync)

    setting.store = FolderStore(setting.root, lasting=False, disk=Lossy(setting.root))
    setting.mirror = setting.start()
    write_segments(setting, 1)
    assert not setting.mirror.sweep()
    assert "reads back other" in setting.told[0]


def test_the_last_segments_are_taken_once_the_mirror_is_closed(
    setting: Setting, monkeypatch: pytest.MonkeyPatch
) -> None:
    setting.mirror.start()
    assert setting.mirror.close() == []
    write_segments(setting, 1)
    assert setting.mirror.take_segments()
    assert segments(setting) == ["events-1-abc-0001.jsonl"]
    setting.disk.hangs = True
    write_segments(setting, 2)
    monkeypatch.setattr(mirrors, "LAST", 0.01)
    assert not setting.mirror.take_segments()
    setting.disk.wake()
