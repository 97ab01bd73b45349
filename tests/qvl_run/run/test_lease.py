import errno
import json
import os
import queue
import threading
from collections.abc import Iterable, Iterator
from dataclasses import asdict, replace
from pathlib import Path

import pytest

from qvl_run.checkpoints.folder import FolderStore
from qvl_run.run import lease as leases
from qvl_run.run.lease import EXPIRES, LOOK, Interrupted, Lease, Owned, Owner, myself

HERE = myself()
ELSEWHERE = Owner(token="abc123", host="other", boot="b", pid=1, started=0.0, beat=7, time=1000.0)


class World:
    """Two machines on one store, and a clock that only waiting moves."""

    def __init__(self, root: Path) -> None:
        (root / "drive").mkdir()
        self.store = FolderStore(root / "drive")
        self.memory = root / "scratch" / "owned"
        self.now = 1000.0
        self.told: list[str] = []
        self.waited = 0.0
        self.moves_at: float | None = None
        self.ends_at: float | None = None
        self.interrupted = False

    def lease(self, me: Owner | None = None) -> Lease:
        return Lease(
            store=self.store, run="runs/job", memory=self.memory, me=me or HERE, clock=lambda: self.now,
            pause=self.pause, tell=self.told.append,
        )  # fmt: skip

    def pause(self, seconds: float) -> bool:
        self.now += seconds
        self.waited += seconds
        if self.moves_at is not None and self.waited >= self.moves_at:
            self.write(replace(ELSEWHERE, beat=8, time=self.now))
        if self.ends_at is not None and self.waited >= self.ends_at:
            self.write(replace(ELSEWHERE, ended=True))
        return not self.interrupted

    def write(self, owner: Owner | bytes) -> None:
        content = owner if isinstance(owner, bytes) else json.dumps(asdict(owner)).encode()
        self.store.write("runs/job/owner.json", [content])

    @property
    def owner(self) -> Owner:
        return Owner(**json.loads(b"".join(self.store.read("runs/job/owner.json"))))


@pytest.fixture
def world(tmp_path: Path) -> World:
    return World(tmp_path)


def test_a_run_that_nobody_owns_is_owned_at_once(world: World) -> None:
    lease = world.lease()
    lease.acquire()
    assert (world.owner.token, world.waited, lease.rival) == (HERE.token, 0.0, "")
    lease.release()
    assert world.owner.ended
    world.lease(replace(HERE, token="next")).acquire()
    assert (world.owner.token, world.waited) == ("next", 0.0)


def test_another_machine_that_gives_a_sign_of_life_keeps_the_run(world: World) -> None:
    world.write(ELSEWHERE)
    world.moves_at = 60.0
    with pytest.raises(Owned, match="process 1 on other"):
        world.lease().acquire()
    assert world.waited == pytest.approx(60.0, abs=LOOK)
    assert world.owner.token == "abc123"
    assert "waiting up to" in world.told[0]


def test_one_that_gives_none_counts_as_gone_after_a_while(world: World) -> None:
    world.write(replace(ELSEWHERE, time=world.now - 100))
    lease = world.lease()
    lease.acquire()
    assert world.waited == pytest.approx(EXPIRES - 100, abs=LOOK)
    assert (world.owner.token, lease.rival) == (HERE.token, "")


@pytest.mark.parametrize("time", [1000.0 - EXPIRES - 1, 0.0])
def test_an_expired_lease_is_not_waited_for(world: World, time: float) -> None:
    world.write(replace(ELSEWHERE, time=time))
    world.lease().acquire()
    assert (world.waited, world.told) == (0.0, [])


def test_a_clock_that_is_ahead_is_waited_for_no_longer(world: World) -> None:
    world.write(replace(ELSEWHERE, time=world.now + 1e6))
    world.lease().acquire()
    assert world.waited == pytest.approx(EXPIRES, abs=LOOK)


def test_one_that_ends_while_it_is_waited_for_gives_way_at_once(world: World) -> None:
    world.write(ELSEWHERE)
    world.ends_at = 20.0
    world.lease().acquire()
    assert world.waited == pytest.approx(20.0, abs=LOOK)


def test_the_wait_can_be_interrupted(world: World) -> None:
    world.write(ELSEWHERE)
    world.interrupted = True
    with pytest.raises(Interrupted):
        world.lease().acquire()
    assert world.owner == ELSEWHERE


def test_take_over_does_not_wait_and_shares_no_name(world: World) -> None:
    world.write(ELSEWHERE)
    lease = world.lease()
    lease.acquire(take_over=True)
    assert (world.waited, lease.rival) == (0.0, HERE.token)


def test_whose_run_was_taken_over_notices_and_writes_no_more(world: World) -> None:
    lease = world.lease()
    lease.acquire()
    world.write(ELSEWHERE)
    lease.renew()
    assert lease.lost
    assert lease.rival == HERE.token
    lease.release()
    assert world.owner == ELSEWHERE


def test_a_process_of_this_machine_that_is_gone_is_not_waited_for(world: World) -> None:
    world.write(replace(HERE, token="gone", pid=2**22 + 1, time=world.now))
    world.lease().acquire()
    world.write(replace(HERE, token="reused", started=HERE.started - 100, time=world.now))
    world.lease().acquire()
    assert world.waited == 0.0


def test_a_process_of_this_machine_that_lives_is_refused_at_once(world: World) -> None:
    world.write(replace(HERE, token="lives", time=0.0))
    with pytest.raises(Owned):
        world.lease().acquire()
    assert world.waited == 0.0


def test_a_lease_of_ones_own_is_nobody_elses(world: World) -> None:
    lease = world.lease()
    lease.acquire()
    lease.acquire()
    assert (world.waited, lease.rival) == (0.0, "")


def test_one_that_took_over_and_ended_is_noticed_too(world: World) -> None:
    lease = world.lease()
    lease.acquire()
    world.write(replace(ELSEWHERE, ended=True))
    lease.renew()
    assert lease.lost


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT])
def test_a_full_drive_is_told_of_and_stops_nothing(
    world: World, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    def full(*_: object) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(world.store, "write", full)
    lease = world.lease()
    lease.acquire()
    assert "is full: free some space" in world.told[0]
    assert lease.rival == HERE.token, "nobody knows of this run"
    monkeypatch.undo()
    monkeypatch.setattr(
        world.store, "write", lambda *_: (_ for _ in ()).throw(OSError(107, "gone"))
    )
    with pytest.raises(OSError, match="gone"):
        world.lease().acquire()


def test_a_lease_that_this_machine_cut_short_itself_changes_no_name(world: World) -> None:
    world.lease().acquire()
    world.write(b"")
    again = world.lease(replace(HERE, token="again"))
    again.acquire()
    assert again.rival == ""


@pytest.mark.parametrize("content", [b"", b"{", b'{"token": "x"}', b"[]", b"\xff"])
def test_a_lease_that_was_cut_short_is_nobodys_and_no_name_is_shared(
    world: World, content: bytes
) -> None:
    world.write(content)
    lease = world.lease()
    lease.acquire()
    assert lease.rival == HERE.token
    assert world.owner.token == HERE.token


def test_signs_of_life_count_up(world: World) -> None:
    lease = world.lease()
    lease.acquire()
    first = world.owner
    world.now += 60
    lease.renew()
    assert (world.owner.beat, world.owner.time) == (first.beat + 1, first.time + 60)


class Hanging(FolderStore):
    """A store whose writes or listings hang until `answer` is set."""

    def __init__(self, root: Path) -> None:
        super().__init__(root)
        self.hangs = False
        self.asked, self.answer = threading.Event(), threading.Event()

    def write(self, name: str, chunks: Iterable[bytes]) -> None:
        if self.hangs:
            self.asked.set()
            assert self.answer.wait(20)
        super().write(name, chunks)


@pytest.fixture
def hanging(world: World) -> Iterator[Hanging]:
    world.store = store = Hanging(world.store.root)
    yield store
    store.answer.set()


def test_the_end_does_not_wait_for_a_store_that_hangs(
    world: World, hanging: Hanging, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(leases, "LAST", 0.01)
    lease = world.lease()
    lease.acquire()
    hanging.hangs = True
    lease.release()
    assert hanging.asked.is_set()
    assert not world.owner.ended


def test_a_sign_of_life_that_hung_does_not_take_the_last_word_back(
    world: World, hanging: Hanging, monkeypatch: pytest.MonkeyPatch
) -> None:
    lease = world.lease()
    lease.acquire()
    hanging.hangs = True
    renewing = threading.Thread(target=lease.renew, daemon=True)
    renewing.start()
    assert hanging.asked.wait(20)
    monkeypatch.setattr(leases, "LAST", 0.01)
    lease.release()
    hanging.hangs = False
    hanging.answer.set()
    for thread in (renewing, *(t for t in threading.enumerate() if t.name == "release")):
        thread.join(20)
    last = world.owner
    assert last.ended
    lease.renew()
    assert world.owner == last


def drop(world: World, *names: str) -> None:
    for name in names:
        world.store.write(f"runs/job/{name}", [b""])


def test_what_a_user_asks_for_in_the_store_is_seen_once_and_taken_away(world: World) -> None:
    lease = world.lease()
    lease.acquire()
    drop(world, "save-now", "stop-after-save.txt", "save-nowhere", "generations-0001.json")
    (world.store.root / "runs/job/stop-after-save").mkdir()
    lease.look()
    assert lease.requests() == {"save-now", "stop-after-save"}
    assert lease.requests() == frozenset()
    assert list(world.store.names("runs/job")) == [
        "generations-0001.json",
        "owner.json",
        "save-nowhere",
    ]
    drop(world, "save-now")
    lease.look()
    lease.look()
    assert lease.requests() == {"save-now"}


def test_a_request_that_cannot_be_taken_away_counts_once(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    lease = world.lease()
    lease.acquire()
    drop(world, "save-now")
    with monkeypatch.context() as patch:
        patch.setattr(world.store, "remove", lambda *_, **__: (_ for _ in ()).throw(OSError("no")))
        lease.look()
        assert lease.requests() == {"save-now"}
        lease.look()
        assert lease.requests() == frozenset()
    world.store.remove("runs/job/save-now", first="")
    lease.look()
    drop(world, "save-now")
    lease.look()
    assert lease.requests() == {"save-now"}, "it was gone, so this is another"


def test_what_was_asked_of_an_earlier_run_is_not_heeded(world: World) -> None:
    lease = world.lease()
    lease.acquire()
    drop(world, "stop-after-save")
    lease.look(heed=False)
    assert lease.requests() == frozenset()
    assert list(world.store.names("runs/job")) == ["owner.json"]


def test_requests_are_looked_for_with_each_sign_of_life(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(leases, "RENEW", 0.005)
    looks: queue.Queue[bool] = queue.Queue()
    lease = world.lease()
    lease.acquire()
    look = lease.look

    def noting(*, heed: bool = True) -> None:
        look(heed=heed)
        looks.put(heed)

    monkeypatch.setattr(lease, "look", noting)
    drop(world, "stop-after-save")
    lease.keep()
    assert looks.get(timeout=20) is False, "it was there before this run"
    drop(world, "save-now")
    while not (found := lease.requests()):
        assert looks.get(timeout=20)
    assert found == {"save-now"}
    lease.release()
