"""Questions about where things are, each with one right answer and a wrong one.

Four kinds: `relation` (which side of another item, asked of pairs in one row or column, so that
exactly one of left, right, above, below holds), `corner`, `count` and `nearest` (asked only where
the nearest item is nearest by a clear margin). A question that a scene cannot answer unambiguously
is never asked of it.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass

from qvl_trl.scenes.describe import distance, plural
from qvl_trl.scenes.scene import COLOURS, CORNERS, SHAPES, Scene, Split, sample_scene

MAX_COUNT = 3
_SIDES = ("left", "right", "above", "below")
_NEAREST_MARGIN = 1.3


@dataclass(frozen=True, slots=True)
class Question:
    """One question, its answer, and an answer of the same form that is wrong for the scene."""

    kind: str
    text: str
    answer: str
    wrong: str


def sample_question(rng: random.Random, kind: str, split: Split) -> tuple[Scene, Question]:
    """A scene of `split` with a question of `kind` that it can answer. `kind` is one of `KINDS`."""
    ask = _ASK[kind]
    while True:
        scene = sample_scene(rng, split)
        question = ask(rng, scene)
        if question is not None:
            return scene, question


def _relation(rng: random.Random, scene: Scene) -> Question | None:
    pairs = [
        (a, b)
        for a in scene.items
        for b in scene.items
        if a is not b and (a.row == b.row or a.column == b.column)
    ]
    if not pairs:
        return None
    a, b = rng.choice(pairs)
    horizontal = "left" if a.column < b.column else "right"
    vertical = "above" if a.row < b.row else "below"
    answer = horizontal if a.row == b.row else vertical
    wrong = rng.choice([side for side in _SIDES if side != answer])
    return Question("relation", f"Where is the {a.name} relative to the {b.name}?", answer, wrong)


def _corner(rng: random.Random, scene: Scene) -> Question | None:
    items = [item for item in scene.items if item.place in CORNERS]
    if not items:
        return None
    item = rng.choice(items)
    answer = CORNERS[item.place]
    wrong = rng.choice([corner for corner in CORNERS.values() if corner != answer])
    return Question("corner", f"Which corner is the {item.name} in?", answer, wrong)


def _count(rng: random.Random, scene: Scene) -> Question | None:
    # Drawn before the question, weighted by how seldom a scene can be asked: the answers come out
    # about even, and no answer is a giveaway.
    target = rng.choices(range(MAX_COUNT + 1), weights=(1, 1, 1.2, 8))[0]
    words = [
        word
        for words, attribute in ((COLOURS, "colour"), (SHAPES, "shape"))
        for word in words
        if sum(getattr(item, attribute) == word for item in scene.items) == target
    ]
    if not words:
        return None
    word = rng.choice(words)
    wrong = rng.choice([n for n in range(MAX_COUNT + 1) if n != target])
    return Question("count", f"How many {plural(word)} are there?", str(target), str(wrong))


def _nearest(rng: random.Random, scene: Scene) -> Question | None:
    if len(scene.items) < 3:
        return None
    item = rng.choice(scene.items)
    others = sorted((o for o in scene.items if o is not item), key=lambda o: distance(item, o))
    first, second = others[0], others[1]
    if distance(item, second) < _NEAREST_MARGIN * distance(item, first):
        return None
    wrong = rng.choice([rng.choice(others[1:]).name, _absent(rng, scene)])
    return Question("nearest", f"What is nearest to the {item.name}?", first.name, wrong)


def _absent(rng: random.Random, scene: Scene) -> str:
    """Something the picture does not hold, made of a colour and a shape that it does hold."""
    present = {item.name for item in scene.items}
    colours = sorted({item.colour for item in scene.items})
    shapes = sorted({item.shape for item in scene.items})
    names = [f"{c} {s}" for c in colours for s in shapes if f"{c} {s}" not in present]
    return rng.choice(
        names or [f"{c} {s}" for c in COLOURS for s in SHAPES if f"{c} {s}" not in present]
    )


_ASK: dict[str, Callable[[random.Random, Scene], Question | None]] = {
    "relation": _relation,
    "corner": _corner,
    "count": _count,
    "nearest": _nearest,
}
KINDS = tuple(_ASK)
