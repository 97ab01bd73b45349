"""What a GPU's memory is asked while a trainer runs: its peaks by phase, and the dtypes that come out of the layers."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any


@dataclass
class Meter:
    """Peaks of the phases of a run, from the hooks that `watch` sets."""

    peaks: dict[str, int] = field(default_factory=dict)
    reserved: int = 0
    arriving: dict[str, str] = field(default_factory=dict)
    """The dtype that comes out of each kind of layer in the forward pass of training."""

    def phase(self, name: str) -> None:
        """`name` has ended."""
        import torch

        self.peaks[name] = max(self.peaks.get(name, 0), torch.cuda.max_memory_allocated())
        self.reserved = max(self.reserved, torch.cuda.max_memory_reserved())
        torch.cuda.reset_peak_memory_stats()

    @contextmanager
    def within(self, name: str) -> Iterator[None]:
        """Whatever is alive then counts to `name`."""
        self.phase("between")
        yield
        self.phase(name)


def watch(trainer: Any, meter: Meter) -> None:
    """Have `trainer` tell `meter` of its phases."""
    compute_loss, training_step = trainer.compute_loss, trainer.training_step

    def loss(model: Any, inputs: Mapping[str, Any], *args: Any, **kwargs: Any) -> Any:
        with meter.within("forward"):
            return compute_loss(model, inputs, *args, **kwargs)

    def step(*args: Any, **kwargs: Any) -> Any:
        result = training_step(*args, **kwargs)
        meter.phase("backward")
        return result

    trainer.compute_loss, trainer.training_step = loss, step
    if hasattr(trainer, "_generate_single_turn"):
        generate = trainer._generate_single_turn

        def sample(*args: Any, **kwargs: Any) -> Any:
            with meter.within("sampling"):
                return generate(*args, **kwargs)

        trainer._generate_single_turn = sample


def listen(model: Any, meter: Meter) -> None:
    """Note which dtypes come out of the layers of `model`, whatever its options say."""
    kinds = {
        "language_model.layers.0.self_attn.q_proj.base_layer": "base linear",
        "language_model.layers.0.mlp.down_proj.lora_A.default": "adapter",
        "language_model.layers.0": "layer",
        "visual.blocks.0.mlp.linear_fc1": "vision linear",
    }
    for name, module in model.named_modules():
        kind = next((k for end, k in kinds.items() if name.endswith(end)), None)
        if kind is not None:

            def note(module: Any, _: Any, output: Any, kind: str = kind) -> None:
                first = output[0] if isinstance(output, tuple) else output
                when = "training" if module.training and first.requires_grad else "no grad"
                meter.arriving[f"{kind}, {when}"] = str(first.dtype).removeprefix("torch.")

            module.register_forward_hook(note)


def dtypes(model: Any) -> dict[str, int]:
    """How many parameters are held in which dtype; `trained ...` for those with a gradient."""
    found: dict[str, int] = {}
    for parameter in model.parameters():
        name = str(parameter.dtype).removeprefix("torch.")
        name = f"trained {name}" if parameter.requires_grad else name
        found[name] = found.get(name, 0) + parameter.numel()
    return found
