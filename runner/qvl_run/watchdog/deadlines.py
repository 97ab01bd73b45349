"""How long a child may be silent, section by section. Pure.

A floor for each section, and what was seen: `FACTOR` times the longest silence that ended well, in this attempt or an
earlier one. Learning only ever allows more.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

FACTOR = 10.0
"""Times the longest interval seen."""
LONGEST = 7200.0
"""Seconds that learning allows at most: what was learned from a long silence must not double itself for ever."""

DEFAULTS: Mapping[str, float] = {
    # Imports from a cold disk take 1 to 2 minutes; a third party's format reads its data set here, untold.
    "setup": 900.0,
    # Told at every byte that arrives, so silence is a stalled connection (huggingface_hub #4085).
    "download": 180.0,
    # 8 GB of weights at the 20 MB/s of a Drive mount are 400 s.
    "load": 1200.0,
    # Kernels are compiled and tuned, batches before the resumed step are skipped, and it is a whole step besides.
    "first_step": 1200.0,
    # One optimizer step with accumulation is 2 minutes on a T4 at worst.
    "step": 600.0,
    # Told at each batch; one batch of long generated answers takes minutes on a T4.
    "eval": 900.0,
    # GRPO on a T4 samples for minutes, without a word in between.
    "rollout": 1200.0,
    # Some GB, written and hashed on a slow disk; a merged 4B model is 8 GB.
    "save": 900.0,
}
"""Floors in seconds."""

_UNNAMED = max(DEFAULTS.values())

Seen = Mapping[str, float]
"""Longest interval in seconds between two reports, by the section it began in. Plain JSON."""


def deadline(section: str, *, seen: Seen, floors: Mapping[str, float] | None = None) -> float:
    """Seconds of silence that are allowed in `section`. `floors` are the user's, in place of ours."""
    floor = {**DEFAULTS, **(floors or {})}.get(section, _UNNAMED)
    return max(floor, min(FACTOR * seen.get(section, 0.0), LONGEST))


def learn(seen: Seen, section: str, interval: float) -> Seen:
    """`seen`, and that a silence of `interval` seconds in `section` ended with a report."""
    return seen if interval <= seen.get(section, 0.0) else {**seen, section: interval}


def merge(one: Seen, other: Seen) -> Seen:
    """The longer of both, for each section."""
    return {name: max(one.get(name, 0.0), other.get(name, 0.0)) for name in {**one, **other}}


def read(data: Any) -> Seen:
    """What an earlier attempt left as JSON, as far as it is of use."""
    if not isinstance(data, Mapping):
        return {}
    return {
        name: float(value)
        for name, value in data.items()
        if isinstance(name, str)
        and isinstance(value, (int, float))
        and not isinstance(value, bool)
        and math.isfinite(value)
        and value > 0
    }
