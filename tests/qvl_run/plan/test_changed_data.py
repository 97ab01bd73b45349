"""A finished or half-done stage whose data has changed since is not gone on with, and the file is named."""

from collections.abc import Callable
from pathlib import Path

import pytest
from PIL import Image

from qvl_run import hardware
from qvl_run.checkpoints import manifest as manifests
from qvl_run.checkpoints.manifest import Manifest
from qvl_run.plan.make import make_plan
from qvl_run.plan.plan import StagePlan
from qvl_run.spec.load import load_job
from tests.qvl_run.plan.test_identity import JOB, ROW

Planned = Callable[[], StagePlan]


@pytest.fixture
def planned(
    job_file: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Planned:
    """The plan of a stage whose checkpoint of step 7 was made from the data as it was."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "rows.jsonl").write_text(ROW)
    Image.new("RGB", (32, 32), "white").save(tmp_path / "a.png")
    job = load_job(job_file(JOB))

    def plan() -> StagePlan:
        return make_plan(job, hardware.profile("cpu")).stages[0]

    before = plan()
    assert before.state == "run"
    assert before.key is not None
    assert before.identity is not None
    folder = tmp_path / "qvl-runs" / "demo" / "checkpoints" / "sft" / "checkpoint-7"
    folder.mkdir(parents=True)
    (folder / "adapter.safetensors").write_bytes(b"weights")
    made = Manifest(
        kind="checkpoint", stage="sft", step=7, total=9, key=before.key, identity=before.identity, attempt="a",
        facts={}, files=manifests.entries(folder),
    )  # fmt: skip
    manifests.write(folder, made)
    return plan


def test_the_same_data_goes_on(planned: Planned) -> None:
    assert (planned().state, planned().step) == ("resume", 7)


def test_changed_rows_are_noticed_and_the_file_is_named(planned: Planned, tmp_path: Path) -> None:
    (tmp_path / "rows.jsonl").write_text(ROW * 2)
    plan = planned()
    assert plan.state == "rerun"
    assert f"the content of {tmp_path / 'rows.jsonl'} has changed" in plan.reasons[0]
    assert "job.yaml:6" in plan.reasons[0]


def test_a_changed_picture_is_noticed_too(planned: Planned, tmp_path: Path) -> None:
    Image.new("RGB", (32, 32), "black").save(tmp_path / "a.png")
    assert planned().state == "rerun"
