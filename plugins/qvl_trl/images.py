"""The pictures of a row: checked, measured and decoded, with Pillow and nothing else.

`problem` finds damage that the file's headers and checksums show; damage in the compressed pixels
themselves may show only when `decode` reads them.
"""

from __future__ import annotations

import math
import stat
from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING

from qvl_run.contract import DataError

if TYPE_CHECKING:
    from PIL.Image import Image as Picture

Encoded = Path | bytes
TOKEN = 32
"""Pixels of the side of a token: patches of 16, merged 2 x 2."""
REMEMBERED = 100_000
"""Pictures that this process keeps the sizes of, some 300 bytes each."""

_Version = tuple[str, int, int]
_whole: dict[_Version, tuple[int, int]] = {}
"""The size of each file in which `problem` found nothing: stages share files, and on a mounted drive opening one again
costs far more than asking whether it has changed."""


def problem(image: Encoded) -> str | None:
    """What is wrong with `image`, in words; None where nothing is."""
    version = _version(image)
    if isinstance(image, Path) and version is None:
        return f"the image {image} does not exist"
    if version in _whole:
        return None
    try:
        with _open(image) as opened:
            measured = opened.size
            opened.verify()
    except Exception as error:  # Pillow's decoders raise what they like on damaged data
        return _unreadable(image, error)
    if version and len(_whole) < REMEMBERED:
        _whole[version] = measured
    return None


def size(image: Encoded, *, source: str) -> tuple[int, int]:
    """(width, height) in pixels, from the header, which is not read again where `problem` did. Raises DataError."""
    version = _version(image)
    if version in _whole:
        return _whole[version]
    try:
        with _open(image) as opened:
            width, height = opened.size
    except Exception as error:
        raise DataError(_unreadable(image, error), source=source) from error
    return width, height


def tokens(width: int, height: int, *, bounds: tuple[int, int]) -> int:
    """How many tokens the model sees of a picture of that size, in pixels, within `bounds` (least, most): one for each
    32 x 32 pixels of the picture as Qwen3-VL's processor scales it (`smart_resize` of transformers' qwen2_vl)."""
    least, most = bounds
    down, across = round(height / TOKEN), round(width / TOKEN)
    scale = math.sqrt(width * height) / TOKEN
    if down * across > most:
        beta = scale / math.sqrt(most)
        down, across = (max(1, math.floor(n / beta / TOKEN)) for n in (height, width))
    elif down * across < least:
        beta = math.sqrt(least) / scale
        down, across = (math.ceil(n * beta / TOKEN) for n in (height, width))
    return down * across


def decode(image: Encoded, *, source: str) -> Picture:
    """The picture in RGB, turned the way its EXIF data says. Raises DataError."""
    from PIL import ImageOps

    try:
        with _open(image) as opened:
            return ImageOps.exif_transpose(opened).convert("RGB")
    except Exception as error:
        raise DataError(_unreadable(image, error), source=source) from error


def _version(image: Encoded) -> _Version | None:
    """What is another once the file is; None for bytes, and where there is no such file."""
    if isinstance(image, bytes):
        return None
    try:
        found = image.stat()
    except (OSError, ValueError):
        return None
    if not stat.S_ISREG(found.st_mode):
        return None
    return str(image), found.st_size, found.st_mtime_ns


def _open(image: Encoded) -> Picture:
    from PIL import Image

    return Image.open(BytesIO(image) if isinstance(image, bytes) else image)


def _unreadable(image: Encoded, error: Exception) -> str:
    name = "the image" if isinstance(image, bytes) else f"the image {image}"
    return f"{name} cannot be read: {error or type(error).__name__}"
