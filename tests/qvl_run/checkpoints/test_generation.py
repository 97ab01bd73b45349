from collections.abc import Iterable
from pathlib import Path

import pytest

from qvl_run.checkpoints import generation
from qvl_run.checkpoints.folder import FolderStore
from qvl_run.disk import Disk

RUN = "runs/job"


@pytest.fixture
def store(tmp_path: Path) -> FolderStore:
    return FolderStore(tmp_path)


def files(store: FolderStore) -> list[str]:
    return list(store.names(RUN))


def begin(store: FolderStore, *given_up: str, stage: str = "sft", key: str = "k") -> None:
    generation.begin(store, RUN, stage, key=key, given_up=given_up)


def number(store: FolderStore, stage: str = "sft", key: str = "k") -> int:
    return generation.read(store, RUN, stage).numbers.get(key, 0)


def test_each_beginning_is_a_file_of_its_own_that_says_all(store: FolderStore) -> None:
    assert number(store) == 0
    begin(store, "checkpoint-10")
    first = (store.root / RUN / "generations-0001.json").read_bytes()
    begin(store, "checkpoint-20")
    begin(store, stage="dpo", key="other")
    assert files(store) == [f"generations-000{n}.json" for n in (1, 2, 3)]
    assert (store.root / RUN / "generations-0001.json").read_bytes() == first
    assert (number(store), number(store, "dpo", "other"), number(store, "dpo")) == (2, 1, 0)
    assert generation.read(store, RUN, "sft").given_up == {"checkpoint-10", "checkpoint-20"}


@pytest.mark.parametrize("share", [0.0, 0.5, 0.99])
def test_one_that_was_cut_short_does_not_count_and_is_not_written_over(
    store: FolderStore, share: float
) -> None:
    begin(store)
    begin(store)
    torn = store.root / RUN / "generations-0002.json"
    torn.write_bytes(torn.read_bytes()[: int(share * torn.stat().st_size)])
    left = torn.read_bytes()
    assert number(store) == 1
    begin(store)
    assert (number(store), torn.read_bytes()) == (2, left)
    assert files(store)[-1] == "generations-0003.json"


def test_the_first_one_cut_short_leaves_what_was_before(store: FolderStore) -> None:
    store.write(f"{RUN}/generations-0001.json", [b""])
    assert number(store) == 0
    begin(store)
    assert number(store) == 1


@pytest.mark.parametrize(
    "content", [b"[]", b"{}", b"null", b'{"stages": {}, "digest": "x"}', b"\xff"]
)
def test_what_is_none_of_ours_does_not_count(store: FolderStore, content: bytes) -> None:
    begin(store)
    store.write(f"{RUN}/generations-0007.json", [content])
    assert number(store) == 1
    begin(store)
    assert (number(store), files(store)[-1]) == (2, "generations-0008.json")


def test_the_one_file_of_earlier_versions_still_counts(store: FolderStore) -> None:
    old = b'{"sft": {"numbers": {"k": 4}, "given_up": ["checkpoint-3"]}}'
    store.write(f"{RUN}/{generation.OLD}", [old])
    assert number(store) == 4
    begin(store, "checkpoint-5")
    assert number(store) == 5
    assert generation.read(store, RUN, "sft").given_up == {"checkpoint-3", "checkpoint-5"}
    assert b"".join(store.read(f"{RUN}/{generation.OLD}")) == old
    store.write(f"{RUN}/{generation.OLD}", [b"now damaged, and overtaken"])
    assert number(store) == 5


def test_where_only_that_one_is_there_and_damaged_nothing_is_decided(store: FolderStore) -> None:
    store.write(f"{RUN}/{generation.OLD}", [b""])
    with pytest.raises(OSError, match=r"generations\.json is damaged"):
        number(store)


def test_nothing_is_begun_that_does_not_read_back(tmp_path: Path) -> None:
    class Lossy(Disk):
        def write(self, path: Path, chunks: Iterable[bytes], *, sync: bool = False) -> None:
            super().write(path, [b"".join(chunks)[:-5]], sync=sync)

    with pytest.raises(OSError, match="reads back other"):
        begin(FolderStore(tmp_path, disk=Lossy()))
    assert number(FolderStore(tmp_path)) == 0


def test_numbers_beyond_four_digits_are_still_in_order(store: FolderStore) -> None:
    begin(store)
    text = (store.root / RUN / "generations-0001.json").read_bytes()
    store.write(f"{RUN}/generations-9999.json", [text])
    for count in (2, 3):
        begin(store)
        assert number(store) == count
    assert (store.root / RUN / "generations-10001.json").exists()
