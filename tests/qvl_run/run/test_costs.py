"""What a finished stage took, read from its manifest, and how it is told."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pytest

from qvl_run.checkpoints.manifest import Manifest
from qvl_run.contract import Work
from qvl_run.hardware import GIB
from qvl_run.plan import pace
from qvl_run.run import costs, tables
from qvl_run.run.costs import cost, memory_line

WORK = {"flops": 10**14, "passes": 100, "decoding": 0}
MEMORY = {
    "peak": 6.5 * GIB, "training": 5.5 * GIB, "predicted": 5.8 * GIB, "reserved": 7 * GIB, "tokens": 464,
    "image_tokens": 300,
}  # fmt: skip
FACTS: Mapping[str, Any] = {
    "gpu": "NVIDIA H100 80GB HBM3", "planned": 9 * GIB, "work": WORK, "memory": MEMORY, "loop_seconds": 40.0,
    "loop_steps": 20, "seconds": 90.0,
}  # fmt: skip


def output(stage: str = "sft", *, data: Any = "rows", **facts: Any) -> Manifest:
    identity = {"uses": stage, "training": {"global_batch": 8}, "data": data}
    return Manifest(
        kind="output", stage=stage, step=100, total=100, key="k", identity=identity, attempt="a", facts=facts, files=(),
    )  # fmt: skip


def test_predicted_stands_beside_measured() -> None:
    found = cost(output(**FACTS))
    assert (found.planned, found.predicted, found.training) == (9 * GIB, 5.8 * GIB, 5.5 * GIB)
    assert (found.peak, found.reserved, found.tokens) == (6.5 * GIB, 7 * GIB, 464)
    assert found.step == 2.0, "of the steps of the last attempt alone"
    assert found.samples == 4.0
    assert found.expected == pytest.approx(pace.seconds(Work(**WORK), pace.H100))


def test_without_a_gpu_there_is_no_memory_and_nothing_was_expected() -> None:
    found = cost(output(**{**FACTS, "gpu": None, "memory": {}}))
    assert (found.planned, found.training, found.expected) == (None, None, None)
    assert found.step == 2.0
    assert memory_line([found]) == ""


def test_a_stage_without_rows_has_steps_and_no_rows_a_second() -> None:
    found = cost(output(data=None, **FACTS))
    assert (found.step, found.samples) == (2.0, None)


def test_of_an_output_that_says_nothing_nothing_is_made_up() -> None:
    found = cost(output())
    assert {value for name, value in vars(found).items() if name != "stage"} == {None}


def test_the_line_of_a_run_names_each_stage_that_was_measured() -> None:
    stages = (
        output(**FACTS),
        output("merge"),
        output("dpo", memory={"training": 7.25 * GIB, "peak": 8 * GIB}),
    )
    text = "GPU memory in training: sft 5.5 GiB (5.8 predicted), dpo 7.2 GiB"
    assert memory_line(cost(one) for one in stages) == text


def test_the_tables_have_all_of_it(capsys: pytest.CaptureFixture[str]) -> None:
    outputs = [output(**FACTS), output("merge", seconds=3.0)]
    tables.print_stages(outputs, {"sft"})
    tables.print_costs(outputs)
    text = capsys.readouterr().out
    assert text.startswith("stage "), "no empty lines before all of it"
    assert "\n\n\n" not in text
    assert "sft *" in text
    assert tables.ELSEWHERE in text
    assert "GPU memory in training: sft 5.5 GiB (5.8 predicted)" in text
    lines = [" ".join(line.split()) for line in text.splitlines()]
    gpu = "NVIDIA H100 80GB HBM3"
    memory = "9.0 GiB 5.8 GiB 5.5 GiB 6.5 GiB 7.0 GiB 464 tokens, 300 of images"
    assert [line for line in lines if line.startswith(f"sft {gpu}")] == [
        f"sft {gpu} {memory}",
        f"sft {gpu} 2 s 0.94 s 4",
    ]
    assert [line for line in lines if line.startswith("merge")] == ["merge 100 3 s"]


def test_a_column_that_nothing_is_known_for_is_left_out(
    capsys: pytest.CaptureFixture[str],
) -> None:
    here = output(**{**FACTS, "gpu": None, "memory": {}})
    for outputs, predicted in (([here], False), ([here, output(**FACTS)], True)):
        tables.print_costs(outputs)
        head = next(t for t in capsys.readouterr().out.splitlines() if t.startswith("time"))
        assert ("predicted" in head, "rows a second" in head) == (predicted, True)


def test_where_nothing_was_measured_there_is_no_empty_table(
    capsys: pytest.CaptureFixture[str],
) -> None:
    tables.print_costs([output()])
    assert capsys.readouterr().out == ""
    assert costs.memory_line([]) == ""
