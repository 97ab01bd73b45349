"""Predictions hold to what was measured on GPUs: a change of the terms that would make them wrong is told here."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest

from benchmarks import hardware_page

MEASURED = Path(hardware_page.__file__).parent / "measured"


def records() -> list[dict[str, Any]]:
    return [
        json.loads(text)
        for path in sorted(MEASURED.glob("memory-*.jsonl"))
        for text in path.read_text().splitlines()
    ]


def test_no_prediction_is_under_and_none_a_tenth_over() -> None:
    found = hardware_page.measurements()
    assert len(found) >= 40
    assert sum(one.setting.held_out for one in found) >= 15
    wrong = [one for one in found if not 0 <= one.error <= 0.1]
    assert not wrong


def test_the_readme_says_what_was_measured() -> None:
    readme = (MEASURED.parents[1] / "README.md").read_text(encoding="utf-8")
    told = re.search(r"Against (\d+) settings .* never under, and at most (\d+) % over", readme)
    assert told
    count, most = map(int, told.groups())
    found = hardware_page.measurements()
    assert count == len(found)
    assert most - 1 < 100 * max(one.error for one in found) <= most


def test_runs_of_the_jobs_stayed_finite_and_within_what_was_predicted() -> None:
    for path in MEASURED.glob("jobs-*.json"):
        for one in json.loads(path.read_text()):
            assert (
                one["memory"]["training"]
                <= one["memory"]["predicted"]
                <= 1.1 * one["memory"]["training"]
            )
            assert one["memory"]["reserved"] <= one["cap"] * 2**30
            assert one["steps"] == one["applied"] == len(one["loss"]) >= 20
            assert all(abs(value) < 1e3 for value in (*one["loss"], *one["grad_norm"]))


@pytest.mark.parametrize("precision", ["fp16", "bf16"])
def test_the_dtype_that_was_asked_for_arrived_in_the_layers(precision: str) -> None:
    name = {"fp16": "float16", "bf16": "bfloat16"}[precision]
    mine = [one for one in records() if one["setting"]["precision"] == precision]
    assert mine
    for one in mine:
        setting, dtypes = one["setting"], one["dtypes"]
        assert "trained float32" in dtypes
        assert not any(key.startswith("trained") and key != "trained float32" for key in dtypes)
        if setting["rank"] is not None:
            assert dtypes["adapter, training"] == name
        if setting["quantization"] == "none" and setting["rank"] is not None:
            vision = "no grad" if setting.get("targets", "language") == "language" else "training"
            assert dtypes[f"vision linear, {vision}"] == dtypes["layer, training"] == name
        other = {"float16", "bfloat16"} - {name}
        assert not other & set(dtypes.values())
