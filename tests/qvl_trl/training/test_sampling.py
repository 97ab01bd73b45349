"""Sampling in parts: the same distribution, the same completions, and what happens where memory runs out."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import pytest
import torch
from transformers import GenerationMixin

from qvl_run.contract import StageError
from qvl_trl.training.sampling import GumbelNoise, _rows
from tests.qvl_trl.conftest import Ran


@pytest.mark.parametrize("temperature", [0.5, 1.0, 2.0])
def test_draws_follow_the_softmax(temperature: float) -> None:
    logits = torch.tensor([1.0, 0.0, -1.0, float("-inf")])
    rows = 40_000
    noise = GumbelNoise(seed=0, temperature=temperature, start=0, rows=rows)
    drawn = noise(torch.empty(0), logits.expand(rows, -1)).argmax(dim=-1)
    shares = torch.bincount(drawn, minlength=4) / rows
    torch.testing.assert_close(shares, (logits / temperature).softmax(-1), rtol=0, atol=0.01)
    assert shares[3] == 0


def test_noise_is_new_for_every_row_and_token_and_the_same_in_every_part() -> None:
    zeros = torch.zeros(4, 100)

    def noise(start: int, stop: int) -> list[torch.Tensor]:
        made = GumbelNoise(seed=7, temperature=1.0, start=start, rows=4)
        return [made(torch.empty(0), zeros[start:stop]) for _ in range(2)]

    first, second = noise(0, 4)
    assert len({tuple(row) for token in (first, second) for row in token.tolist()}) == 8
    for token, part in zip((first, second), noise(1, 3), strict=True):
        assert torch.equal(part, token[1:3])


def test_parts_take_the_pictures_of_their_rows() -> None:
    pictures = [1, 0, 2, 1]
    inputs = {
        "input_ids": torch.arange(4)[:, None],
        "image_grid_thw": torch.tensor([[1, 2, 2], [1, 4, 2], [1, 2, 4], [1, 2, 2]]),
        "pixel_values": torch.tensor([0] * 4 + [1] * 8 + [2] * 8 + [3] * 4),
    }
    found = [_rows(inputs, pictures, start, start + 2) for start in (0, 2)]
    assert [part["input_ids"].flatten().tolist() for part in found] == [[0, 1], [2, 3]]
    assert [part["pixel_values"].unique().tolist() for part in found] == [[0], [1, 2, 3]]
    assert [len(part["image_grid_thw"]) for part in found] == [1, 3]
    assert set(_rows(inputs, pictures, 1, 2)) == {"input_ids"}


@pytest.fixture
def again(grpo: Ran, run: Callable[..., Ran]) -> Callable[[], Ran]:
    """The shared run of GRPO once more, without its measures."""
    settings = dataclasses.replace(grpo.ctx.settings, eval_data=None)
    return lambda: run(settings, input=grpo.ctx.input)


@pytest.fixture
def room(monkeypatch: pytest.MonkeyPatch) -> Callable[[int], list[int]]:
    """A GPU that holds the sampling of so many rows; tells how many were tried."""

    def limit(rows: int) -> list[int]:
        tried: list[int] = []
        generate: Any = GenerationMixin.generate

        def limited(self: Any, *args: Any, **kwargs: Any) -> torch.Tensor:
            tried.append(len(kwargs["input_ids"]))
            if tried[-1] > rows:
                raise torch.OutOfMemoryError("CUDA out of memory.")
            made: torch.Tensor = generate(self, *args, **kwargs)
            return made

        monkeypatch.setattr(GenerationMixin, "generate", limited)
        return tried

    return limit


def test_what_does_not_fit_is_sampled_in_parts(
    again: Callable[[], Ran], room: Callable[[int], list[int]], grpo: Ran
) -> None:
    """Steps of 8 completions in parts of two."""
    tried = room(3)
    parts = again()
    assert tried == [8, 4] + [2, 2, 2, 2] * 5
    for found, expected in zip(parts.ctx.metrics, grpo.ctx.metrics, strict=True):
        names = ("reward", "reward_std", "completions/mean_length", "num_tokens")
        assert [found[name] for name in names] == [expected[name] for name in names]
        assert found["loss"] == pytest.approx(expected["loss"], rel=1e-4, abs=1e-6)


def test_it_begins_with_as_many_as_it_is_told(
    grpo: Ran, run: Callable[..., Ran], room: Callable[[int], list[int]]
) -> None:
    options = {**grpo.ctx.settings.options, "generation_micro_batch_size": 4}
    tried = room(8)
    told = dataclasses.replace(grpo.ctx.settings, eval_data=None, options=options)
    parts = run(told, input=grpo.ctx.input)
    assert tried == [4, 4] * 5
    for found, expected in zip(parts.ctx.metrics, grpo.ctx.metrics, strict=True):
        assert found["reward"] == expected["reward"]


def test_one_completion_that_does_not_fit_is_told(
    again: Callable[[], Ran], room: Callable[[int], list[int]]
) -> None:
    tried = room(0)
    with pytest.raises(StageError, match="does not hold the sampling of one completion") as caught:
        again()
    assert caught.value.failure == "oom"
    assert tried == [8, 4, 2, 1]
