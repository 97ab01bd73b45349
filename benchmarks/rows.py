"""Rows for measuring: pictures of a real size and texts of real lengths, the same for the same seed.

Lengths are counted in the tokens of the tokenizer that the model under test uses, so that sequences are as long as they
say, whatever that tokenizer makes of words.

    rows.write(folder, count=64, image=(640, 480), question_tokens=(40, 120), answer_tokens=(30, 150),
               tokenizer=AutoTokenizer.from_pretrained(...))
"""

from __future__ import annotations

import json
import random
from collections.abc import Sequence
from pathlib import Path
from typing import Protocol

import numpy as np
from PIL import Image, ImageDraw

COLOURS = ("red", "green", "blue", "yellow", "white", "black", "brown", "grey")
THINGS = ("cup", "chair", "table", "lamp", "book", "plate", "box", "ball", "door", "window", "bag")
PLACES = ("left of", "right of", "above", "below", "behind", "in front of", "near", "far from")
FORMS = (
    "The {} {} is {} the {} {}.",
    "Next to the {} {}, a little {} the {} {}, there is some room.",
    "Seen from the camera, the {} {} stands {} the {} {} and can be reached.",
)
SHAPES = 12
QUALITY = 90
NOISE = 10.0
"""Standard deviation of a picture's noise, in grey levels: a camera's, so that JPEG has something to do."""


class Tokenizer(Protocol):
    """What of a tokenizer of transformers is used here."""

    def encode(self, text: str, *, add_special_tokens: bool) -> Sequence[int]: ...


def write(
    folder: Path,
    *,
    count: int,
    tokenizer: Tokenizer,
    image: tuple[int, int] = (640, 480),
    question_tokens: tuple[int, int] = (40, 120),
    answer_tokens: tuple[int, int] = (30, 150),
    seed: int = 0,
) -> dict[str, Path]:
    """Write `count` pictures of `image` (width, height) and the rows about them; returns the JSONL file of each kind
    ("sft", "preference", "prompt"). Lengths are (least, most), both included, drawn evenly."""
    (folder / "images").mkdir(parents=True, exist_ok=True)
    rows: dict[str, list[dict[str, str]]] = {"sft": [], "preference": [], "prompt": []}
    for number in range(count):
        draw = random.Random(f"{seed} {number}")
        name = f"images/{number:05}.jpg"
        picture(image, draw).save(folder / name, quality=QUALITY)

        def text(lengths: tuple[int, int], draw: random.Random = draw) -> str:
            tokens = draw.randint(*lengths)
            return trim(words(tokens, draw), tokens, tokenizer)

        row = {"image": name, "question": text(question_tokens)}
        chosen, rejected = text(answer_tokens), text(answer_tokens)
        rows["sft"].append(row | {"answer": chosen})
        rows["prompt"].append(row | {"answer": chosen})
        rows["preference"].append(row | {"chosen": chosen, "rejected": rejected})
    files = {kind: folder / f"{kind}.jsonl" for kind in rows}
    for kind, file in files.items():
        file.write_text("".join(json.dumps(row) + "\n" for row in rows[kind]), encoding="utf-8")
    return files


def words(count: int, draw: random.Random) -> str:
    """Sentences of `count` words or a few more."""
    found: list[str] = []
    while len(found) < count:
        parts = (draw.choice(c) for c in (COLOURS, THINGS, PLACES, COLOURS, THINGS))
        found += draw.choice(FORMS).format(*parts).split()
    return " ".join(found)


def trim(text: str, tokens: int, tokenizer: Tokenizer) -> str:
    """The beginning of `text`, to a whole word, then short words up to exactly `tokens` tokens.

    Raises ValueError where `text` has fewer, or no word here is one token.
    """
    if length(text, tokenizer) < tokens:
        raise ValueError(f"the text has fewer than {tokens} tokens")
    kept: list[str] = []
    for word in text.split():
        if length(" ".join([*kept, word]), tokenizer) > tokens:
            break
        kept.append(word)
    while (have := length(" ".join(kept), tokenizer)) < tokens:
        for word in (*THINGS, *COLOURS, "a", "."):
            if length(" ".join([*kept, word]), tokenizer) == have + 1:
                kept.append(word)
                break
        else:
            raise ValueError("no word adds one token")
    return " ".join(kept)


def length(text: str, tokenizer: Tokenizer) -> int:
    """Tokens of `text`."""
    return len(tokenizer.encode(text, add_special_tokens=False))


def picture(size: tuple[int, int], draw: random.Random) -> Image.Image:
    """A soft background, shapes on it, and a camera's noise over all."""
    numbers = np.random.default_rng(draw.getrandbits(32))
    soft = numbers.integers(40, 216, (4, 5, 3), dtype=np.uint8)
    image = Image.fromarray(soft).resize(size, Image.Resampling.BICUBIC)
    pen = ImageDraw.Draw(image)
    width, height = size
    for _ in range(SHAPES):
        x, y = draw.randrange(width), draw.randrange(height)
        box = (x, y, x + draw.randrange(8, width // 3 + 9), y + draw.randrange(8, height // 3 + 9))
        shape = draw.choice((pen.rectangle, pen.ellipse))
        shape(box, fill=tuple(draw.randrange(256) for _ in range(3)))
    noisy = np.asarray(image, np.float32) + numbers.normal(0, NOISE, (height, width, 3))
    return Image.fromarray(noisy.clip(0, 255).astype(np.uint8))
