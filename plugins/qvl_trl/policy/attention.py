"""Attention where there is no flash kernel: below compute capability 8.0, a T4's, and in float32 on every GPU.

Without a mask, transformers has PyTorch group the query heads (`enable_gqa`). Of PyTorch's kernels only flash and the
plain one can do that (`check_batch_size_and_num_heads_dense` in aten's sdp_utils.cpp), and the plain one writes out the
scores of every pair of tokens, in float32. `EXPANDED` repeats keys and values for their query heads instead, as
transformers does where there is a mask; then the memory-efficient kernel takes it, which runs on a T4.
"""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import torch
from transformers import AttentionInterface, AttentionMaskInterface
from transformers.integrations.sdpa_attention import repeat_kv, sdpa_attention_forward
from transformers.masking_utils import sdpa_mask

EXPANDED = "sdpa_expanded"
FLASH_CAPABILITY = (8, 0)


def implementation(wanted: str, precision: str) -> str:
    """The name under which transformers has the attention that a job calls `wanted`, for the GPU that is there."""
    if wanted != "sdpa" or not torch.cuda.is_available():
        return wanted
    return wanted if precision != "fp32" and _has_flash() else EXPANDED


def expanded(
    module: torch.nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    **kwargs: Any,
) -> tuple[torch.Tensor, None]:
    """transformers' `sdpa`, its heads never grouped by PyTorch. Shapes (batch, heads, tokens, head size)."""
    groups = query.shape[1] // key.shape[1]
    if groups == 1 or attention_mask is not None:
        return sdpa_attention_forward(module, query, key, value, attention_mask, **kwargs)
    ungrouped: Any = SimpleNamespace(is_causal=getattr(module, "is_causal", True))
    key, value = repeat_kv(key, groups), repeat_kv(value, groups)
    return sdpa_attention_forward(ungrouped, query, key, value, attention_mask, **kwargs)


def _has_flash() -> bool:
    return (
        torch.cuda.get_device_capability() >= FLASH_CAPABILITY
        and torch.backends.cuda.flash_sdp_enabled()
    )


AttentionInterface.register(EXPANDED, expanded)
AttentionMaskInterface.register(EXPANDED, sdpa_mask)
