from collections.abc import Callable
from pathlib import Path

import pytest

from qvl_run.hardware import PROFILES
from qvl_run.plan.make import places
from qvl_run.run import preflight as checks
from qvl_run.run.preflight import preflight
from qvl_run.spec.load import load_job
from tests.qvl_run.plan.fakes import Formula, needing

JOB = """
version: 1
name: demo
model: {name: qvl-tiny, quantization: nf4}
hardware: {min_disk: 900TB}
stages: {sft: {uses: sft, data: {format: spatial_scenes}}}
"""


def test_too_little_disk_and_missing_libraries_are_told_and_nothing_is_made(
    job_file: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    job = load_job(job_file(JOB))
    missing = {"bitsandbytes", "trl"}
    monkeypatch.setattr(checks, "find_spec", lambda name: None if name in missing else object())
    found = list(preflight(job, PROFILES["t4"], places(job)))
    assert [d.code for d in found] == ["QVL410", "QVL410", "QVL412"]
    assert ["trl" in found[0].message, "bitsandbytes" in found[1].message] == [True, True]
    assert found[2].span is not None
    assert found[2].span.line == 5
    assert [p.name for p in tmp_path.iterdir()] == ["job.yaml"]


def test_a_machine_with_everything_is_let_through(
    job_file: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(checks, "find_spec", lambda name: object())
    job = load_job(job_file(JOB.replace("900TB", "1KB")))
    assert list(preflight(job, PROFILES["t4"], places(job))) == []


@pytest.mark.parametrize(
    ("weights", "model"), [(20.0, "quantization: auto"), (1.0, "quantization: auto, lora: null")]
)
def test_what_auto_takes_needs_its_library_too(
    job_file: Callable[..., Path], monkeypatch: pytest.MonkeyPatch, weights: float, model: str
) -> None:
    needing(monkeypatch, Formula(weights=weights))
    text = JOB.replace("900TB", "1KB").replace("quantization: nf4", model)
    job = load_job(job_file(text + "training: {optim: auto}\n"))
    monkeypatch.setattr(checks, "find_spec", lambda name: name != "bitsandbytes" or None)
    found = list(preflight(job, PROFILES["t4"], places(job)))
    assert [d.code for d in found] == ["QVL410"]
    assert list(preflight(job, PROFILES["cpu"], places(job))) == []
