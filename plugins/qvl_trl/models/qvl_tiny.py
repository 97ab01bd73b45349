"""`qvl-tiny`: a Qwen3-VL of under 3 million parameters that ships with the package."""

from __future__ import annotations

from pathlib import Path


class QvlTiny:
    """See `recipes/qvl_tiny` in the repository for how it was made."""

    name = "qvl-tiny"

    def folder(self) -> Path:
        """The folder that `from_pretrained` takes."""
        return Path(__file__).resolve().parents[1] / "assets" / "qvl_tiny"


model = QvlTiny()
