"""Counts the bytes of all tensors that are alive, operation by operation, without a GPU."""

from __future__ import annotations

import weakref
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import pytest
import torch
import trl.kernels.chunked_logprob
import trl.trainer.utils
from torch.utils._python_dispatch import TorchDispatchMode, _disable_current_modes
from torch.utils._pytree import tree_leaves


class Alive(TorchDispatchMode):
    """Within it, `now` is what is alive and `peak` the most that was, in bytes. What an operation uses inside is not
    seen."""

    def __init__(self) -> None:
        super().__init__()
        self.now = self.peak = 0
        self._sizes: dict[int, int] = {}

    def count(self, tensors: Iterable[torch.Tensor]) -> None:
        """Count `tensors`, which may have been there before."""
        for tensor in tensors:
            storage = tensor.untyped_storage()
            if storage._cdata not in self._sizes:
                self._sizes[storage._cdata] = storage.nbytes()
                self.now += storage.nbytes()
                weakref.finalize(storage, self._gone, storage._cdata)
        self.peak = max(self.peak, self.now)

    def forget(self) -> None:
        """Let the peak begin again."""
        self.peak = self.now

    def _gone(self, key: int) -> None:
        self.now -= self._sizes.pop(key, 0)

    def __torch_dispatch__(
        self,
        func: Callable[..., Any],
        types: Sequence[type],
        args: Sequence[Any] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        found = func(*args, **(kwargs or {}))
        self.count(leaf for leaf in tree_leaves(found) if isinstance(leaf, torch.Tensor))
        return found


def as_on_a_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    """Have TRL's output layer do as on a GPU: score the answers alone, with kernels that take no memory themselves; and
    norms be made in float32, as autocast has it there alone."""
    norm = torch.nn.functional.layer_norm

    def layer_norm(x: torch.Tensor, shape: Any, weight: Any, bias: Any, eps: float) -> torch.Tensor:
        if torch.is_autocast_enabled("cpu"):
            x, weight, bias = x.float(), weight.float(), bias.float()
        return norm(x, shape, weight, bias, eps)

    monkeypatch.setattr(torch.nn.functional, "layer_norm", layer_norm)
    kernels = trl.kernels.chunked_logprob
    monkeypatch.setattr(trl.trainer.utils, "_use_triton", lambda _: True)
    for name in ("_forward_tile", "_backward_tile", "_addmm_fp32"):
        monkeypatch.setattr(kernels, name, _unseen(getattr(kernels, name)))


def _unseen(function: Callable[..., Any]) -> Callable[..., Any]:
    def hidden(*args: Any, **kwargs: Any) -> Any:
        with _disable_current_modes(), torch.no_grad():
            return function(*args, **kwargs)

    return hidden
