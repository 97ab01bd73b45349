"""Every point at which a machine can go, and every state that uploads can be in: the right checkpoint is picked."""

import itertools
import os
import shutil
import signal
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path

import pytest

from qvl_run import faults
from qvl_run.checkpoints import generation
from qvl_run.checkpoints import manifest as manifests
from qvl_run.checkpoints.adopt import adopt
from qvl_run.checkpoints.folder import FolderStore
from qvl_run.checkpoints.manifest import NAME
from qvl_run.checkpoints.pick import Entry, Pick, entry_of, pick
from qvl_run.checkpoints.store import Held, held
from qvl_run.checkpoints.transfer import put
from qvl_run.disk import Disk
from qvl_run.run.cleanup import tidy_attempts
from tests.qvl_run.checkpoints.plain import plain_checkpoint
from tests.qvl_run.checkpoints.test_manifest import check, checkpoint
from tests.qvl_run.checkpoints.test_transfer import OtherDisk
from tests.qvl_run.run.test_mirror import Setting

KEY = "k" * 64


def picked(*candidates: Iterable[Entry]) -> int:
    """The step that is picked of `candidates`, 0 where there is none."""
    found = pick(itertools.chain(*candidates), key=KEY, kind="checkpoint")
    return found.manifest.step if found.manifest else 0


def local(work: Path) -> list[Entry]:
    """What a start finds on the machine's own disk: folders with a manifest."""
    store = FolderStore(work)
    names = [name for name in store.names("") if (work / name / NAME).exists()]
    return [entry_of(Held(store, name), stage="sft") for name in names]


def stored(root: Path) -> list[Entry]:
    return [entry_of(place, stage="sft") for place in held(FolderStore(root), "sft")]


def killed_at_every_effect(prepare: Callable[[], None], act: Callable[[], object]) -> Iterator[int]:
    """Runs `act` after `prepare` in a process that is killed before, in the middle of and after each of its effects
    in turn; yields the number of the point, for the caller to look at what is left."""
    for point in itertools.count(1):
        prepare()
        pid = os.fork()
        if pid == 0:
            try:
                os.environ["QVL_CRASH_AT"] = f"disk.effect@{point}"
                faults._passed.clear()
                act()
            except BaseException:
                os._exit(1)
            os._exit(0)
        _, status = os.waitpid(pid, 0)
        if os.WIFEXITED(status):
            assert os.WEXITSTATUS(status) == 0, "the act fails by itself"
            return
        assert os.WTERMSIG(status) == signal.SIGKILL
        yield point


@pytest.fixture
def folders(tmp_path: Path) -> Callable[[], None]:
    """Makes `work` and `drive` anew, with step 10 in both and step 20 about to be saved."""

    def prepare() -> None:
        for name in ("work", "drive"):
            shutil.rmtree(tmp_path / name, ignore_errors=True)
            (tmp_path / name).mkdir()
        checkpoint(tmp_path / "work" / "checkpoint-10", step=10)
        put(
            tmp_path / "work" / "checkpoint-10",
            checkpoint(tmp_path / "w10" / "checkpoint-10", step=10),
            FolderStore(tmp_path / "drive", disk=OtherDisk(tmp_path / "drive")),
        )
        shutil.rmtree(tmp_path / "w10")

    return prepare


def unsaved(work: Path, step: int) -> manifests.Manifest:
    """A checkpoint whose files are written and whose manifest is not."""
    manifest = checkpoint(work / f"checkpoint-{step}", step=step)
    (work / f"checkpoint-{step}" / NAME).unlink()
    return manifest


def test_killed_in_a_save(tmp_path: Path, folders: Callable[[], None]) -> None:
    work, manifest = tmp_path / "work", None

    def prepare() -> None:
        nonlocal manifest
        folders()
        manifest = unsaved(work, 20)

    def act() -> None:
        assert manifest is not None
        manifests.write(work / "checkpoint-20", manifest)

    points = 0
    for _ in killed_at_every_effect(prepare, act):
        points += 1
        assert picked(local(work)) in (10, 20)
        manifests.write(work / "checkpoint-30", unsaved(work, 30))
        assert picked(local(work)) == 30
    assert points > 15
    assert picked(local(work)) == 20


def whole(work: Path, step: int) -> manifests.Manifest:
    return checkpoint(work / f"checkpoint-{step}", step=step)


@pytest.mark.parametrize("drive", [False, True], ids=["same disk", "drive"])
def test_killed_in_a_mirror(tmp_path: Path, folders: Callable[[], None], drive: bool) -> None:
    work, root = tmp_path / "work", tmp_path / "drive"
    disk = OtherDisk(root) if drive else Disk()

    def prepare() -> None:
        folders()
        whole(work, 20)

    def act() -> None:
        manifest = local(work)[-1].manifest
        assert manifest is not None
        put(work / "checkpoint-20", manifest, FolderStore(root, disk=disk))

    points = 0
    for _ in killed_at_every_effect(prepare, act):
        points += 1
        assert picked(local(work), stored(root)) == 20
        assert picked(stored(root)) in (10, 20), "the machine is lost too"
        again = next((e for e in local(work) if e.manifest and e.manifest.step == 20), None)
        if again and again.manifest:
            put(work / "checkpoint-20", again.manifest, FolderStore(root, disk=disk))
        assert picked(stored(root)) == 20
    assert points > (20 if drive else 3)


def is_whole(folder: Path) -> bool:
    try:
        check(folder)
    except manifests.Broken:
        return False
    return True


def test_killed_in_a_prune(tmp_path: Path) -> None:
    setting = Setting(tmp_path)

    def prepare() -> None:
        for path in (setting.work, setting.root):
            shutil.rmtree(path)
            path.mkdir()
        for step in (10, 20, 30, 40):
            manifest = checkpoint(tmp_path / "made" / f"checkpoint-{step}", step=step)
            put(tmp_path / "made" / f"checkpoint-{step}", manifest, setting.store)
        shutil.rmtree(tmp_path / "made")
        setting.save(50)
        setting.mirror = setting.start()

    points = 0
    for _ in killed_at_every_effect(prepare, lambda: setting.mirror.sweep()):
        points += 1
        assert picked(local(setting.work), stored(setting.root)) == 50
        assert picked(stored(setting.root)) >= 40
        left = sum(is_whole(setting.root / entry.held.name) for entry in stored(setting.root))
        assert left >= 2
        setting.mirror = setting.start()
        setting.save(60)
        assert setting.mirror.sweep()
        assert picked(stored(setting.root)) == 60
    assert points > 70


def test_killed_in_a_beginning_anew(tmp_path: Path) -> None:
    store = FolderStore(tmp_path / "drive")

    def prepare() -> None:
        shutil.rmtree(store.root, ignore_errors=True)
        store.root.mkdir()
        generation.begin(FolderStore(store.root), "runs/job", "sft", key=KEY, given_up=["a"])

    def act() -> None:
        generation.begin(FolderStore(store.root), "runs/job", "sft", key=KEY, given_up=["b"])

    points = 0
    for _ in killed_at_every_effect(prepare, act):
        points += 1
        found = generation.read(store, "runs/job", "sft")
        assert (found.numbers[KEY], found.given_up) in ((1, {"a"}), (2, {"a", "b"}))
        act()
        again = generation.read(store, "runs/job", "sft")
        assert again.numbers[KEY] == found.numbers[KEY] + 1
    assert points > 2


def test_killed_in_a_tidying_of_attempts(tmp_path: Path) -> None:
    parent = tmp_path / "attempts"

    def prepare() -> None:
        shutil.rmtree(parent, ignore_errors=True)
        for number in (1, 2):
            checkpoints = parent / f"attempt-000{number}" / "work" / "checkpoints"
            checkpoint(checkpoints / "checkpoint-10", step=10)
            unsaved(checkpoints, 20)

    def left() -> list[str]:
        return [path.parent.parent.parent.name for path in parent.glob("*/*/*/checkpoint-20")]

    points = 0
    for _ in killed_at_every_effect(prepare, lambda: tidy_attempts(parent)):
        points += 1
        for folder in parent.glob("*/*/*/checkpoint-10"):
            check(folder)
        assert "attempt-0002" in left()
        tidy_attempts(parent)
        assert left() == ["attempt-0002"]
    assert points > 10


def test_killed_in_an_adoption(tmp_path: Path) -> None:
    root = tmp_path / "drive"
    folder = root / "checkpoints" / "sft" / "checkpoint-7"

    def prepare() -> None:
        shutil.rmtree(root, ignore_errors=True)
        plain_checkpoint(folder, step=7)

    def act() -> None:
        place = Held(FolderStore(root), "checkpoints/sft/checkpoint-7")
        adopt(place, stage="sft", key=KEY, identity={})

    points = 0
    for _ in killed_at_every_effect(prepare, act):
        points += 1
        found = picked(stored(root))
        assert found in (0, 7)
        if not found:
            act()
        assert picked(stored(root)) == 7
    assert points >= 3


STATES = ("whole", "missing", "empty", "half")


class Uploads:
    """A store in memory whose files are as far uploaded as `states` says."""

    place = "memory"
    finished = "mirrored"

    def __init__(self, steps: Sequence[int], folder: Path) -> None:
        self.content: dict[str, bytes] = {}
        for step in steps:
            checkpoint(folder / f"checkpoint-{step}", step=step)
            for path in sorted((folder / f"checkpoint-{step}").rglob("*")):
                if path.is_file():
                    self.content[path.relative_to(folder).as_posix()] = path.read_bytes()
        self.states = dict.fromkeys(self.content, "whole")

    def seen(self, name: str) -> bytes | None:
        content = self.content.get(name)
        if content is None or self.states[name] == "missing":
            return None
        return {"whole": content, "empty": b"", "half": content[: len(content) // 2]}[
            self.states[name]
        ]

    def sizes(self, folder: str) -> dict[str, int]:
        found = {
            n.removeprefix(f"{folder}/"): self.seen(n)
            for n in self.content
            if n.startswith(f"{folder}/")
        }
        return {name: len(content) for name, content in found.items() if content is not None}

    def read(self, name: str) -> Iterator[bytes]:
        content = self.seen(name)
        if content is None:
            raise FileNotFoundError(name)
        yield content

    def best(self) -> Pick:
        folders = sorted({name.partition("/")[0] for name in self.content})
        candidates = [entry_of(Held(self, name), stage="sft") for name in folders]  # type: ignore[arg-type]
        return pick(candidates, key=KEY, kind="checkpoint")


def test_every_state_of_the_uploads_of_the_newest_two(tmp_path: Path) -> None:
    store = Uploads((10, 20, 30), tmp_path)
    names = {
        step: [n for n in store.content if n.startswith(f"checkpoint-{step}/")] for step in (20, 30)
    }
    assert [len(files) for files in names.values()] == [4, 4]
    combinations = wrong = 0
    for newest in itertools.product(STATES, repeat=4):
        store.states.update(zip(names[30], newest, strict=True))
        for older in itertools.product(STATES, repeat=4):
            store.states.update(zip(names[20], older, strict=True))
            combinations += 1
            right = 30 if set(newest) == {"whole"} else 20 if set(older) == {"whole"} else 10
            found = store.best()
            wrong += found.manifest is None or found.manifest.step != right
    assert (combinations, wrong) == (65536, 0)


class Volatile(Disk):
    """A disk that forgets, when the power goes, what was not synced: an effect is undone unless the file, or for
    names the folder, was synced after it. Effects after `last` never happen."""

    def __init__(self, last: int) -> None:
        self.left = last
        self.journal: list[tuple[Path, Callable[[], None]]] = []

    def _effect(self, undo: Callable[[], None], about: Path) -> None:
        if self.left == 0:
            raise KeyboardInterrupt
        self.left -= 1
        self.journal.append((about, undo))

    def write(self, path: Path, chunks: Iterable[bytes], *, sync: bool = False) -> None:
        content = b"".join(chunks)
        half = content[: len(content) // 2]
        self._effect(lambda: path.unlink(missing_ok=True), path.parent)
        self._effect(lambda: path.write_bytes(half) and None if path.exists() else None, path)
        path.write_bytes(content)
        if sync:
            self.sync(path)

    def make(self, folder: Path) -> None:
        self._effect(lambda: shutil.rmtree(folder, ignore_errors=True), folder.parent)
        super().make(folder)

    def rename(self, path: Path, target: Path) -> None:
        self._effect(
            lambda: target.rename(path) and None if target.exists() else None, target.parent
        )
        super().rename(path, target)

    def sync(self, path: Path) -> None:
        self._effect(lambda: None, path)
        self.journal = [(about, undo) for about, undo in self.journal if about != path]

    def power_goes(self, forgotten: int) -> None:
        """The last `forgotten` effects that nothing has synced did not reach the disk."""
        for _, undo in self.journal[len(self.journal) - forgotten :][::-1]:
            undo()


@pytest.mark.parametrize("place", ["save", "same disk", "drive"])
def test_the_power_goes_and_what_was_not_synced_is_lost(
    tmp_path: Path, folders: Callable[[], None], place: str
) -> None:
    work, root = tmp_path / "work", tmp_path / "drive"
    manifest: manifests.Manifest | None = None

    class Both(Volatile):
        def device(self, path: Path) -> int:
            return 2 if place == "drive" and root in (path, *path.parents) else 1

    def attempt(last: int, forgotten: int) -> tuple[bool, int]:
        """Whether the act came to its end, and how many effects could have been forgotten."""
        nonlocal manifest
        folders()
        disk, ended = Both(last), True
        save = unsaved if place == "save" else whole
        manifest = save(work, 20)
        try:
            if place == "save":
                manifests.write(work / "checkpoint-20", manifest, disk)
            else:
                put(work / "checkpoint-20", manifest, FolderStore(root, disk=disk), disk=disk)
        except KeyboardInterrupt:
            ended = False
        can_be_lost = len(disk.journal)
        disk.power_goes(min(forgotten, can_be_lost))
        return ended, can_be_lost

    tried = 0
    for last in itertools.count():
        ended, can_be_lost = attempt(last, 0)
        for forgotten in range(can_be_lost + 1):
            attempt(last, forgotten)
            tried += 1
            found = picked(local(work), stored(root))
            assert found == 20 if ended or place != "save" else found in (10, 20), (last, forgotten)
            assert picked(stored(root)) == (
                20 if ended and place != "save" else picked(stored(root))
            )
        if ended:
            break
    assert tried > {"save": 15, "same disk": 3, "drive": 40}[place]
