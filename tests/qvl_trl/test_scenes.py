"""The generated scenes: deterministic, disjoint between splits, and right about what they say."""

from __future__ import annotations

import hashlib
import json
import random
import time
from collections import Counter
from itertools import pairwise
from pathlib import Path

import pytest
from PIL import Image

from qvl_trl.scenes import write_split
from qvl_trl.scenes.describe import FORMS, describe_scene, sample_description
from qvl_trl.scenes.draw import draw_scene
from qvl_trl.scenes.questions import KINDS, sample_question
from qvl_trl.scenes.scene import (
    COLOURS,
    CORNERS,
    GRID,
    SHAPES,
    SPLITS,
    Item,
    Scene,
    Split,
    sample_scene,
    split_of,
)

SCENE = Scene(
    (
        Item("red", "circle", 0, 0, 0.5, 0.5, 0.3),
        Item("blue", "star", 1, 0, 0.5, 1.5, 0.3),
        Item("red", "cross", 2, 2, 2.5, 2.5, 0.3),
    )
)


def rows_of(path: Path) -> list[dict[str, str]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def digest(folder: Path) -> dict[str, str]:
    return {
        path.relative_to(folder).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


def write(
    folder: Path, task: str = "sft", split: str = "train", size: int = 12, seed: int = 3
) -> Path:
    return write_split(folder, task=task, split=split, size=size, seed=seed, image_size=96)


@pytest.mark.parametrize("task", ["sft", "preference", "prompts", "describe"])
def test_the_same_arguments_give_the_same_bytes(tmp_path: Path, task: str) -> None:
    write(tmp_path / "a", task)
    write(tmp_path / "b", task)
    assert digest(tmp_path / "a") == digest(tmp_path / "b")


def test_another_seed_gives_other_rows(tmp_path: Path) -> None:
    assert rows_of(write(tmp_path / "a", seed=1)) != rows_of(write(tmp_path / "b", seed=2))


def test_a_smaller_size_is_a_prefix_of_a_larger_one(tmp_path: Path) -> None:
    small = rows_of(write(tmp_path / "a", size=5))
    assert rows_of(write(tmp_path / "b", size=9))[:5] == small


def test_splits_are_disjoint_by_content() -> None:
    """Over seeds, kinds and descriptions: a content is of one split, and sampling obeys it."""
    seen: dict[Split, set[frozenset[tuple[str, int, int]]]] = {split: set() for split in SPLITS}
    for split in SPLITS:
        rng = random.Random(split)
        for i in range(600):
            scene, _ = sample_question(rng, KINDS[i % len(KINDS)], split)
            assert split_of(scene.content) == split
            seen[split].add(scene.content)
    for a in SPLITS:
        for b in SPLITS:
            assert a == b or not seen[a] & seen[b]


def test_the_split_ignores_order_and_jitter() -> None:
    content = sorted(SCENE.content)
    assert split_of(content) == split_of(content[::-1])
    moved = Scene(
        tuple(Item(i.colour, i.shape, i.row, i.column, i.x + 0.1, i.y, 0.35) for i in SCENE.items)
    )
    assert split_of(moved.content) == split_of(SCENE.content)


def test_written_splits_hold_scenes_of_their_split_only(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    drawn: list[Scene] = []

    def spy(scene: Scene, image_size: int) -> Image.Image:
        drawn.append(scene)
        return draw_scene(scene, image_size)

    monkeypatch.setattr("qvl_trl.scenes.dataset.draw_scene", spy)
    for task in ("sft", "preference", "prompts", "describe"):
        for split in SPLITS:
            drawn.clear()
            write(tmp_path, task, split)
            assert {split_of(scene.content) for scene in drawn} == {split}


def test_row_formats(tmp_path: Path) -> None:
    fields = {
        "sft": {"image", "question", "answer", "kind"},
        "prompts": {"image", "question", "answer", "kind"},
        "preference": {"image", "question", "chosen", "rejected", "kind"},
        "describe": {"image", "question", "answer", "kind"},
    }
    for task, names in fields.items():
        path = write(tmp_path, task)
        rows = rows_of(path)
        assert len(rows) == 12
        for row in rows:
            assert set(row) == names
            with Image.open(path.parent / row["image"]) as image:
                assert (image.format, image.mode, image.size) == ("PNG", "RGB", (96, 96))


def test_kinds_are_even_and_answers_are_no_giveaway(tmp_path: Path) -> None:
    rows = rows_of(write(tmp_path, size=1200))
    assert set(Counter(row["kind"] for row in rows).values()) == {1200 // len(KINDS)}
    for kind in KINDS:
        answers = Counter(row["answer"] for row in rows if row["kind"] == kind)
        assert answers.most_common(1)[0][1] < 0.35 * answers.total(), (kind, answers)


def test_questions_are_answered_from_the_scene() -> None:
    """Every answer is worked out a second time, from the words of the question."""
    rng = random.Random(0)
    for i in range(2000):
        kind = KINDS[i % len(KINDS)]
        scene, asked = sample_question(rng, kind, "train")
        items = {item.name: item for item in scene.items}
        words = asked.text.removesuffix("?").split()
        names = [f"{a} {b}" for a, b in pairwise(words) if f"{a} {b}" in items]
        assert asked.wrong != asked.answer
        if kind == "relation":
            a, b = (items[name] for name in names)
            offset = (a.row - b.row, a.column - b.column)
            sign = tuple((n > 0) - (n < 0) for n in offset)
            sides = {(0, -1): "left", (0, 1): "right", (-1, 0): "above", (1, 0): "below"}
            assert asked.answer == sides[sign]
        elif kind == "corner":
            assert asked.answer == CORNERS[items[names[0]].place]
            assert asked.wrong in CORNERS.values()
        elif kind == "count":
            word = words[2]
            singular = word if word in COLOURS else next(s for s in SHAPES if word.startswith(s))
            count = sum(singular in (item.colour, item.shape) for item in scene.items)
            assert asked.answer == str(count)
        else:
            item = items[names[0]]
            others = [o for o in scene.items if o is not item]
            nearest = min(others, key=lambda o: (o.x - item.x) ** 2 + (o.y - item.y) ** 2)
            assert asked.answer == nearest.name
            assert asked.wrong != item.name


def test_some_rejected_answers_name_what_is_not_there() -> None:
    rng = random.Random(0)
    absent = 0
    for _ in range(200):
        scene, asked = sample_question(rng, "nearest", "train")
        absent += asked.wrong not in {item.name for item in scene.items}
    assert 60 < absent < 140


def test_items_of_a_scene_are_distinct_and_inside_their_cells() -> None:
    rng = random.Random(0)
    for _ in range(500):
        scene = sample_scene(rng, "train")
        assert 2 <= len(scene.items) <= 4
        assert len({item.name for item in scene.items}) == len(scene.items)
        assert len({item.place for item in scene.items}) == len(scene.items)
        for item in scene.items:
            assert abs(item.x - item.column - 0.5) + item.radius < 0.5
            assert abs(item.y - item.row - 0.5) + item.radius < 0.5


@pytest.mark.parametrize("image_size", [96, 128])
def test_items_are_drawn_where_they_are(image_size: int) -> None:
    image = draw_scene(SCENE, image_size)
    cell = image_size / GRID
    background = image.getpixel((image_size // 2, image_size // 2))
    for item in SCENE.items:
        pixel = image.getpixel((int(item.x * cell), int(item.y * cell)))
        assert isinstance(pixel, tuple)
        assert pixel != background
        assert (max(range(3), key=pixel.__getitem__)) == {"red": 0, "blue": 2}[item.colour]
    assert image.getpixel((image_size - 2, 1)) == background


def test_descriptions() -> None:
    assert describe_scene(SCENE) == (
        "Describe the picture.",
        "red circle at the top left, blue star on the left and red cross at the bottom right",
    )
    texts: dict[str, str] = {}
    rng = random.Random(0)
    for _ in range(4000):
        texts.update([sample_description(rng, SCENE)])
    assert texts["Describe the blue star."] == "the blue star is on the left"
    assert texts["Describe the blue circle."] == "there is no blue circle"
    assert texts["Describe the blue star and the red circle."] == (
        "the blue star is below the red circle"
    )
    assert texts["Describe the red cross and the red circle."] == (
        "the red cross is below and right of the red circle"
    )
    assert texts["Describe the red shapes."] == (
        "2 red shapes, at the top left and at the bottom right"
    )
    assert texts["Describe the stars."] == "1 star, on the left"
    assert texts["Describe the squares."] == "0 squares"
    assert texts["Describe what is at the bottom right."] == "red cross"
    assert texts["Describe what is at the top right."] == "nothing"
    assert texts["Describe what is near the red circle."] == "blue star, then red cross"


def test_no_description_asks_a_question() -> None:
    rng = random.Random(0)
    for form in FORMS:
        for _ in range(100):
            prompt, _ = sample_description(rng, sample_scene(rng, "pretrain"), (form,))
            assert prompt.startswith("Describe ")


def test_a_whole_data_set_is_left_alone(tmp_path: Path) -> None:
    path = write(tmp_path)
    path.write_text("mine")
    assert write(tmp_path).read_text() == "mine"


def test_other_settings_write_it_anew(tmp_path: Path) -> None:
    write(tmp_path, size=3)
    assert len(rows_of(write(tmp_path, size=4))) == 4


def test_an_interrupted_write_is_made_whole(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(scene: Scene, image_size: int) -> Image.Image:
        raise KeyboardInterrupt

    write(tmp_path / "whole")
    write(tmp_path / "cut", size=3)
    with monkeypatch.context() as patch:
        patch.setattr("qvl_trl.scenes.dataset.draw_scene", broken)
        with pytest.raises(KeyboardInterrupt):
            write(tmp_path / "cut")
    assert not list((tmp_path / "cut").glob("*.jsonl"))
    write(tmp_path / "cut")
    assert digest(tmp_path / "cut") == digest(tmp_path / "whole")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"task": "dpo"}, "unknown task 'dpo': expected one of sft, preference, prompts, describe"),
        ({"split": "dev"}, "unknown split 'dev': expected one of pretrain, train, test"),
        ({"size": 0}, "must be positive"),
        ({"image_size": 0}, "must be positive"),
    ],
)
def test_wrong_arguments(tmp_path: Path, change: dict[str, object], message: str) -> None:
    arguments = {"task": "sft", "split": "train", "size": 2, "seed": 0, "image_size": 96, **change}
    with pytest.raises(ValueError, match=message):
        write_split(tmp_path, **arguments)  # type: ignore[arg-type]
    assert not list(tmp_path.iterdir())


def test_it_is_fast(tmp_path: Path) -> None:
    started = time.process_time()
    write(tmp_path, "preference", size=300)
    assert time.process_time() - started < 1.5
