"""A model of the real sizes whose weights are random: a job's memory, speed and plumbing, with nothing downloaded.

The weights depend on the name alone: they are the same on every machine, with or without a GPU, so that an adapter
trained on them fits wherever its run goes on. Tokenizer and image processor are the bundled model's: its vocabulary is
a small part of the embedding.
"""

from __future__ import annotations

import json
import os
import shutil
import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import save_file
from transformers import AutoConfig, AutoModelForImageTextToText

from qvl_run import plugins
from qvl_run.contract import StageError
from qvl_run.disk import LOCAL
from qvl_run.units import show_size
from qvl_trl.downloads.explain import is_full
from qvl_trl.models.architecture import KNOWN, RANDOM, is_known, known_names
from qvl_trl.models.qvl_tiny import model as tiny

SEED = 0
DTYPE = torch.bfloat16
"""On disk. fp16 holds nearly all such values exactly too."""
SHARD = 2 * 1024**3
"""Bytes of weights in memory at a time, about."""
CHUNK = 2**22
"""Values drawn by one generator."""
MARGIN = 64 * 1024**2
"""Bytes that stay free beside the model."""
_ADVICE = "free some space there, or set storage.scratch to a larger disk"
_WEIGHTS = "model.safetensors"
# As published with the real models; the rest of the configuration is the bundled model's.
_REAL = {
    "max_position_embeddings": 262144,
    "initializer_range": 0.02,
    "rope_parameters": {
        "mrope_interleaved": True, "mrope_section": [24, 20, 20], "rope_theta": 5000000.0, "rope_type": "default",
    },
}  # fmt: skip


def random_folder(
    name: str,
    *,
    cache: Path,
    progress: Callable[[], None] = lambda: None,
    free: Callable[[Path], int] = LOCAL.free,
    shard: int = SHARD,
) -> Path:
    """The folder of the model that a job calls `name` (`random:...`), below `cache`: made once, whole or not at all.

    `progress` is called every few million values and may raise. Raises StageError: "config" for a name that is not
    known, "disk" where it does not fit.
    """
    if not is_known(name):
        raise StageError(
            f"{name}: its sizes are not known; those of these are: {known_names()}",
            failure="config",
        )
    base = name.removeprefix(RANDOM)
    folder = cache / "random" / base.replace("/", "--")
    if folder.is_dir():
        return folder
    making = folder.with_name(f"{folder.name}.making")
    shutil.rmtree(making, ignore_errors=True)  # left by an attempt that was killed
    try:
        making.mkdir(parents=True)
        config = _describe(base, making)
        _write(making, config, progress=progress, room=free(making), shard=shard)
        making.rename(folder)
    except OSError as error:
        if not is_full(error):
            raise
        raise StageError(f"the disk of {cache} is full: {_ADVICE}", failure="disk") from error
    finally:
        shutil.rmtree(making, ignore_errors=True)
    return folder


def _describe(base: str, folder: Path) -> dict[str, Any]:
    """Write all but the weights. Returns the configuration."""
    source = tiny.folder() if base in KNOWN else plugins.load("qvl.models", base).folder()
    for path in source.iterdir():
        if path.suffix != ".safetensors":
            shutil.copyfile(path, folder / path.name)
    config: dict[str, Any] = json.loads((source / "config.json").read_text(encoding="utf-8"))
    if base in KNOWN:
        sizes = KNOWN[base]
        config["tie_word_embeddings"] = sizes.text.tie_word_embeddings
        config["text_config"] |= asdict(sizes.text) | _REAL
        config["vision_config"] |= asdict(sizes.vision)
        (folder / "config.json").write_text(json.dumps(config, indent=2), encoding="utf-8")
    return config


def _write(
    folder: Path,
    config: Mapping[str, Any],
    *,
    progress: Callable[[], None],
    room: int,
    shard: int,
) -> None:
    shapes = _shapes(folder)
    sizes = {name: shape.numel() * DTYPE.itemsize for name, shape in shapes.items()}
    total = sum(sizes.values())
    if room < total + MARGIN:
        raise StageError(
            f"the random weights take {show_size(total)} in {folder.parent}, which has {show_size(room)} left: "
            + _ADVICE,
            failure="disk",
        )
    std = config["text_config"]["initializer_range"]
    where: dict[str, str] = {}
    for number, names in enumerate(_shards(sizes, shard), 1):
        tensors = {name: torch.empty(shapes[name], dtype=DTYPE) for name in names}
        _fill(tensors, std=std, progress=progress)
        file = f"model-{number:05d}.safetensors"
        save_file(tensors, folder / file, metadata={"format": "pt"})
        where |= dict.fromkeys(names, file)
        progress()
    index = {"metadata": {"total_size": total}, "weight_map": where}
    (folder / f"{_WEIGHTS}.index.json").write_text(json.dumps(index, indent=2), encoding="utf-8")


def _shapes(folder: Path) -> dict[str, torch.Size]:
    """Of every tensor that the model's files hold."""
    config = AutoConfig.from_pretrained(folder)
    with torch.device("meta"):
        model = AutoModelForImageTextToText.from_config(config)
    shapes = {name: tensor.shape for name, tensor in model.state_dict().items()}
    if config.tie_word_embeddings:
        del shapes["lm_head.weight"]
    return shapes


def _shards(sizes: Mapping[str, int], most: int) -> Iterator[Sequence[str]]:
    names: list[str] = []
    for name, size in sizes.items():
        if names and sum(sizes[n] for n in names) + size > most:
            yield names
            names = []
        names.append(name)
    yield names


def _fill(tensors: Mapping[str, torch.Tensor], *, std: float, progress: Callable[[], None]) -> None:
    """Norms 1, biases 0, all else normal around 0, as transformers initializes them."""
    drawn = []
    for name, tensor in tensors.items():
        if tensor.ndim == 1:
            tensor.fill_(0 if name.endswith("bias") else 1)
        else:
            parts = tensor.view(-1).split(CHUNK)
            drawn += [(part, (SEED, zlib.crc32(name.encode()), i)) for i, part in enumerate(parts)]

    def draw(work: tuple[torch.Tensor, tuple[int, ...]]) -> None:
        part, seed = work
        values = np.random.default_rng(seed).standard_normal(len(part), dtype=np.float32)
        part.copy_(torch.from_numpy(values).mul_(std))

    with ThreadPoolExecutor(os.cpu_count()) as pool:  # numpy draws without holding the GIL
        for _ in pool.map(draw, drawn):
            progress()
