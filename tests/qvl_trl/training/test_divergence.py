"""When a loss or a gradient that is no number ends training: the decision, and the trainers that act on it."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from safetensors.torch import load_file

from qvl_run import plugins
from qvl_run.contract import StageError
from qvl_run.settings import DataSettings
from qvl_trl.training.divergence import LOSSES, OVERFLOWS, Divergence
from qvl_trl.training.dpo import SplitDPOTrainer
from qvl_trl.training.grpo import ResumableGRPOTrainer
from qvl_trl.training.sft import Sft, SplitSFTTrainer
from qvl_trl.training.watched import Watched
from tests.qvl_trl.conftest import GRPO, FakeContext, stage_settings

Make = Callable[..., FakeContext]
Step = tuple[bool, bool]
"""Whether the loss is finite, and whether the gradient is."""
FINE, OVERFLOW, NAN = (True, True), (True, False), (False, False)


def fed(steps: Sequence[Step], *, scaled: bool) -> tuple[int, str] | None:
    """The first step, from 1, that ends training, and why."""
    divergence = Divergence()
    for number, (loss, gradient) in enumerate(steps, start=1):
        part = divergence.after(loss_finite=loss, gradient_finite=gradient, scaled=scaled)
        if part:
            return number, part
    return None


@pytest.mark.parametrize(
    ("bad", "part"), [(OVERFLOW, "gradient"), (NAN, "loss"), ((False, True), "loss")]
)
def test_without_a_scaler_the_first_one_ends_it(bad: Step, part: str) -> None:
    assert fed([FINE, FINE, bad, FINE], scaled=False) == (3, part)


def test_a_scaler_finds_its_scale() -> None:
    assert fed([OVERFLOW] * 16 + [FINE], scaled=True) is None


@pytest.mark.parametrize(
    ("steps", "end"),
    [
        ([OVERFLOW] * 99, (OVERFLOWS, "gradient")),
        ([NAN] * 99, (LOSSES, "loss")),
        ([(False, True)] * 99, (LOSSES, "loss")),
        ([OVERFLOW] * 5 + [NAN] * 99, (5 + LOSSES, "loss")),
    ],
)
def test_a_scaler_cannot_mend_it_for_ever(steps: list[Step], end: tuple[int, str]) -> None:
    assert fed(steps, scaled=True) == end


@given(st.lists(st.tuples(st.sampled_from([FINE, OVERFLOW, NAN]), st.integers(1, 25)), max_size=12))
def test_a_scaled_run_ends_at_a_row_of_bad_steps_and_nowhere_else(
    runs: list[tuple[Step, int]],
) -> None:
    steps = [step for step, times in runs for _ in range(times)]

    def bad(number: int, times: int, part: int) -> bool:
        """Whether step `number` and those before it make up `times` in a row."""
        return number >= times and not any(step[part] for step in steps[number - times : number])

    ends = [n for n in range(1, len(steps) + 1) if bad(n, LOSSES, 0) or bad(n, OVERFLOWS, 1)]
    found = fed(steps, scaled=True)
    assert (found[0] if found else None) == (ends[0] if ends else None)


MARKER = "umbrella"
"""A word of one row's question."""
MARKED = 4
TRAINERS: dict[str, type[Any]] = {
    "sft": SplitSFTTrainer,
    "dpo": SplitDPOTrainer,
    "grpo": ResumableGRPOTrainer,
}


@pytest.fixture(scope="module")
def rows(tmp_path_factory: pytest.TempPathFactory) -> DataSettings:
    """Six rows for any stage; one is marked."""
    folder = tmp_path_factory.mktemp("rows")
    Image.effect_noise((64, 64), 50).save(folder / "picture.png")
    lines = [
        {
            "image": "picture.png",
            "question": f"Where is the {MARKER if number == MARKED else 'cup'}?",
            "answer": "left",
            "chosen": "left",
            "rejected": "right",
        }
        for number in range(1, 7)
    ]
    path = folder / "rows.jsonl"
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return DataSettings(format="jsonl", path=str(path))


@dataclass
class Injected:
    """`spoil` changes the loss of the batches that `chosen` picks by trainer and text."""

    chosen: Callable[[Watched, str], bool]
    spoil: Callable[[torch.Tensor], torch.Tensor]
    steps: list[int] = field(default_factory=list)
    """Where it did, from 1."""

    def into(self, uses: str, patch: pytest.MonkeyPatch) -> None:
        cls = TRAINERS[uses]
        original = cls.compute_loss

        def compute_loss(trainer: Any, model: Any, inputs: Any, *args: Any, **kwargs: Any) -> Any:
            text = " ".join(
                trainer.processing_class.batch_decode(
                    inputs["prompt_ids" if uses == "grpo" else "input_ids"]
                )
            )
            loss = original(trainer, model, inputs, *args, **kwargs)
            if not self.chosen(trainer, text):
                return loss
            self.steps.append(trainer.state.global_step + 1)
            return self.spoil(loss)

        patch.setattr(cls, "compute_loss", compute_loss)


def to_nan(loss: torch.Tensor) -> torch.Tensor:
    return loss * float("nan")


def overflowing(loss: torch.Tensor) -> torch.Tensor:
    """The loss is as it was, its gradient is infinite."""
    spoilt = loss * 1
    spoilt.register_hook(lambda gradient: gradient * float("inf"))
    return spoilt


def end(ctx: FakeContext) -> str:
    """The message that the stage ends with. Whatever it saved is sound."""
    with pytest.raises(StageError) as caught:
        plugins.stage(ctx.settings.uses).run(ctx)
    assert caught.value.failure == "nan"
    for folder in ctx.checkpoints.values():
        for tensor in load_file(folder / "adapter_model.safetensors").values():
            assert tensor.isfinite().all()
    return str(caught.value)


def marked_settings(uses: str, rows: DataSettings, **training: Any) -> Any:
    changes: dict[str, Any] = {**(GRPO if uses == "grpo" else {}), "data": rows}
    size = 4 if uses == "grpo" else 1
    changes["training"] = {
        "num_epochs": 3,
        "per_device_train_batch_size": size,
        "save_steps": 1,
        **training,
    }
    return stage_settings(uses, **changes)


@pytest.mark.parametrize(
    ("uses", "workers", "spoil"),
    [
        ("sft", 2, to_nan),
        ("sft", 0, overflowing),
        ("dpo", 0, to_nan),
        ("grpo", 0, to_nan),
        ("grpo", 0, overflowing),
    ],
)
def test_a_step_that_is_no_number_is_not_applied(
    uses: str,
    workers: int,
    spoil: Callable[[torch.Tensor], torch.Tensor],
    rows: DataSettings,
    make_context: Make,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    injected = Injected(lambda t, text: t.state.global_step >= 1 and MARKER in text, spoil)
    injected.into(uses, monkeypatch)
    ctx = make_context(marked_settings(uses, rows, dataloader_num_workers=workers))
    message = end(ctx)
    step = injected.steps[-1]
    assert set(injected.steps) == {step}
    part = "loss" if spoil is to_nan else "gradient"
    assert message.startswith(f"the {part} is NaN or infinite at step {step}; that step was not")
    named = re.findall(r"rows\.jsonl:(\d+)", message)
    assert str(MARKED) in named
    # A batch whose loss is not finite is known to be the one; GRPO mixes its rows over the batches.
    assert len(named) == (1 if spoil is to_nan and uses != "grpo" else 2)
    assert sorted(ctx.checkpoints) == list(range(1, step))


@pytest.fixture
def scaled(monkeypatch: pytest.MonkeyPatch) -> None:
    """SFT with a loss scaler, which a CPU does without."""
    original = Sft.trainer

    def trainer(self: Sft, *args: Any) -> Any:
        made, callback = original(self, *args)
        made.accelerator.scaler = torch.amp.GradScaler("cpu")
        return made, callback

    monkeypatch.setattr(Sft, "trainer", trainer)


@pytest.mark.parametrize("spoil", [to_nan, overflowing])
@pytest.mark.usefixtures("scaled")
def test_a_scaler_leaves_steps_out(
    spoil: Callable[[torch.Tensor], torch.Tensor],
    make_context: Make,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    Injected(lambda trainer, _: trainer.state.global_step in (0, 2), spoil).into("sft", monkeypatch)
    ctx = make_context(stage_settings("sft", training={"save_steps": 1}))
    result = plugins.stage("sft").run(ctx)
    assert result.steps == 5
    found = [load_file(ctx.checkpoints[step] / "adapter_model.safetensors") for step in range(1, 6)]
    same = [
        all(torch.equal(before[name], after[name]) for name in before)
        for before, after in pairwise(found)
    ]
    assert same == [False, True, False, False]
    losses = torch.tensor([metrics["loss"] for metrics in ctx.metrics])
    assert losses.isfinite().tolist() == [spoil is not to_nan or n not in (0, 2) for n in range(5)]


@pytest.mark.usefixtures("scaled")
def test_a_loss_that_stays_nan_ends_a_scaled_run(
    make_context: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    Injected(lambda trainer, _: trainer.state.global_step >= 1, to_nan).into("sft", monkeypatch)
    message = end(make_context(stage_settings("sft")))
    assert message.startswith("the loss is NaN or infinite at step 4, as in the 2 steps before it;")


@pytest.mark.usefixtures("scaled")
def test_a_scaled_run_that_applied_nothing_is_not_done(
    make_context: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Neither in one go, nor when it is resumed for its last step."""
    Injected(lambda *_: True, overflowing).into("sft", monkeypatch)
    first = make_context(stage_settings("sft"))
    expected = "the gradient overflowed in fp16 at every step up to the last, 5: none was applied"
    assert end(first).startswith(expected)
    assert sorted(first.checkpoints) == [2, 4]
    resumed = make_context(stage_settings("sft"), resume_from=first.checkpoints[4])
    assert end(resumed).startswith(expected)
    assert resumed.checkpoints == {}


@pytest.mark.parametrize("value", [float("nan"), float("inf"), None])
def test_a_reward_that_is_no_number_is_named(
    value: float | None, rows: DataSettings, make_context: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    reward = plugins.load("qvl.rewards", "brevity")
    monkeypatch.setattr(type(reward), "score", lambda *_, **__: [0.0, 1.0, value, 1.0] * 2)
    message = end(make_context(marked_settings("grpo", rows)))
    assert re.match(
        rf"the reward brevity gave {value} for a completion of .*rows\.jsonl:\d: ", message
    )
