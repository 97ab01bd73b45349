"""The rows that measurements are made on are as long as they say, and are rows that stages read."""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

import pytest
from PIL import Image
from transformers import AutoTokenizer

from benchmarks import rows
from qvl_run import plugins
from qvl_run.contract import Kind
from qvl_run.settings import DataSettings

KINDS: tuple[Kind, ...] = ("sft", "preference", "prompt")


@pytest.fixture(scope="module")
def tokenizer() -> Any:
    return AutoTokenizer.from_pretrained(plugins.load("qvl.models", "qvl-tiny").folder())


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory, tokenizer: Any) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("rows")
    lengths = {"question_tokens": (40, 60), "answer_tokens": (30, 50)}
    return rows.write(folder, count=4, tokenizer=tokenizer, **lengths)


def test_texts_have_the_lengths_that_were_asked_for(files: dict[str, Path], tokenizer: Any) -> None:
    for kind, bounds in (("question", (40, 60)), ("chosen", (30, 50)), ("rejected", (30, 50))):
        texts = [json.loads(x)[kind] for x in files["preference"].read_text().splitlines()]
        found = [len(tokenizer(text, add_special_tokens=False)["input_ids"]) for text in texts]
        assert all(bounds[0] <= n <= bounds[1] for n in found), (kind, found)
        assert len(set(found)) > 1
    for tokens in (1, 37, 400):
        text = rows.trim(rows.words(tokens, random.Random(0)), tokens, tokenizer)
        assert rows.length(text, tokenizer) == tokens


def test_a_text_that_is_too_short_is_not_made_longer(tokenizer: Any) -> None:
    with pytest.raises(ValueError, match="fewer than 50 tokens"):
        rows.trim("The red cup.", 50, tokenizer)


def test_pictures_have_their_size_and_look_like_a_cameras(files: dict[str, Path]) -> None:
    for path in (files["sft"].parent / "images").iterdir():
        with Image.open(path) as image:
            assert image.size == (640, 480)
        assert 30_000 < path.stat().st_size < 300_000


@pytest.mark.parametrize("kind", KINDS)
def test_stages_can_read_them(kind: Kind, files: dict[str, Path], tmp_path: Path) -> None:
    data = DataSettings(
        format="jsonl",
        path=str(files[kind]),
        options={name: name for name in ("image", "question", "answer", "chosen", "rejected")},
    )
    assert list(plugins.data_format("jsonl").check(data, kind=kind)) == []
    assert len(plugins.data_format("jsonl").examples(data, kind=kind, cache=tmp_path)) == 4


def test_a_seed_gives_the_same_rows(files: dict[str, Path], tokenizer: Any, tmp_path: Path) -> None:
    lengths = {"question_tokens": (40, 60), "answer_tokens": (30, 50)}
    again = rows.write(tmp_path / "again", count=4, tokenizer=tokenizer, **lengths)
    other = rows.write(tmp_path / "other", count=4, tokenizer=tokenizer, seed=1, **lengths)
    first = files["sft"].parent / "images" / "00000.jpg"
    assert again["sft"].read_text() == files["sft"].read_text() != other["sft"].read_text()
    assert (tmp_path / "again" / "images" / "00000.jpg").read_bytes() == first.read_bytes()
