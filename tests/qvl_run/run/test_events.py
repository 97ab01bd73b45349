"""The story of a run in its segments: nothing written is lost or told twice, and no secret is in it."""

import json
import threading
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import pytest

from qvl_run.checkpoints.folder import FolderStore
from qvl_run.recovery.budget import RESTART
from qvl_run.recovery.ladder import ADAPTED
from qvl_run.run import events
from qvl_run.run.events import CLOSED, LEDGER, LONGEST, OPEN, Events
from qvl_run.run.segments import Segments

RUN = "runs/demo"
START = 1_700_000_000.25
ACCOUNT = {"total": 1, "by_rule": {"exit": 1}, "streak": 1, "failed_at": 4}
SPENT: dict[str, Any] = {
    "stage": "sft",
    "key": "k",
    "failure": "exit",
    "rule": "exit",
    "wait": 0.0,
    "by_hand": False,
    "account": ACCOUNT,
}
LOWERED: dict[str, Any] = {"stage": "sft", "settings": "s", "gpu": "cpu", "rungs": 1, "changes": {}}


class Clock:
    """Stands until it is moved."""

    now = START

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


def begun(folder: Path, clock: Clock, *, token: str = "aa", secret: str = "") -> Events:
    def shown(text: str) -> str:
        return text.replace(secret, "${env:SECRET}") if secret else text

    return Events(folder, token=token, clock=clock, shown=shown)


def names(folder: Path, ending: str) -> list[str]:
    return sorted(path.name for path in folder.iterdir() if path.name.endswith(ending))


def told(records: Iterable[dict[str, Any]]) -> list[str]:
    return [record["event"] for record in records]


def test_an_event_is_on_disk_at_once_and_its_segment_is_closed_once(
    tmp_path: Path, clock: Clock
) -> None:
    story = begun(tmp_path, clock)
    story.add("run_started", job="demo")
    assert names(tmp_path, OPEN) == ["events-20231114-221320-250-aa-0001.open"]
    assert events.here(tmp_path) == [
        {"id": "aa-1", "time": "2023-11-14T22:13:20.250Z", "event": "run_started", "job": "demo"}
    ]
    assert story.closed() == []
    story.close()
    story.close()
    assert names(tmp_path, "") == ["events-20231114-221320-250-aa-0001.jsonl"]
    story.add("run_ended")
    story.close()
    assert [path.name[-10:-6] for path in story.closed()] == ["0001", "0002"]
    assert told(events.here(tmp_path)) == ["run_started", "run_ended"]


def test_what_recovery_counts_on_closes_its_segment_and_is_found_by_its_name(
    tmp_path: Path, clock: Clock
) -> None:
    story = begun(tmp_path, clock)
    story.add("attempt_failed", stage="sft")
    story.add(RESTART, **SPENT)
    story.add("attempt_started", stage="sft")
    story.close()
    story.add(ADAPTED, **LOWERED)
    assert len(names(tmp_path, LEDGER)) == 2
    assert names(tmp_path, OPEN) == []
    assert told(events.here(tmp_path, ledger=True)) == [RESTART, ADAPTED]
    assert told(events.here(tmp_path)) == ["attempt_failed", RESTART, "attempt_started", ADAPTED]


def test_an_old_segment_is_closed_with_an_event_or_without(tmp_path: Path, clock: Clock) -> None:
    story = begun(tmp_path, clock)
    story.add("attempt_started")
    clock.now += LONGEST
    assert story.closed() == []
    clock.now += 1
    assert len(story.closed()) == 1
    clock.now += 2 * LONGEST
    assert len(story.closed()) == 1
    story.add("finding")
    clock.now += LONGEST + 1
    story.add("finding")
    assert names(tmp_path, OPEN) == []
    assert len(story.closed()) == 2


def test_what_a_killed_run_left_open_is_closed_at_the_next_start(
    tmp_path: Path, clock: Clock
) -> None:
    for token, event in (("aa", "attempt_started"), ("bb", RESTART)):
        killed = begun(tmp_path / token, clock, token=token)
        killed.add("run_started")
        (left,) = (tmp_path / token).glob("*.open")
        record = {"id": f"{token}-2", "time": "2023-11-14T22:13:21.000Z", "event": event}
        line = json.dumps(record | SPENT)
        with left.open("a") as file:
            file.write(f'{line}\n{{"id": "{token}-3", "eve')  # cut short
        begun(tmp_path / token, clock, token="cc")
        suffix = LEDGER if event == RESTART else ".jsonl"
        assert names(tmp_path / token, "") == [left.with_suffix(suffix).name]
        assert told(events.here(tmp_path / token)) == ["run_started", event]


def test_a_start_counts_what_lies_in_a_segment_that_is_still_open(
    tmp_path: Path, clock: Clock
) -> None:
    killed = begun(tmp_path, clock)
    killed.add("run_started")
    (left,) = tmp_path.glob("*.open")
    left.write_text(json.dumps({"id": "aa-1", "time": "", "event": RESTART, **SPENT}) + "\n")
    assert told(events.here(tmp_path, ledger=True)) == [RESTART]


def test_lines_that_are_no_records_are_left_out(tmp_path: Path) -> None:
    path = tmp_path / f"events-x{CLOSED}"
    path.write_bytes(
        b'\n3\n["a"]\nnull\n\xff\xfe\n{"id": "a-1", "time": "t", "event": "e"}\r\n{"id": "a-'
    )
    assert events.here(tmp_path) == [{"id": "a-1", "time": "t", "event": "e"}]
    assert events.here(tmp_path / "nowhere") == []


def test_an_event_that_the_disk_cut_short_does_not_spoil_the_next(
    tmp_path: Path, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    story = begun(tmp_path, clock)
    story.add("run_started")
    (left,) = tmp_path.glob("*.open")
    whole = Path.open

    def full(path: Path, *args: Any, **kwargs: Any) -> Any:
        with whole(path, "a") as file:
            file.write('{"id": "aa-2", "ev')
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(Path, "open", full)
        with pytest.raises(OSError, match="No space"):
            story.add("finding")
    story.add(RESTART, **SPENT)
    assert not left.exists()
    assert told(events.here(tmp_path)) == ["run_started", RESTART]


def test_a_segment_that_is_closed_while_it_is_read_is_read_all_the_same(
    tmp_path: Path, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    for event in ("attempt_started", RESTART):
        folder = tmp_path / event
        story = begun(folder, clock)
        story.add("run_started")
        (left,) = folder.glob("*.open")
        whole = Path.read_bytes

        def late(
            path: Path, *, story: Events = story, event: str = event, whole: Any = whole
        ) -> bytes:
            if path.name.endswith(OPEN) and path.exists():
                story.add(event, **(SPENT if event == RESTART else {}))
                story.close()
            content: bytes = whole(path)
            return content

        with monkeypatch.context() as patch:
            patch.setattr(Path, "read_bytes", late)
            assert told(events.here(folder)) == ["run_started", event]
        assert not left.exists()


def test_secrets_are_masked_in_texts_wherever_they_stand_and_nowhere_else(
    tmp_path: Path, clock: Clock
) -> None:
    story = begun(tmp_path, clock, secret="step")
    story.add("finding", text="at step 3", deep={"step": ["a step", {"x": "steps"}]}, step=3)
    assert events.here(tmp_path)[0] | {"id": "", "time": ""} == {
        "id": "",
        "time": "",
        "event": "finding",
        "text": "at ${env:SECRET} 3",
        "deep": {"step": ["a ${env:SECRET}", {"x": "${env:SECRET}s"}]},
        "step": 3,
    }


def test_what_recovery_counts_on_reads_back_as_it_was_whatever_a_secret_is(
    tmp_path: Path, clock: Clock
) -> None:
    for secret in ("restart", "stage", "2023", "0123", '", "', "event"):
        story = begun(tmp_path / "x", clock, token=secret.encode().hex(), secret=secret)
        story.add(RESTART, **SPENT | {"stage": "stage", "key": "012345", "rule": "hang"})
    found = events.here(tmp_path / "x", ledger=True)
    assert [(r["event"], r["stage"], r["key"]) for r in found] == [(RESTART, "stage", "012345")] * 6


def test_all_records_stand_once_in_the_order_in_which_they_happened(
    tmp_path: Path, clock: Clock
) -> None:
    one, two = begun(tmp_path / "1", clock, token="aa"), begun(tmp_path / "2", clock, token="bb")
    for number in range(12):
        clock.now += 0.001 * (number % 3 == 0)  # several at one moment
        one.add("finding", number=number)
        two.add("finding", number=number)
    first, second = events.here(tmp_path / "1"), events.here(tmp_path / "2")
    story = events.merged(second[3:], first, second, list(reversed(first)))
    assert len(story) == 24
    assert [r["time"] for r in story] == sorted(r["time"] for r in story)
    for token in ("aa", "bb"):
        mine = [r["number"] for r in story if r["id"].startswith(token)]
        assert mine == list(range(12))
    assert events.merged(first, second) == story


def test_storage_gets_each_closed_segment_and_tells_the_same_story(
    tmp_path: Path, clock: Clock
) -> None:
    here, store = tmp_path / "here", FolderStore(tmp_path)
    story = begun(here, clock)
    segments = Segments(closed=story.closed, store=store, run=RUN)
    story.add("run_started")
    assert not segments.take()
    story.add(RESTART, **SPENT)
    story.add("attempt_started")
    assert segments.take()
    assert told(events.stored(store, RUN, ledger=True)) == [RESTART]
    assert told(events.stored(store, RUN)) == ["run_started", RESTART]
    story.close()
    assert segments.take()
    assert not segments.take()
    assert events.stored(store, RUN) == events.here(here)
    assert told(events.stored(store, RUN, newest=1)) == ["attempt_started"]
    # A name that storage shows before its content.
    assert told(events.stored(_Behind(tmp_path), RUN)) == ["attempt_started"]


class _Behind(FolderStore):
    """A drive that lists what it cannot give yet."""

    def read(self, name: str) -> Iterator[bytes]:
        if name.endswith(LEDGER):
            raise FileNotFoundError(name)
        yield from super().read(name)


def test_threads_share_it(tmp_path: Path, clock: Clock) -> None:
    story = begun(tmp_path, clock)
    together = threading.Barrier(5)

    def write(name: str) -> None:
        together.wait()
        for number in range(50):
            counts = number % 10 == 0
            more = SPENT if counts else {}
            story.add(RESTART if counts else "finding", name=name, number=number, **more)

    def close() -> None:
        together.wait()
        for _ in range(50):
            story.close()
            story.closed()

    threads = [threading.Thread(target=write, args=(name,)) for name in "abcd"]
    threads.append(threading.Thread(target=close))
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    story.close()
    found = events.here(tmp_path)
    assert len({r["id"] for r in found}) == len(found) == 200
    for name in "abcd":
        assert [r["number"] for r in found if r["name"] == name] == list(range(50))
    assert len(events.here(tmp_path, ledger=True)) == 20


@pytest.mark.parametrize(
    "change",
    [
        {"account": None},
        {"account": {**ACCOUNT, "total": "many"}},
        {"account": {**ACCOUNT, "by_rule": []}},
        {"account": {**ACCOUNT, "by_rule": {"exit": None}}},
        {"account": {"total": 1}},
        {"stage": 3},
        {"time": 4},
        {"id": None},
    ],
)
def test_a_record_that_lacks_what_recovery_counts_on_is_none(
    tmp_path: Path, change: dict[str, Any]
) -> None:
    path = tmp_path / f"events-x{LEDGER}"
    record = {"id": "a-1", "time": "t", "event": RESTART, **SPENT}
    path.write_text(json.dumps(record) + "\n" + json.dumps(record | change))
    assert events.here(tmp_path, ledger=True) == [record]
    path.write_text(json.dumps({"id": "a-1", "time": "t", "event": ADAPTED, "stage": "sft"}))
    assert events.here(tmp_path, ledger=True) == []
