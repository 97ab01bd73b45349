from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from qvl_run.contract import DataError, Kind
from qvl_run.settings import DataSettings
from qvl_trl.formats.jsonl import data_format

Write = Callable[..., DataSettings]
ROW = {"image": "1.png", "question": "Where?", "answer": "left"}


@pytest.fixture
def write(tmp_path: Path) -> Write:
    """Writes rows (maps, or text as it stands) beside a picture, `1.png`."""
    Image.new("RGB", (8, 8), "red").save(tmp_path / "1.png")

    def rows(*rows: Mapping[str, Any] | str, **settings: Any) -> DataSettings:
        path = tmp_path / "rows.jsonl"
        lines = (row if isinstance(row, str) else json.dumps(row) for row in rows)
        path.write_text("".join(line + "\n" for line in lines))
        return DataSettings(format="jsonl", path=str(path), **settings)

    return rows


def errors(data: DataSettings, kind: Kind = "sft") -> list[str]:
    name = str(data.path)
    return [str(error).replace(name, "rows.jsonl") for error in data_format.check(data, kind=kind)]


def test_reads_rows_in_order(write: Write, tmp_path: Path) -> None:
    data = write(ROW, "", {**ROW, "answer": 3, "kind": "count", "image": ["1.png", "1.png"]})
    first, second = data_format.examples(data, kind="sft", cache=tmp_path)
    assert first.images == (tmp_path / "1.png",)
    assert (first.question, first.answer, first.columns) == ("Where?", "left", {})
    assert len(second.images) == 2
    assert (second.answer, second.columns) == ("3", {"kind": "count"})
    assert second.source == f"{data.path}:3"
    assert errors(data) == []


def test_columns_can_be_renamed(write: Write, tmp_path: Path) -> None:
    row = {"picture": "1.png", "q": "Where?", "a": "left", "b": "right"}
    data = write(row, options={"image": "picture", "question": "q", "chosen": "a", "rejected": "b"})
    (example,) = data_format.examples(data, kind="preference", cache=tmp_path)
    assert (example.question, example.chosen, example.rejected) == ("Where?", "left", "right")
    assert errors(data, "preference") == []


def test_one_file_serves_every_kind(write: Write, tmp_path: Path) -> None:
    """A row keeps the texts of its kind; the others are columns."""
    data = write({**ROW, "chosen": "left", "rejected": "right"})
    (sft,) = data_format.examples(data, kind="sft", cache=tmp_path)
    assert (sft.answer, sft.chosen, sft.columns) == (
        "left",
        None,
        {"chosen": "left", "rejected": "right"},
    )
    (pair,) = data_format.examples(data, kind="preference", cache=tmp_path)
    assert (pair.answer, pair.chosen, pair.columns) == (None, "left", {"answer": "left"})


def test_max_samples_bounds_what_is_read_and_checked(write: Write, tmp_path: Path) -> None:
    data = write(ROW, "broken", max_samples=1)
    assert len(data_format.examples(data, kind="sft", cache=tmp_path)) == 1
    assert errors(data) == []


@pytest.mark.parametrize(
    ("row", "kind", "message"),
    [
        ("{", "sft", "the line is not valid JSON: "),
        ("\udcff".encode("utf-8", "surrogatepass").decode("latin-1"), "sft", "not valid JSON"),
        ("[1]", "sft", "the line must be a JSON object"),
        ({"image": "1.png"}, "sft", 'the row lacks "question", "answer"'),
        ({**ROW, "answer": " "}, "sft", '"answer" is empty'),
        ({**ROW, "answer": ["left"]}, "sft", '"answer" must be text, not list'),
        ({"question": "Where?", "answer": "left"}, "sft", "the row has no image"),
        ({**ROW, "image": "2.png"}, "sft", "2.png does not exist"),
        ({**ROW, "image": "rows.jsonl"}, "sft", "rows.jsonl cannot be read: "),
        ({**ROW, "image": "https://x.org/1.png"}, "sft", "images must be local files"),
        ({**ROW, "image": 7}, "sft", "an image must be a file or its bytes, not 7"),
        (
            {"image": "1.png", "question": "?", "chosen": "a", "rejected": "a "},
            "preference",
            "chosen and rejected are the same",
        ),
        ({"image": "1.png", "question": "?", "chosen": "a"}, "preference", 'lacks "rejected"'),
        ({"image": "1.png"}, "prompt", 'the row lacks "question"'),
    ],
)
def test_finds_what_is_wrong_and_where(
    write: Write, row: Mapping[str, Any] | str, kind: Kind, message: str
) -> None:
    good = {**ROW, "chosen": "left", "rejected": "right"}
    (found,) = errors(write(good, row), kind)
    assert found.startswith("rows.jsonl:2: ")
    assert message in found


def test_finds_a_damaged_picture(write: Write, tmp_path: Path) -> None:
    whole = (tmp_path / "1.png").read_bytes()
    (tmp_path / "2.png").write_bytes(whole[:30])
    (found,) = errors(write(ROW, {**ROW, "image": "2.png"}))
    assert found.startswith("rows.jsonl:2: the image ")


def test_finds_a_missing_and_an_empty_file(write: Write, tmp_path: Path) -> None:
    missing = DataSettings(format="jsonl", path=str(tmp_path / "no.jsonl"))
    (found,) = data_format.check(missing, kind="sft")
    assert str(found) == f"{missing.path}: the file cannot be read: No such file or directory"
    assert errors(write()) == ["rows.jsonl: the file has no rows"]


def test_a_row_of_other_columns_says_what_it_has_and_what_to_set(write: Write) -> None:
    row = {"img": "1.png", "prompt": "Where?", "response": "left"}
    (found,) = data_format.check(write(row), kind="sft")
    assert str(found).endswith('the row lacks "question", "answer"; it has img, prompt, response')
    assert found.hint == "set with: {question: prompt, answer: response, image: img}"
    options = {"question": "prompt", "answer": "response", "image": "img"}
    assert errors(write(row, options=options)) == []
    (found,) = data_format.check(write({**ROW, "image": None, "Photo": "1.png"}), kind="sft")
    assert "the row has no image; it has image, question, answer, Photo" in str(found)
    assert found.hint == "set with: {image: Photo}"
    (found,) = data_format.check(write({"image": "1.png", "question": "?"}), kind="sft")
    assert found.hint == ""


def test_one_column_is_not_proposed_for_two_parts(write: Write) -> None:
    def hint(**row: Any) -> str:
        (found,) = data_format.check(write({"image": "1.png", **row}), kind="sft")
        return found.hint

    assert hint(text="Where? left") == ""
    assert hint(text="left", prompt="Where?") == "set with: {question: prompt, answer: text}"
    assert hint(text="Where?", label="left") == "set with: {question: text, answer: label}"


def test_what_would_leave_the_row_lacking_is_not_proposed(write: Write) -> None:
    (found,) = data_format.check(write({"image": "1.png", "prompt": "Where?"}), kind="sft")
    assert found.hint == ""
    (found,) = data_format.check(write({**ROW, "answer": None, "label": None}), kind="sft")
    assert found.hint == ""


def test_of_a_row_with_many_columns_some_are_named(write: Write) -> None:
    (found,) = data_format.check(write({f"c{i}": i for i in range(9)}), kind="sft")
    assert str(found).endswith("c6, c7, ...")


def test_rows_are_counted(write: Write, tmp_path: Path) -> None:
    assert data_format.count(write(ROW, "", "broken", " ")) == 2
    assert data_format.count(write(ROW, ROW, ROW)) == 3
    assert data_format.count(write(ROW, ROW, ROW, max_samples=2)) == 2
    assert data_format.count(write(ROW, max_samples=2)) == 1
    assert data_format.count(DataSettings(format="jsonl", path=str(tmp_path / "no"))) is None


def test_no_more_rows_are_read_than_are_counted(
    write: Write, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = write(ROW, "", *[ROW] * 3, max_samples=2)
    read: list[bytes] = []
    really = Path.open

    @contextmanager
    def spied(path: Path, mode: str) -> Iterator[Iterator[bytes]]:
        with really(path, mode) as file:
            yield (read.append(line) or line for line in file)

    monkeypatch.setattr(Path, "open", spied)
    assert data_format.count(data) == 2
    assert len(read) == 3
    assert data_format.count(dataclasses.replace(data, max_samples=3)) == 3
    assert data_format.count(dataclasses.replace(data, max_samples=None)) == 4


def test_reading_a_bad_row_raises(write: Write, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"rows\.jsonl:2: the row has no image"):
        data_format.examples(
            write(ROW, {"question": "?", "answer": "a"}), kind="sft", cache=tmp_path
        )


def test_the_fingerprint_follows_rows_and_pictures(write: Write, tmp_path: Path) -> None:
    def fingerprint(*rows: Mapping[str, Any], **settings: Any) -> str:
        return data_format.fingerprint(write(*rows, **settings), kind="sft")

    before = fingerprint(ROW)
    assert fingerprint(ROW) == before
    assert fingerprint({**ROW, "answer": "right"}) != before
    assert fingerprint(ROW, ROW) != before
    assert fingerprint(ROW, ROW, max_samples=1) == before
    Image.new("RGB", (8, 8), "blue").save(tmp_path / "1.png")
    assert fingerprint(ROW) != before
