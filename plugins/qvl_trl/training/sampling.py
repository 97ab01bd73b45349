"""Sampling that gives a row the same tokens however many rows are sampled at once, up to rounding.

A categorical draw is the greatest of logits and Gumbel noise (Gumbel 1954). The noise of a row and a token is set by a
seed and its place in the whole batch. So where the GPU's memory does not hold the whole batch, it can be sampled in
parts, and nothing else changes.
"""

from __future__ import annotations

import copy
import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import torch
from transformers import GenerationConfig, LogitsProcessor, LogitsProcessorList

from qvl_run.contract import StageError

TINY = 1e-30
_log = logging.getLogger(__name__)


class GumbelNoise(LogitsProcessor):
    """Makes greedy decoding of rows `start` and on, of `rows` in all, a draw at `temperature`."""

    def __init__(self, *, seed: int, temperature: float, start: int, rows: int) -> None:
        self._seed = seed
        self._temperature = temperature
        self._start = start
        self._rows = rows
        self._generator: torch.Generator | None = None

    def __call__(
        self,
        input_ids: torch.Tensor,  # noqa: ARG002
        scores: torch.Tensor,
    ) -> torch.Tensor:
        """The scores of the next token, to take the greatest of."""
        if self._generator is None:
            self._generator = torch.Generator(scores.device).manual_seed(self._seed)
        count, words = scores.shape
        noise = torch.empty(self._rows, words, device=scores.device)
        noise.exponential_(generator=self._generator).clamp_(min=TINY)
        return scores / self._temperature - noise[self._start : self._start + count].log()


@dataclass
class Sampler:
    """Samples a batch in parts of at most `rows` rows, None for all at once; where the memory does not hold so many, it
    goes on with half."""

    rows: int | None = None
    seeds: Callable[[], int] = field(default=lambda: int(torch.randint(2**63 - 1, ())))
    """Drawn from the random state that checkpoints keep."""

    def wrap(
        self, generate: Callable[..., torch.Tensor], *, pictures: Sequence[int]
    ) -> Callable[..., torch.Tensor]:
        """`generate` of a model, called as TRL does, for rows of so many pictures each."""

        def sampled(*, generation_config: GenerationConfig, **inputs: torch.Tensor) -> torch.Tensor:
            seed = self.seeds()
            while True:
                try:
                    return self._sample(generate, inputs, pictures, generation_config, seed)
                except torch.OutOfMemoryError as error:
                    self._shrink(len(pictures), error)
                # Only here, with the exception gone, is the memory of its frames free.
                torch.cuda.empty_cache()

        return sampled

    def _shrink(self, batch: int, error: torch.OutOfMemoryError) -> None:
        tried = min(self.rows or batch, batch)
        if tried == 1:
            raise StageError(
                "the GPU's memory does not hold the sampling of one completion: lower"
                f" with.max_completion_length or model.image_tokens ({error})",
                failure="oom",
            ) from error
        self.rows = -(-tried // 2)
        _log.warning(
            "The GPU's memory does not hold the sampling of %d completions at once: going on with %d.",
            tried,
            self.rows,
        )

    def _sample(
        self,
        generate: Callable[..., torch.Tensor],
        inputs: Mapping[str, torch.Tensor],
        pictures: Sequence[int],
        config: GenerationConfig,
        seed: int,
    ) -> torch.Tensor:
        greedy = copy.deepcopy(config)
        greedy.do_sample, greedy.temperature = False, 1.0
        batch = len(pictures)
        size = self.rows or batch
        parts = []
        for start in range(0, batch, size):
            noise = GumbelNoise(seed=seed, temperature=config.temperature, start=start, rows=batch)
            part = generate(
                **_rows(inputs, pictures, start, min(start + size, batch)),
                generation_config=greedy,
                logits_processor=LogitsProcessorList([noise]),
            )
            parts.append(part)
        length = max(part.size(1) for part in parts)
        return torch.cat(
            [
                torch.nn.functional.pad(part, (0, length - part.size(1)), value=config.pad_token_id)
                for part in parts
            ]
        )


def _rows(
    inputs: Mapping[str, torch.Tensor], pictures: Sequence[int], start: int, stop: int
) -> dict[str, torch.Tensor]:
    """The inputs of rows `start` to `stop`. Those of pictures lie one after another, whatever row they are of."""
    found = {}
    first, last = sum(pictures[:start]), sum(pictures[:stop])
    for name, value in inputs.items():
        if name == "image_grid_thw":
            found[name] = value[first:last]
        elif name == "pixel_values":
            patches = inputs["image_grid_thw"].prod(dim=-1)
            found[name] = value[int(patches[:first].sum()) : int(patches[:last].sum())]
        else:
            found[name] = value[start:stop]
    return {name: value for name, value in found.items() if len(value)}
