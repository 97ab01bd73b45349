"""The child's side of the contract, on the files of one attempt."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from qvl_run.contract import StageError, StageStopped
from qvl_run.run import context
from qvl_run.run.attempt import AttemptFolder, Orders
from qvl_run.run.context import ROOM, ChildContext
from qvl_run.settings import ModelSettings, StageSettings


@pytest.fixture
def ctx(tmp_path: Path) -> ChildContext:
    folder = AttemptFolder(tmp_path / "attempt-0001")
    orders = Orders(
        settings=StageSettings(name="s", uses="count", model=ModelSettings(name="none")),
        identity={}, key="k", name="a", input=None, resume_from=None, cache=str(tmp_path), seconds=0.0,
        measured_on="", recorded={}, facts={},
    )  # fmt: skip
    folder.write_orders(orders)
    return ChildContext(folder, orders)


def progress(ctx: ChildContext) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((ctx.scratch.parent / "progress.json").read_text())
    return found


def save(ctx: ChildContext, step: int) -> None:
    folder = ctx.scratch / f"checkpoint-{step}"
    folder.mkdir()
    (folder / "state").write_bytes(b"x" * 1000)
    ctx.commit_checkpoint(folder, step=step)


class Time:
    """Passes while it is slept."""

    def __init__(self) -> None:
        self.now = 0.0

    def monotonic(self) -> float:
        return self.now

    def sleep(self, seconds: float) -> None:
        self.now += seconds


def test_room_is_waited_for_while_old_checkpoints_are_deleted(
    ctx: ChildContext, monkeypatch: pytest.MonkeyPatch
) -> None:
    free: Iterator[int] = iter([ROOM, ROOM, ROOM + 1000])
    monkeypatch.setattr(context, "time", Time())
    monkeypatch.setattr(context.LOCAL, "free", lambda _: next(free))
    save(ctx, 3)
    assert next(free, None) is None, "it looked until there was room"


def test_a_disk_that_stays_full_ends_the_stage(
    ctx: ChildContext, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = Time()
    monkeypatch.setattr(context, "time", clock)
    monkeypatch.setattr(context.LOCAL, "free", lambda _: ROOM)
    with pytest.raises(StageError, match="free some space") as caught:
        save(ctx, 3)
    assert caught.value.failure == "disk"
    assert clock.now == pytest.approx(context.ROOM_PATIENCE, abs=1)


def test_an_evaluation_counts_no_step(ctx: ChildContext) -> None:
    ctx.progress("first_step", step=0, total=20)
    ctx.progress("step", step=7)
    ctx.progress("eval", step=70, total=75)
    seen = progress(ctx)
    assert (seen["reached"], seen["step"], seen["total"]) == (7, 70, 75)
    save(ctx, 7)
    manifest = json.loads((ctx.scratch / "checkpoint-7" / "manifest.json").read_text())
    assert manifest["total"] == 20


def test_a_checkpoint_tells_how_long_its_steps_took(
    ctx: ChildContext, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = Time()
    monkeypatch.setattr(context, "time", clock)
    clock.now = 1000.0
    ctx.progress("first_step", step=40, total=100)
    clock.now += 30
    ctx.progress("save", step=43)
    clock.now += 5
    save(ctx, 43)
    facts = json.loads((ctx.scratch / "checkpoint-43" / "manifest.json").read_text())["facts"]
    assert (facts["loop_seconds"], facts["loop_steps"]) == (30, 3), "its own steps alone"
    assert progress(ctx)["loop_steps"] == 3


def test_requests_reach_the_stage(ctx: ChildContext) -> None:
    folder = AttemptFolder(ctx.scratch.parent)
    assert not ctx.save_requested()
    folder.save_file.touch()
    assert ctx.save_requested()
    assert not ctx.save_requested(), "once"
    folder.stop_file.touch()
    ctx.progress("step", step=1)
    assert not ctx.stop_requested()
    save(ctx, 1)
    assert ctx.stop_requested()
    with pytest.raises(StageStopped):
        ctx.progress("eval")


def test_a_metric_that_is_no_number_is_the_stages_own_mistake(ctx: ChildContext) -> None:
    with pytest.raises(ValueError, match="could not convert"):
        ctx.progress("step", step=1, metrics={"loss": "low"})  # type: ignore[dict-item]
