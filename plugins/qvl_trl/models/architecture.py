"""The sizes of a model, known before anything of it is downloaded: what memory and speed depend on.

Reads at most one small config.json; imports nothing heavy and asks no network.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

from qvl_run import caches, plugins
from qvl_run.settings import StageSettings
from qvl_trl.downloads.cache import RepoCache
from qvl_trl.models.parts import Text, Vision

RANDOM = "random:"
"""Before a model's name: its architecture with random weights, nothing downloaded."""
FAMILY = "qwen3_vl"
"""What the config.json of a dense Qwen3-VL calls itself; mixtures of experts are qwen3_vl_moe."""


@dataclass(frozen=True, kw_only=True)
class Architecture:
    """A dense Qwen3-VL."""

    text: Text
    vision: Vision

    @property
    def parameters(self) -> int:
        """All of them; tied ones once."""
        return self.text.parameters + self.vision.parameters


# The vision towers: that of the small models, and that of the large ones. `out_hidden_size` is the text's.
_SMALL = Vision(
    hidden_size=1024, intermediate_size=4096, depth=24, num_heads=16, out_hidden_size=2048,
    deepstack_visual_indexes=(5, 11, 17),
)  # fmt: skip
_LARGE = Vision(
    hidden_size=1152, intermediate_size=4304, depth=27, num_heads=16, out_hidden_size=4096,
    deepstack_visual_indexes=(8, 16, 24),
)  # fmt: skip

# From the config.json of each, as public code repeats it: 2B and 8B as torchtitan has them
# (experiments/qwen3_vl/__init__.py); 4B and 32B as image generators that take them for text encoders do. The text
# parts are Qwen3's of 1.7B, 4B, 8B and 32B parameters.
_TABLE = {
    "Qwen/Qwen3-VL-2B": Architecture(
        text=Text(
            hidden_size=2048, intermediate_size=6144, num_hidden_layers=28, num_attention_heads=16,
            num_key_value_heads=8, vocab_size=151936, tie_word_embeddings=True,
        ),
        vision=_SMALL,
    ),
    "Qwen/Qwen3-VL-4B": Architecture(
        text=Text(
            hidden_size=2560, intermediate_size=9728, num_hidden_layers=36, num_attention_heads=32,
            num_key_value_heads=8, vocab_size=151936, tie_word_embeddings=True,
        ),
        vision=replace(_SMALL, out_hidden_size=2560),
    ),
    "Qwen/Qwen3-VL-8B": Architecture(
        text=Text(
            hidden_size=4096, intermediate_size=12288, num_hidden_layers=36, num_attention_heads=32,
            num_key_value_heads=8, vocab_size=151936, tie_word_embeddings=False,
        ),
        vision=_LARGE,
    ),
    "Qwen/Qwen3-VL-32B": Architecture(
        text=Text(
            hidden_size=5120, intermediate_size=25600, num_hidden_layers=64, num_attention_heads=64,
            num_key_value_heads=8, vocab_size=151936, tie_word_embeddings=False,
        ),
        vision=replace(_LARGE, out_hidden_size=5120),
    ),
}  # fmt: skip
KNOWN: Mapping[str, Architecture] = {
    f"{name}-{kind}": sizes for name, sizes in _TABLE.items() for kind in ("Instruct", "Thinking")
}
"""By hub id."""


def of_stage(settings: StageSettings) -> Architecture | None:
    """The sizes of the model that a stage is told to load, see `architecture`."""
    drive = None if settings.downloads is None else Path(settings.downloads)
    model = settings.model
    return architecture(model.name, revision=model.revision, hub_cache=caches.hub_cache(drive))


def architecture(
    name: str, *, revision: str | None = None, hub_cache: Path | None = None
) -> Architecture | None:
    """The sizes of the model that a job calls `name`, with or without `random:`. `hub_cache` is the hub's, None for
    that of this process.

    None where they cannot be told yet (a hub id that is neither in `KNOWN` nor in the hub's cache), or where it is no
    dense Qwen3-VL.
    """
    name = name.removeprefix(RANDOM)
    if name in KNOWN:
        return KNOWN[name]
    config = _config(name, revision, hub_cache)
    return None if config is None else from_config(config)


def family(settings: StageSettings) -> str | None:
    """What the config.json of the model that a stage is told to load says that it is, empty where it says nothing; None
    where there is none here that can be read."""
    drive = None if settings.downloads is None else Path(settings.downloads)
    model = settings.model
    config = _config(model.name, model.revision, caches.hub_cache(drive))
    return None if config is None else str(config.get("model_type", ""))


def on_hub(name: str) -> bool:
    """Whether what a job calls `name` comes from the hub."""
    here = name in plugins.installed("qvl.models") or is_folder(name)
    return not name.startswith(RANDOM) and not here


def is_folder(name: str) -> bool:
    """Whether `name` is a folder of this machine; False too for a name that none can have."""
    try:
        return Path(name).is_dir()
    except (OSError, ValueError):
        return False


def is_known(name: str) -> bool:
    """Whether a job may call its model `name`, which begins with `random:`."""
    base = name.removeprefix(RANDOM)
    return base in KNOWN or base in plugins.installed("qvl.models")


def known_names() -> str:
    """What may follow `random:`, for people."""
    bundled = ", ".join(plugins.installed("qvl.models"))
    return f"{', '.join(_TABLE)} (each -Instruct or -Thinking), {bundled}"


def from_config(config: Mapping[str, Any]) -> Architecture | None:
    """The sizes that a config.json states; None where it is no dense Qwen3-VL's."""
    if config.get("model_type") != FAMILY:
        return None
    tied = {"tie_word_embeddings": config.get("tie_word_embeddings", False)}
    try:
        text = Text(**_kept(Text, {**config["text_config"], **tied}))
        vision = _kept(Vision, config["vision_config"])
        indexes = tuple(vision.pop("deepstack_visual_indexes"))
        return Architecture(text=text, vision=Vision(**vision, deepstack_visual_indexes=indexes))
    except (KeyError, TypeError):
        return None


def _kept(part: type[Text] | type[Vision], config: Mapping[str, Any]) -> dict[str, Any]:
    names = {field.name for field in fields(part)}
    return {name: value for name, value in config.items() if name in names}


def _config(name: str, revision: str | None, hub_cache: Path | None) -> Mapping[str, Any] | None:
    """The config.json of a bundled model, of a folder, or of a hub id that is in the hub's cache."""
    if name in plugins.installed("qvl.models"):
        return _read(plugins.load("qvl.models", name).folder())
    if is_folder(name):
        return _read(Path(name))
    cache = RepoCache(root=hub_cache or caches.hub_cache(None), repo=name)
    commit = cache.commit(revision)
    return None if commit is None else _read(cache.snapshot(commit))


def _read(folder: Path) -> Mapping[str, Any] | None:
    try:
        config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return config if isinstance(config, dict) else None
