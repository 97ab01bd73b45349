"""Which of the libraries that training uses are installed, by their metadata: none is imported."""

from __future__ import annotations

from collections.abc import Iterable
from importlib import metadata

NAMES = (
    "torch", "torchvision", "transformers", "trl", "peft", "accelerate", "datasets", "bitsandbytes", "huggingface_hub",
    "numpy", "pillow", "vllm",
)  # fmt: skip


def installed(names: Iterable[str] = NAMES) -> dict[str, str]:
    """Versions by name of those that are installed, in the order of `names`."""
    found = {}
    for name in names:
        try:
            version = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
        if version:  # metadata that an interrupted installation has cut short has none
            found[name] = version
    return found
