"""The formats that read with `datasets`, on local Parquet files: no network."""

from __future__ import annotations

import io
import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from qvl_run.contract import DataError, StageError
from qvl_run.settings import DataSettings
from qvl_trl.formats import hub, rlhf_v

Parquet = Callable[..., str]


@pytest.fixture
def parquet(tmp_path: Path) -> Parquet:
    """Writes rows with an image column, as the hub serves it."""
    import datasets

    buffer = io.BytesIO()
    Image.new("RGB", (8, 8), "red").save(buffer, "PNG")

    def write(rows: Sequence[Mapping[str, Any]], *, images: bool = True) -> str:
        columns = {key: [row[key] for row in rows] for key in rows[0]}
        if images:
            columns["image"] = [{"bytes": buffer.getvalue(), "path": None}] * len(rows)
        data = datasets.Dataset.from_dict(columns)
        if images:
            data = data.cast_column("image", datasets.Image())
        path = tmp_path / "rows.parquet"
        data.to_parquet(path)
        return str(path)

    return write


def test_maps_columns(parquet: Parquet, tmp_path: Path) -> None:
    path = parquet(
        [{"q": "Where?", "a": "left", "level": 1}, {"q": "What?", "a": "red", "level": 2}]
    )
    data = DataSettings(format="hub", path=path, options={"question": "q", "answer": "a"})
    rows = hub.data_format.examples(data, kind="sft", cache=tmp_path)
    assert [(row.question, row.answer, row.columns["level"]) for row in rows] == [
        ("Where?", "left", 1),
        ("What?", "red", 2),
    ]
    assert isinstance(rows[0].images[0], bytes)
    assert rows[1].source == f"{path}, row 2"
    assert [row.question for row in rows[1:]] == ["What?"]


def test_max_samples(parquet: Parquet, tmp_path: Path) -> None:
    path = parquet([{"question": str(i), "answer": "a"} for i in range(5)])
    data = DataSettings(format="hub", path=path, max_samples=2)
    assert len(hub.data_format.examples(data, kind="sft", cache=tmp_path)) == 2


def test_reads_messages(parquet: Parquet, tmp_path: Path) -> None:
    chat = [
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": "<image>\nWhere?"},
        {"role": "assistant", "content": "left"},
        {"role": "user", "content": "Why?"},
    ]
    path = parquet([{"chat": chat}, {"chat": chat[:2]}])
    data = DataSettings(format="hub", path=path, options={"messages": "chat"})
    rows = hub.data_format.examples(data, kind="sft", cache=tmp_path)
    assert (rows[0].question, rows[0].answer) == ("Where?", "left")
    with pytest.raises(DataError, match=r'row 2: "chat" must begin with a message of the user'):
        rows[1]


def test_an_instruction_follows_every_question(parquet: Parquet, tmp_path: Path) -> None:
    path = parquet([{"question": "Where?", "answer": "A"}])
    data = DataSettings(format="hub", path=path, options={"instruction": "Answer with the letter."})
    (row,) = hub.data_format.examples(data, kind="sft", cache=tmp_path)
    assert row.question == "Where?\nAnswer with the letter."


def test_a_row_without_an_image(parquet: Parquet, tmp_path: Path) -> None:
    path = parquet([{"question": "?", "answer": "a"}], images=False)
    rows = hub.data_format.examples(
        DataSettings(format="hub", path=path), kind="sft", cache=tmp_path
    )
    with pytest.raises(DataError, match="row 1: the row has no image"):
        rows[0]


def test_a_saved_data_set(tmp_path: Path) -> None:
    import datasets

    records = {"question": ["?"], "answer": ["a"], "image": ["1.png"]}
    datasets.Dataset.from_dict(records).save_to_disk(tmp_path / "saved")
    data = DataSettings(format="hub", path=str(tmp_path / "saved"))
    (row,) = hub.data_format.examples(data, kind="sft", cache=tmp_path)
    assert row.images == (tmp_path / "saved" / "1.png",)


def test_an_unknown_split_is_the_jobs_mistake(parquet: Parquet, tmp_path: Path) -> None:
    data = DataSettings(format="hub", path=parquet([{"question": "?"}]), split="tests")
    with pytest.raises(StageError, match="tests") as caught:
        hub.data_format.examples(data, kind="sft", cache=tmp_path)
    assert caught.value.failure == "config"


@pytest.mark.parametrize("own_columns", [False, True])
def test_rlhf_v(parquet: Parquet, tmp_path: Path, own_columns: bool) -> None:
    pair = {"question": "What?", "chosen": "a cat", "rejected": "a dog"}
    path = parquet([pair if own_columns else {"text": json.dumps(pair), "idx": 7}])
    data = DataSettings(format="rlhf_v", path=path)
    (row,) = rlhf_v.data_format.examples(data, kind="preference", cache=tmp_path)
    assert (row.question, row.chosen, row.rejected) == ("What?", "a cat", "a dog")
    assert own_columns or row.columns == {"idx": 7}


def test_rlhf_v_with_broken_text(parquet: Parquet, tmp_path: Path) -> None:
    data = DataSettings(format="rlhf_v", path=parquet([{"text": "{"}]))
    rows = rlhf_v.data_format.examples(data, kind="preference", cache=tmp_path)
    with pytest.raises(DataError, match="row 1: the row has neither a column chosen nor"):
        rows[0]


def test_the_fingerprint_names_revision_and_split() -> None:
    data = DataSettings(format="hub", path="a/b", revision="123", split="test")
    assert hub.data_format.fingerprint(data, kind="sft") == "a/b@123[test]"
    unpinned = DataSettings(format="rlhf_v", path="a/b")
    assert rlhf_v.data_format.fingerprint(unpinned, kind="preference") == "a/b@main[train]"
