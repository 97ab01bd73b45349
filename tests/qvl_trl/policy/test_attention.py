"""Attention without grouped heads: the same answers, and what a T4 can run of it."""

from __future__ import annotations

import pytest
import torch
from transformers import AutoModelForImageTextToText

from qvl_trl.models.qvl_tiny import model as tiny
from qvl_trl.policy import attention

IDS = torch.tensor([[5, 9, 40, 7, 30, 12]])


def logits(name: str, **inputs: torch.Tensor) -> torch.Tensor:
    model = AutoModelForImageTextToText.from_pretrained(tiny.folder(), attn_implementation=name)
    with torch.no_grad():
        return model.eval()(input_ids=IDS, use_cache=False, **inputs).logits


@pytest.fixture
def grouped(monkeypatch: pytest.MonkeyPatch) -> list[bool]:
    """Whether each call of PyTorch's attention was asked to group heads, and had as many keys as queries."""
    calls: list[bool] = []
    real = torch.nn.functional.scaled_dot_product_attention

    def noting(query: torch.Tensor, key: torch.Tensor, *args: object, **kwargs: object) -> object:
        calls.append(bool(kwargs.get("enable_gqa")) or query.shape[1] != key.shape[1])
        return real(query, key, *args, **kwargs)

    monkeypatch.setattr(torch.nn.functional, "scaled_dot_product_attention", noting)
    return calls


def test_heads_are_not_grouped_and_the_answers_are_the_same(grouped: list[bool]) -> None:
    stock = logits("sdpa")
    assert any(grouped), "transformers groups no heads any more: this attention is not needed"
    grouped.clear()
    assert torch.allclose(logits(attention.EXPANDED), stock, atol=1e-5)
    assert grouped
    assert not any(grouped)


def test_padded_rows_are_as_ever() -> None:
    mask = torch.tensor([[0, 0, 1, 1, 1, 1]])
    both = [logits(name, attention_mask=mask)[:, 2:] for name in ("sdpa", attention.EXPANDED)]
    assert torch.allclose(both[0], both[1], atol=1e-5)


@pytest.mark.parametrize(
    ("capability", "flash", "precision", "name"),
    [
        ((7, 5), True, "fp16", attention.EXPANDED),
        ((8, 0), True, "bf16", "sdpa"),
        ((9, 0), True, "fp16", "sdpa"),
        ((9, 0), True, "fp32", attention.EXPANDED),
        ((9, 0), False, "bf16", attention.EXPANDED),
    ],
)
def test_it_is_taken_where_there_is_no_flash_kernel(
    capability: tuple[int, int],
    flash: bool,
    precision: str,
    name: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda: capability)
    monkeypatch.setattr(torch.backends.cuda, "flash_sdp_enabled", lambda: flash)
    assert attention.implementation("sdpa", precision) == name
    assert attention.implementation("eager", precision) == "eager"
