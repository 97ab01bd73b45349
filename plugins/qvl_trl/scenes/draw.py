"""Draws a scene. The same scene and size give the same pixels; nothing here is random."""

from __future__ import annotations

import math
from collections.abc import Callable

from PIL import Image, ImageDraw

from qvl_trl.scenes.scene import GRID, Item, Scene

_BACKGROUND = (244, 244, 240)
_RGB = {
    "red": (214, 40, 40),
    "green": (44, 150, 70),
    "blue": (38, 84, 208),
    "yellow": (244, 208, 32),
    "purple": (134, 52, 168),
    "orange": (246, 136, 28),
}
_OVERSAMPLING = 2

Outline = list[tuple[float, float]]


def draw_scene(scene: Scene, image_size: int) -> Image.Image:
    """The scene as a square RGB picture, `image_size` pixels a side."""
    side = image_size * _OVERSAMPLING
    image = Image.new("RGB", (side, side), _BACKGROUND)
    canvas = ImageDraw.Draw(image)
    for item in scene.items:
        _draw(canvas, item, side / GRID)
    return image.reduce(_OVERSAMPLING)


def _draw(canvas: ImageDraw.ImageDraw, item: Item, cell: float) -> None:
    x, y, radius = item.x * cell, item.y * cell, item.radius * cell
    fill = _RGB[item.colour]
    if item.shape == "circle":
        canvas.ellipse((x - radius, y - radius, x + radius, y + radius), fill=fill)
    else:
        outline = _OUTLINES[item.shape]()
        canvas.polygon([(x + radius * u, y + radius * v) for u, v in outline], fill=fill)


def _square() -> Outline:
    return [(-0.85, -0.85), (0.85, -0.85), (0.85, 0.85), (-0.85, 0.85)]


def _triangle() -> Outline:
    return [(0, -1), (0.95, 0.8), (-0.95, 0.8)]


def _star() -> Outline:
    radii = [1.05 if i % 2 == 0 else 0.45 for i in range(10)]
    return [
        (r * math.sin(i * math.pi / 5), -r * math.cos(i * math.pi / 5)) for i, r in enumerate(radii)
    ]


def _cross() -> Outline:
    a, b = 0.35, 1.0
    return [
        (-a, -b), (a, -b), (a, -a), (b, -a), (b, a), (a, a),
        (a, b), (-a, b), (-a, a), (-b, a), (-b, -a), (-a, -a),
    ]  # fmt: skip


_OUTLINES: dict[str, Callable[[], Outline]] = {
    "square": _square,
    "triangle": _triangle,
    "star": _star,
    "cross": _cross,
}
