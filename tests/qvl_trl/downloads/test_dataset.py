"""A data set of the hub: fetched as a model is, its Arrow files built under watch."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from qvl_run.contract import Example, StageError
from qvl_run.settings import DataSettings
from qvl_trl.downloads import watch as watches
from qvl_trl.formats import hub as hub_format
from tests.hub_server import Hub
from tests.qvl_trl.conftest import FakeContext, stage_settings
from tests.qvl_trl.downloads.conftest import every_piece

ROWS = "data/train-00000-of-00001.parquet"
DATA = DataSettings(format="hub", path="owner/rows")


@pytest.fixture(scope="module")
def rows_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A data set of two splits, the larger in one file of about 400 kB."""
    import random

    import datasets

    folder = tmp_path_factory.mktemp("rows")
    (folder / "data").mkdir()
    for split, count in (("train", 2000), ("test", 2)):
        words = random.Random(0)
        rows: dict[str, list[Any]] = {"question": [str(i) for i in range(count)]}
        rows |= {"answer": [f"{words.getrandbits(1600):x}" for _ in range(count)]}
        rows |= {"image": [b"a picture"] * count}
        datasets.Dataset.from_dict(rows).to_parquet(folder / f"data/{split}-00000-of-00001.parquet")
    return folder


@pytest.fixture
def served(hub: Hub, rows_folder: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    import datasets
    from huggingface_hub import HfFileSystem

    hub.repos = {"datasets/owner/rows": rows_folder}
    monkeypatch.setattr(datasets.config, "HF_ENDPOINT", hub.url)
    HfFileSystem.clear_instance_cache()
    yield hub
    HfFileSystem.clear_instance_cache()


def read(cache: Path, *, earlier: int = 0) -> tuple[list[Example], FakeContext]:
    ctx = FakeContext(stage_settings("sft"), cache, cache, failures={"download": earlier})
    with watches.watched(ctx):
        watches.current().clock = every_piece(ctx).clock
        return list(hub_format.data_format.examples(DATA, kind="sft", cache=cache)), ctx


def test_it_is_fetched_resumed_told_and_not_fetched_twice(served: Hub, tmp_path: Path) -> None:
    served.faults.cut_after = 300_000
    rows, ctx = read(tmp_path / "arrow")
    assert [row.question for row in rows[:2]] == ["0", "1"]
    first, second = served.fetched(ROWS)
    assert first.first is None
    assert (second.first or 0) > 0
    assert ctx.sections == ["download", "load"]
    # The smaller split is fetched too, as the library builds every split.
    totals = [report["total_bytes"] for report in ctx.metrics if "total_bytes" in report]
    folder = served.repos["datasets/owner/rows"]
    assert set(totals) == {sum(path.stat().st_size for path in folder.rglob("*.parquet"))}


def test_an_arrow_file_cut_short_is_built_again_alone(served: Hub, tmp_path: Path) -> None:
    read(tmp_path / "arrow")
    (arrow,) = (tmp_path / "arrow").rglob("*train.arrow")
    other = tmp_path / "arrow" / "other___rows" / "kept.arrow"
    other.parent.mkdir()
    other.write_bytes(b"")
    with arrow.open("rb+") as file:
        file.truncate(arrow.stat().st_size // 2)
    fetched = len(served.fetched(ROWS))
    rows, _ = read(tmp_path / "arrow")
    assert len(rows) == 2000
    assert other.exists()
    assert len(served.fetched(ROWS)) == fetched


@pytest.mark.parametrize(
    ("status", "words", "failure"),
    [
        (403, "accept its terms at https://huggingface.co/datasets/owner/rows", "config"),
        (404, "the hub knows no such name", "config"),
    ],
)
def test_a_refusal_is_explained(
    served: Hub, tmp_path: Path, status: int, words: str, failure: str
) -> None:
    served.faults.refuse = status
    with pytest.raises(StageError, match=words) as caught:
        read(tmp_path / "arrow")
    assert caught.value.failure == failure


def test_no_network_is_explained(
    served: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("datasets.config.HF_HUB_OFFLINE", True)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(StageError, match="cannot be downloaded") as caught:
        read(tmp_path / "arrow")
    assert caught.value.failure == "download"


def test_growth_is_told_and_a_stall_is_not(tmp_path: Path) -> None:
    """Each `wait` is one look: it adds bytes, or none, and the block ends after the last."""
    ctx = FakeContext(stage_settings("sft"), tmp_path, tmp_path)
    looks = iter([100, 0, 0, 50])
    over = threading.Event()

    def wait(_: threading.Event) -> bool:
        added = next(looks, None)
        if added is None:
            over.set()
            return True
        with (tmp_path / "part").open("ab") as file:
            file.write(b"x" * added)
        return False

    with watches.growing(watches.Watch(ctx), [tmp_path], wait=wait):
        assert over.wait(10)
    assert [report["bytes"] for report in ctx.metrics] == [100, 150]


def test_silence_is_not_told() -> None:
    ctx = FakeContext(stage_settings("sft"), Path(), Path())
    watch = every_piece(ctx)
    watch.begin(have=0, total=10)
    watch.arrived(0)
    watch.arrived(-5)
    assert len(ctx.metrics) == 1
    watch.arrived(6)
    assert ctx.metrics[-1] == {"bytes": 1, "total_bytes": 10}


def test_watches_nest_and_end() -> None:
    ctx = FakeContext(stage_settings("sft"), Path(), Path(), failures={"download": 2})
    with watches.watched(ctx) as outer:
        assert outer.tries == 2
        with watches.watched(None):
            assert watches.current().tries == 0
        assert watches.current() is outer
    assert watches.current().ctx is None
