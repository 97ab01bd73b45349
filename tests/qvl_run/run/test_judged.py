"""Only what will run is asked of the machine: not what was not chosen, nor what is done."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from qvl_run import exit_codes
from qvl_run.checkpoints import manifest as manifests
from qvl_run.checkpoints.manifest import Manifest
from qvl_run.hardware import Machine
from qvl_run.plan.make import Choices, make_plan
from qvl_run.plan.places import places
from qvl_run.run import preflight
from qvl_run.run.preflight import judged
from qvl_run.spec.diagnostic import Diagnostic
from qvl_run.spec.job import Job
from qvl_run.spec.load import load_job
from qvl_run.verbs import plan as plan_verb
from tests.qvl_run.plan.fakes import Formula, gpu_with, needing

JOB = """
version: 1
name: demo
model: {name: qvl-tiny}
training: {max_seq_length: 1024, global_batch_size: 8}
stages:
  sft: {uses: sft, data: {format: spatial_scenes}%s}
  dpo: {uses: dpo, data: {format: spatial_scenes}}
"""
LARGE, SMALL = gpu_with(60, capability=(8, 0)), gpu_with(13)
Made = Callable[..., Job]


@pytest.fixture
def made(job_file: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Made:
    """A job whose first stage needs more than SMALL has."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(preflight, "find_spec", lambda _: object())
    needing(monkeypatch, Formula(more={"sft": 30.0}))
    return lambda sft="": load_job(job_file(JOB % sft))


def refused(found: tuple[Diagnostic, ...]) -> list[str]:
    return [one.code for one in found if one.severity == "error"]


def finish(job: Job, machine: Machine) -> None:
    """Leave the output of the first stage on this machine, as `machine` would have made it."""
    stage = make_plan(job, machine).stages[0]
    assert stage.key is not None
    assert stage.identity is not None
    folder = places(job).attempts("sft") / "attempt-0001" / "work" / "final"
    folder.mkdir(parents=True)
    (folder / "weights").write_bytes(b"trained")
    manifest = Manifest(
        kind="output", stage="sft", step=10, total=10, key=stage.key, identity=stage.identity, attempt="attempt-0001",
        facts={}, files=manifests.entries(folder),
    )  # fmt: skip
    manifests.write(folder, manifest)


def test_a_stage_that_was_not_chosen_refuses_nothing(made: Made) -> None:
    job = made()
    assert refused(judged(job, SMALL, places(job), choices=Choices())) == ["QVL430"]
    assert refused(judged(job, SMALL, places(job), choices=Choices(only="sft"))) == ["QVL430"]
    assert judged(job, SMALL, places(job), choices=Choices(only="dpo")) == ()


def test_plan_judges_the_chosen_stage_alone(made: Made, capsys: pytest.CaptureFixture[str]) -> None:
    path = made().path
    options = {"resume_from": None, "init_from": None, "from_scratch": False}

    def planned(stage: str | None) -> int:
        return plan_verb.main(
            str(path), assume="t4", as_json=False, show_origin=False, stage=stage, **options, profiles=(), settings=()
        )  # fmt: skip

    # The machine is enough for it; the stage that it starts from is not done.
    assert planned("dpo") == exit_codes.USAGE
    assert "QVL430" not in capsys.readouterr().out
    assert planned(None) == exit_codes.MACHINE


def test_a_stage_that_is_done_asks_nothing_of_the_machine(made: Made) -> None:
    job = made()
    where = places(job)
    finish(job, LARGE)
    assert refused(judged(job, SMALL, where, choices=Choices())) == []
    assert make_plan(job, SMALL).findings == ()
    anew = Choices(only="sft", from_scratch=True)
    assert refused(judged(job, SMALL, where, choices=anew)) == ["QVL430"]


def test_a_done_stages_precision_refuses_nothing_either(made: Made) -> None:
    job = made(", model: {precision: bf16}")
    assert "QVL403" in refused(judged(job, SMALL, places(job), choices=Choices()))
    finish(job, LARGE)
    assert refused(judged(job, SMALL, places(job), choices=Choices())) == []


def test_a_done_stages_library_is_not_asked_for(
    made: Made, monkeypatch: pytest.MonkeyPatch
) -> None:
    job = made(", model: {quantization: nf4}")
    monkeypatch.setattr(preflight, "find_spec", lambda name: name != "bitsandbytes" or None)
    assert refused(judged(job, LARGE, places(job), choices=Choices())) == ["QVL410"]
    finish(job, LARGE)
    assert refused(judged(job, LARGE, places(job), choices=Choices())) == []


def test_storage_that_cannot_be_read_decides_nothing(
    made: Made, monkeypatch: pytest.MonkeyPatch
) -> None:
    job = made()
    finish(job, LARGE)

    def dead(*_: object, **__: object) -> None:
        raise OSError("the drive is gone")

    monkeypatch.setattr(preflight, "make_plan", dead)
    with pytest.raises(OSError, match="the drive is gone"):
        judged(job, SMALL, places(job), choices=Choices())
    assert refused(judged(job, LARGE, places(job), choices=Choices())) == []


def test_what_is_ahead_are_the_stages_that_are_not_done(made: Made) -> None:
    job = made()
    assert [s.name for s in make_plan(job, LARGE).ahead.stages] == ["sft", "dpo"]
    finish(job, LARGE)
    assert [s.name for s in make_plan(job, LARGE).ahead.stages] == ["dpo"]
