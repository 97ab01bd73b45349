"""Sizes, durations and the like as people write them in a job file: `14GiB`, `20GB`, `12h`, `90min`."""

from __future__ import annotations

import re

SIZE = r"^[0-9]+(\.[0-9]+)? ?(B|KB|MB|GB|TB|KiB|MiB|GiB|TiB)$"
DURATION = r"^[0-9]+(\.[0-9]+)? ?(s|min|h|d)$"

SOLD = (6, 8, 10, 11, 12, 16, 20, 24, 32, 40, 48, 64, 80, 94, 96, 141, 192)
"""Gigabytes that GPUs are sold with."""
_BYTES = {"B": 1} | {
    prefix + unit: base**power
    for unit, base in (("B", 1000), ("iB", 1024))
    for power, prefix in enumerate("KMGT", start=1)
}
_SECONDS = {"s": 1, "min": 60, "h": 3600, "d": 86400}


def size(text: str) -> int:
    """Bytes. Raises ValueError where `text` is not a size."""
    number, unit = _split(text, SIZE)
    return round(number * float(_BYTES[unit]))


def duration(text: str) -> float:
    """Seconds. Raises ValueError where `text` is not a duration."""
    number, unit = _split(text, DURATION)
    return number * _SECONDS[unit]


def capability(value: str | float) -> tuple[int, int]:
    """A CUDA compute capability from `8.0`, `"8.0"` or `8`. Raises ValueError where `value` is none: the minor number
    has one digit."""
    found = re.fullmatch(r"([1-9][0-9]?)(?:\.([0-9]))?", str(value))
    if found is None:
        raise ValueError(f"not a compute capability: {value!r}")
    return int(found[1]), int(found[2] or 0)


def show_size(count: float, *, digits: int = 1) -> str:
    """`count` bytes in the largest unit that keeps it at 1 or more: `14.0 GiB`."""
    for power, unit in ((4, "TiB"), (3, "GiB"), (2, "MiB"), (1, "KiB")):
        if count >= 1024**power:
            return f"{count / 1024**power:.{digits}f} {unit}"
    return f"{count:.0f} B"


def sold_as(vram: int, *, asked: int) -> str:
    """Why a card with `vram` bytes has less than the `asked` ones, where that is only the name it is sold by: `a card
    sold as 16 GB shows 14.7 GiB: write min_vram: 14GiB`. Empty where more is asked for."""
    gib = 1024**3
    name = next((size for size in SOLD if size * gib >= vram), 0)
    if not vram < asked <= name * gib:
        return ""
    return f"a card sold as {name} GB shows {show_size(vram)}: write min_vram: {vram // gib}GiB"


def show_unlike(one: int, other: int) -> tuple[str, str]:
    """Both as `show_size` does, with as many digits as tell them apart where they differ: `13.64 GiB`, `13.58 GiB`."""
    for digits in (1, 2, 3):
        both = show_size(one, digits=digits), show_size(other, digits=digits)
        if both[0] != both[1]:
            return both
    return show_size(one), show_size(other)


def show_share(part: int, whole: int) -> str:
    """`part` of `whole` bytes in one unit: `1.2 of 3.4 GB`, `3 of 1600 bytes`."""
    for power, unit in ((3, "GB"), (2, "MB")):
        if whole >= 1000**power:
            one, other = (f"{count / 1000**power:.1f}" for count in (part, whole))
            if one != other:
                return f"{one} of {other} {unit}"
    return f"{part} of {whole} bytes"


def show_duration(seconds: float) -> str:
    """`seconds` for people: `42 s`, `3 min 5 s`, `2 h 10 min`."""
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60} s"
    return f"{whole // 3600} h {whole % 3600 // 60} min"


def show_about(seconds: float) -> str:
    """`seconds` that are an estimate, no finer than they are meant: `42 s`, `3 min 5 s`, `51 min`, `3 h 50 min`."""
    if seconds < 595:
        return show_duration(seconds)
    minutes = round(seconds / 60) if seconds < 3570 else round(seconds / 600) * 10
    return f"{minutes} min" if minutes < 60 else f"{minutes // 60} h {minutes % 60} min"


def show_step(seconds: float) -> str:
    """The seconds of one step, where fractions count: `0.68 s`, `12.4 s`, `1 min 41 s`."""
    if seconds >= 60:
        return show_duration(seconds)
    return f"{seconds:.1f} s" if seconds >= 10 else f"{seconds:.2g} s"


def _split(text: str, pattern: str) -> tuple[float, str]:
    if not re.match(pattern, text):
        raise ValueError(f"not in the form of {pattern}: {text!r}")
    found = re.match(r"([0-9.]+) ?([A-Za-z]+)", text)
    assert found is not None
    return float(found[1]), found[2]
