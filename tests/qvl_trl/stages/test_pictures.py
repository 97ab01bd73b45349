"""What is refused beforehand is what the run would refuse, and nothing else."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from qvl_run import plugins
from qvl_run.contract import DataError, Example
from qvl_run.settings import ModelSettings
from qvl_trl import images
from qvl_trl.models.qvl_tiny import model as tiny
from qvl_trl.policy.processor import load_processor
from qvl_trl.stages.pictures import AROUND, TEMPLATE
from qvl_trl.training.lengths import prompt_tokens
from tests.qvl_trl.conftest import replace, stage_settings

Row = Callable[..., Example]
SIZES = [(32, 32), (17, 900), (640, 480), (1024, 1024), (1025, 1023), (4032, 3024), (48, 48), (80, 16)]  # fmt: skip


@pytest.fixture
def row(tmp_path: Path) -> Row:
    """A row with a question and pictures of these sizes."""

    def make(*sizes: tuple[int, int], question: str = "a") -> Example:
        paths = []
        for width, height in sizes:
            paths.append(tmp_path / f"{width}x{height}.png")
            Image.new("1", (width, height)).save(paths[-1])
        return Example(images=tuple(paths), question=question, answer="b", source="rows.jsonl:1")

    return make


def found(
    example: Example, *, uses: str = "sft", limit: int | None, tokens: Any, **options: Any
) -> list[DataError]:
    model = ModelSettings(name="Qwen/Qwen3-VL-2B-Instruct", image_tokens=tokens)
    settings = replace(stage_settings(uses, model=model, options=options), max_seq_length=limit)
    return list(plugins.stage(uses).check_row(settings, example))


@pytest.mark.parametrize("bounds", [(1, 1024), (64, 512), (4, 9), (256, 256)])
def test_tokens_are_those_of_the_processor(bounds: tuple[int, int]) -> None:
    processor = load_processor(str(tiny.folder()), revision=None, image_tokens=bounds)
    for width, height in SIZES:
        patches = processor.image_processor.get_number_of_image_patches(height, width, {})
        assert images.tokens(width, height, bounds=bounds) == patches // 4


@pytest.mark.parametrize("count", [1, 2, 3])
def test_the_text_is_counted_as_the_shortest_there_is(row: Row, count: int) -> None:
    """The tiny model's tokenizer takes two tokens more for "assistant" than the published ones."""
    processor = load_processor(str(tiny.folder()), revision=None, image_tokens=(1, 64))
    example = row(*[(64, 64)] * count)
    least = TEMPLATE + AROUND * count + 1 + 4 * count
    assert prompt_tokens(example, processor) == least + 2


@pytest.mark.parametrize("uses", ["sft", "dpo"])
def test_two_pictures_that_fill_the_sequence(row: Row, uses: str) -> None:
    large = row((1024, 1024), (1024, 1024))
    (error,) = found(large, uses=uses, limit=2048, tokens=(64, 1024))
    assert str(error) == (
        "rows.jsonl:1: its 2 pictures leave no room for its text in a max_seq_length of 2048"
    )
    assert error.hint == (
        "set image_tokens: [64, 944], or a max_seq_length of 2240 for the 2048 tokens of this row's pictures"
    )
    assert found(large, uses=uses, limit=2048, tokens=(64, 944)) == []
    assert found(large, uses=uses, limit=2240, tokens=(64, 1024)) == []
    assert found(row((1024, 1024)), uses=uses, limit=2048, tokens=(64, 1024)) == []


def test_pictures_are_counted_by_their_size(row: Row) -> None:
    assert found(row((96, 96), (96, 96)), limit=2048, tokens=(64, 1024)) == []
    assert found(row(*[(96, 96)] * 40), limit=2048, tokens=(64, 1024)) != []


def test_without_a_bound_of_its_own_a_picture_is_as_large_as_the_model_takes_it(row: Row) -> None:
    (error,) = found(row((4032, 3024)), limit=2048, tokens=None)
    assert "its picture leaves no room for its text in a max" in str(error)
    assert found(row((640, 480)), limit=2048, tokens=None) == []
    assert found(row((4032, 3024)), limit=None, tokens=None) == []


def test_advice_is_of_what_the_pictures_take_not_of_what_they_might(row: Row) -> None:
    """1600 x 1600 pixels are 50 x 50 tokens, of the 16384 that the model would take."""
    (error,) = found(row((1600, 1600)), limit=2048, tokens=None)
    assert error.hint == (
        "set image_tokens: [64, 1904], or a max_seq_length of 2688 for the 2500 tokens of this row's picture"
    )
    assert found(row((1600, 1600)), limit=2688, tokens=None) == []
    assert found(row((1600, 1600)), limit=2048, tokens=(64, 1904)) == []


def test_rows_whose_pictures_differ_are_wrong_alike(row: Row) -> None:
    (one,) = found(row((1600, 1600)), limit=2048, tokens=None)
    (other,) = found(row((4032, 3024)), limit=2048, tokens=None)
    assert str(one) == str(other)


def test_a_completion_needs_its_room(row: Row) -> None:
    example = row((1024, 1024))
    (error,) = found(example, uses="grpo", limit=1200, tokens=(64, 1024), max_completion_length=200)
    assert "for its text and a completion of 200 tokens" in str(error)
    assert (
        found(example, uses="grpo", limit=1200, tokens=(64, 848), max_completion_length=200) == []
    )


@pytest.mark.parametrize(
    ("uses", "options", "limit", "most"),
    [("grpo", {"max_completion_length": 256}, 512, 245), ("sft", {}, 512, 500), ("dpo", {}, 64, 52)],
)  # fmt: skip
def test_settings_whose_largest_picture_would_be_refused_are_warned_of(
    row: Row, uses: str, options: dict[str, Any], limit: int, most: int
) -> None:
    large = row((32 * 1000, 32))  # scaled down to what is admitted
    for tokens in ((1, most), (1, most + 1)):
        model = ModelSettings(name="Qwen/Qwen3-VL-2B-Instruct", image_tokens=tokens)
        settings = replace(stage_settings(uses, model=model, options=options), max_seq_length=limit)
        warned = list(plugins.stage(uses).check(settings))
        assert [one.severity for one in warned] == ["warning"] * (tokens[1] > most)
        assert not warned or f"a picture of {tokens[1]} tokens leaves no room" in warned[0].message
        if not warned:
            assert found(large, uses=uses, limit=limit, tokens=tokens, **options) == []
