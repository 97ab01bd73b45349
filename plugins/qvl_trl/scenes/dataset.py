"""Scenes as data sets on disk: PNG files and one JSONL, the runner's local data format.

`write_split` is deterministic byte for byte for its arguments (and a Pillow version), and row i
does not depend on `size`. The JSONL is written last and at once: where it stands beside settings
that match, the data set is whole.
"""

from __future__ import annotations

import json
import random
from collections.abc import Callable
from pathlib import Path

from qvl_trl.scenes.describe import sample_description
from qvl_trl.scenes.draw import draw_scene
from qvl_trl.scenes.questions import KINDS, Question, sample_question
from qvl_trl.scenes.scene import SPLITS, Scene, Split, sample_scene

GENERATOR_VERSION = 1

Row = dict[str, str]


def write_split(
    folder: Path, *, task: str, split: str, size: int, seed: int, image_size: int
) -> Path:
    """Write `size` rows of `task` and their pictures; return the path of the JSONL file.

    Args:
        folder: receives `<task>-<split>.jsonl`, its pictures under `images/<task>-<split>/`, and the
            settings it was made with. Created where missing.
        task: `sft` (question, answer), `preference` (question, chosen, rejected), `prompts`
            (question, checkable answer) or `describe` (question, description).
        split: `train`, `test` or `pretrain`; no scene occurs in two of them.
        size: number of rows, one picture each.
        seed: every seed gives other scenes, except for splits: those never overlap.
        image_size: side of the square pictures in pixels.

    Raises:
        ValueError: unknown task or split, or a size that is not positive.

    Does nothing where the same data set stands already.
    """
    if task not in _TASKS:
        raise ValueError(f"unknown task {task!r}: expected one of {', '.join(_TASKS)}")
    if split not in SPLITS:
        raise ValueError(f"unknown split {split!r}: expected one of {', '.join(SPLITS)}")
    if size < 1 or image_size < 1:
        raise ValueError(f"size and image_size must be positive, got {size} and {image_size}")

    name = f"{task}-{split}"
    path = folder / f"{name}.jsonl"
    settings_path = folder / f"{name}.settings.json"
    settings = json.dumps(
        {"version": GENERATOR_VERSION, "size": size, "seed": seed, "image_size": image_size}
    )
    if path.exists() and settings_path.exists() and settings_path.read_text() == settings:
        return path

    path.unlink(missing_ok=True)
    images = folder / "images" / name
    images.mkdir(parents=True, exist_ok=True)
    settings_path.write_text(settings)
    lines = []
    for i in range(size):
        rng = random.Random(f"{seed}/{name}/{i}")
        scene, row = _TASKS[task](rng, split, i)
        image = images / f"{i + 1:06d}.png"
        draw_scene(scene, image_size).save(image, compress_level=1)
        lines.append(json.dumps({"image": image.relative_to(folder).as_posix(), **row}) + "\n")
    partial = path.with_suffix(".partial")
    partial.write_text("".join(lines))
    partial.replace(path)
    return path


def _ask(rng: random.Random, split: Split, i: int) -> tuple[Scene, Question]:
    return sample_question(rng, KINDS[i % len(KINDS)], split)


def _sft(rng: random.Random, split: Split, i: int) -> tuple[Scene, Row]:
    scene, asked = _ask(rng, split, i)
    return scene, {"question": asked.text, "answer": asked.answer, "kind": asked.kind}


def _preference(rng: random.Random, split: Split, i: int) -> tuple[Scene, Row]:
    scene, asked = _ask(rng, split, i)
    return scene, {
        "question": asked.text,
        "chosen": asked.answer,
        "rejected": asked.wrong,
        "kind": asked.kind,
    }


def _describe(rng: random.Random, split: Split, _: int) -> tuple[Scene, Row]:
    scene = sample_scene(rng, split)
    prompt, description = sample_description(rng, scene)
    return scene, {"question": prompt, "answer": description, "kind": "description"}


_TASKS: dict[str, Callable[[random.Random, Split, int], tuple[Scene, Row]]] = {
    "sft": _sft,
    "preference": _preference,
    "prompts": _sft,
    "describe": _describe,
}
