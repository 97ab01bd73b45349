"""Scenes: a few coloured shapes on a three by three grid of places.

A scene's content is its set of (colour, shape, place). Splits are cut by a hash of the content, so
no two splits can share a scene, whatever the seeds and sizes. Jitter and size of the drawn shapes
are not content: two pictures of one content always lie in the same split.
"""

from __future__ import annotations

import hashlib
import random
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal, get_args

Split = Literal["pretrain", "train", "test"]
SPLITS: tuple[Split, ...] = get_args(Split)

COLOURS = ("red", "green", "blue", "yellow", "purple", "orange")
SHAPES = ("circle", "square", "triangle", "star", "cross")
GRID = 3
CORNERS = {(0, 0): "top left", (0, 2): "top right", (2, 0): "bottom left", (2, 2): "bottom right"}

_BUCKETS: tuple[Split, ...] = ("pretrain", "pretrain", "train", "test")


@dataclass(frozen=True, slots=True)
class Item:
    """One coloured shape. `x`, `y` and `radius` are in units of one grid cell, y downwards."""

    colour: str
    shape: str
    row: int
    column: int
    x: float
    y: float
    radius: float

    @property
    def name(self) -> str:
        """Colour and shape, such as `red circle`: unique in a scene."""
        return f"{self.colour} {self.shape}"

    @property
    def place(self) -> tuple[int, int]:
        """Row and column on the grid."""
        return self.row, self.column


@dataclass(frozen=True, slots=True)
class Scene:
    """Items in reading order; no two share a place, no two share both colour and shape."""

    items: tuple[Item, ...]

    @property
    def content(self) -> frozenset[tuple[str, int, int]]:
        """(name, row, column) of every item: what decides the split."""
        return frozenset((item.name, item.row, item.column) for item in self.items)


def sample_scene(rng: random.Random, split: Split) -> Scene:
    """Draw contents of two to four items until one belongs to `split`; then jitter them."""
    while True:
        # Few colours and shapes a scene: neither alone tells its items apart, and counts vary.
        colours = rng.sample(COLOURS, 3)
        shapes = rng.sample(SHAPES, 3)
        size = rng.randint(2, 4)
        kinds = rng.sample([f"{colour} {shape}" for colour in colours for shape in shapes], size)
        places = sorted(rng.sample(range(GRID * GRID), size))
        content = tuple(
            (name, *divmod(place, GRID)) for name, place in zip(kinds, places, strict=True)
        )
        if split_of(content) == split:
            return Scene(tuple(_item(rng, *entry) for entry in content))


def split_of(content: Iterable[tuple[str, int, int]]) -> Split:
    """The only split that may hold this content; half of all scenes are for pretraining."""
    text = ";".join(f"{name}@{row},{column}" for name, row, column in sorted(content))
    return _BUCKETS[hashlib.sha256(text.encode()).digest()[0] % len(_BUCKETS)]


def _item(rng: random.Random, name: str, row: int, column: int) -> Item:
    colour, shape = name.split()
    return Item(
        colour,
        shape,
        row,
        column,
        x=column + 0.5 + rng.uniform(-0.12, 0.12),
        y=row + 0.5 + rng.uniform(-0.12, 0.12),
        radius=rng.uniform(0.28, 0.36),
    )
