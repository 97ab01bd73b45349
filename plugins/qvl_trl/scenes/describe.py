"""Descriptions of scenes: what `qvl-tiny` is pretrained on.

Terse captions of the whole picture, one item, one place, two items, a group, or what lies near an
item. Colours, shapes, places, sides and numbers all occur in them; the questions of `questions` do
not, so a model of them has yet to learn what it is asked.
"""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Sequence
from typing import Literal

from qvl_trl.scenes.scene import COLOURS, GRID, SHAPES, Item, Scene

PLACES = {
    (0, 0): "at the top left",
    (0, 1): "at the top",
    (0, 2): "at the top right",
    (1, 0): "on the left",
    (1, 1): "in the middle",
    (1, 2): "on the right",
    (2, 0): "at the bottom left",
    (2, 1): "at the bottom",
    (2, 2): "at the bottom right",
}

Description = tuple[str, str]
"""Prompt and answer."""


Form = Literal["scene", "item", "place", "pair", "group", "near"]
FORMS: dict[Form, int] = {"scene": 3, "item": 2, "place": 2, "pair": 2, "group": 2, "near": 1}
"""Each form with its weight in a sample."""


def sample_description(
    rng: random.Random, scene: Scene, forms: Sequence[Form] = tuple(FORMS)
) -> Description:
    """A prompt of one of `forms`, drawn by weight, and what a describer answers."""
    form = rng.choices(forms, [FORMS[form] for form in forms])[0]
    return _DESCRIBE[form](rng, scene)


def describe_scene(scene: Scene) -> Description:
    """Every item with its place, in reading order."""
    return "Describe the picture.", _join(
        [f"{item.name} {PLACES[item.place]}" for item in scene.items]
    )


def _scene(rng: random.Random, scene: Scene) -> Description:  # noqa: ARG001
    return describe_scene(scene)


def _item(rng: random.Random, scene: Scene) -> Description:
    name = rng.choice(scene.items).name
    if rng.random() < 0.2:
        name = f"{rng.choice(COLOURS)} {rng.choice(SHAPES)}"
    found = next((item for item in scene.items if item.name == name), None)
    if found is None:
        return f"Describe the {name}.", f"there is no {name}"
    return f"Describe the {name}.", f"the {name} is {PLACES[found.place]}"


def _place(rng: random.Random, scene: Scene) -> Description:
    place = rng.choice(scene.items).place
    if rng.random() < 0.3:
        place = (rng.randrange(GRID), rng.randrange(GRID))
    found = next((item for item in scene.items if item.place == place), None)
    answer = "nothing" if found is None else found.name
    return f"Describe what is {PLACES[place]}.", answer


def _pair(rng: random.Random, scene: Scene) -> Description:
    a, b = rng.sample(scene.items, 2)
    sides = []
    if a.row != b.row:
        sides.append("above" if a.row < b.row else "below")
    if a.column != b.column:
        sides.append("left of" if a.column < b.column else "right of")
    return (
        f"Describe the {a.name} and the {b.name}.",
        f"the {a.name} is {_join(sides)} the {b.name}",
    )


def _group(rng: random.Random, scene: Scene) -> Description:
    word = rng.choice(COLOURS + SHAPES)
    if rng.random() < 0.7:
        item = rng.choice(scene.items)
        word = rng.choice((item.colour, item.shape))
    group = [item for item in scene.items if word in (item.colour, item.shape)]
    singular = f"{word} shape" if word in COLOURS else word
    number = f"{len(group)} {singular if len(group) == 1 else plural(word)}"
    places = _join([PLACES[item.place] for item in group])
    return f"Describe the {plural(word)}.", f"{number}, {places}" if group else number


def _near(rng: random.Random, scene: Scene) -> Description:
    item = rng.choice(scene.items)
    others = sorted((o for o in scene.items if o is not item), key=lambda o: distance(item, o))
    return f"Describe what is near the {item.name}.", ", then ".join(other.name for other in others)


def plural(word: str) -> str:
    """Of a shape, or of what has a colour: `crosses`, `red shapes`."""
    if word in COLOURS:
        return f"{word} shapes"
    return f"{word}es" if word.endswith("s") else f"{word}s"


def distance(a: Item, b: Item) -> float:
    """Between the centres, in grid cells."""
    return math.hypot(a.x - b.x, a.y - b.y)


def _join(parts: list[str]) -> str:
    return " and ".join([", ".join(parts[:-1]), parts[-1]] if len(parts) > 1 else parts)


_DESCRIBE: dict[Form, Callable[[random.Random, Scene], Description]] = {
    "scene": _scene,
    "item": _item,
    "place": _place,
    "pair": _pair,
    "group": _group,
    "near": _near,
}
