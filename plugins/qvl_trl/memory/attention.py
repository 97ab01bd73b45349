"""What attention writes out for every pair of tokens."""

from __future__ import annotations

from qvl_run.settings import ModelSettings
from qvl_trl.memory.weights import numbers


def scores(model: ModelSettings, *, heads: int, pairs: int) -> int:
    """Bytes of one layer's scores while attention is at work, where it is `eager` (transformers,
    eager_attention_forward): as they are multiplied, in float32, and their softmax. The other kernels keep them to
    themselves."""
    return _eager(model, numbers(model).compute + 8) * heads * pairs


def saved_scores(model: ModelSettings, *, heads: int, pairs: int) -> int:
    """Of these what is kept for the backward pass: the softmax in float32, and as it is multiplied."""
    half = 2 if numbers(model).mixed else 0
    return _eager(model, 4 + half) * heads * pairs


def _eager(model: ModelSettings, size: int) -> int:
    return size if model.attention == "eager" else 0


def expands(model: ModelSettings, *, padded: bool) -> bool:
    """Whether keys and values are repeated for each query head: where rows are padded, and where there is no flash
    kernel (see `qvl_trl.policy.attention`). For float16 it is taken that there is none, as on the GPUs that need it; on
    others that counts somewhat more than there is."""
    return padded or model.precision != "bf16"
