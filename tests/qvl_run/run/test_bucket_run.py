"""Whole runs of the counting stage with a bucket: killed, gone on with on a fresh machine, and wrong URLs."""

import json
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from qvl_run.checkpoints import manifest as manifests
from qvl_run.checkpoints.folder import FolderStore
from qvl_run.checkpoints.store import Held
from tests.conftest import Command
from tests.qvl_run.run.test_run import JOB, SUM


@pytest.fixture
def job(job_file: Callable[..., Path], tmp_path: Path) -> Path:
    (tmp_path / "bucket").mkdir()
    storage = f"{{bucket: 'file://{tmp_path}/bucket/run', scratch: {tmp_path}/first}}"
    return job_file(f"{JOB}storage: {storage}\n")


def fresh(tmp_path: Path) -> tuple[str, str]:
    """The option that stands for another machine: nothing of the first one's disk is there."""
    return "--set", f"storage.scratch={tmp_path}/second"


@pytest.mark.parametrize(
    "point", ["checkpoint.after_manifest", "mirror.after_manifest", "mirror.after_manifest@2"]
)
def test_a_killed_run_goes_on_on_a_fresh_machine_from_what_the_bucket_holds(
    job: Path, qvl_run: Command, tmp_path: Path, point: str
) -> None:
    killed = qvl_run(job, env={"QVL_CRASH_AT": point})
    assert killed.returncode == -signal.SIGKILL
    saved = newest(tmp_path / "bucket" / "run" / "checkpoints" / "first")
    assert bool(saved) == point.startswith("mirror")
    again = qvl_run(job, *fresh(tmp_path))
    assert again.returncode == 0, again.stdout + again.stderr
    story = check_bucket(tmp_path / "bucket" / "run")
    began = [e["step"] for e in story if e["event"] == "attempt_started" and e["stage"] == "first"]
    assert began in ([saved], [])
    assert not (tmp_path / "qvl-runs").exists()


def test_a_copy_that_was_cut_short_is_passed_over(
    job: Path, qvl_run: Command, tmp_path: Path
) -> None:
    killed = qvl_run(job, env={"QVL_CRASH_AT": "mirror.before_manifest"})
    assert killed.returncode == -signal.SIGKILL
    elsewhere = qvl_run(job, *fresh(tmp_path))
    assert elsewhere.returncode == 4, elsewhere.stdout + elsewhere.stderr
    assert "has no manifest" in elsewhere.stdout
    again = qvl_run(job)
    assert again.returncode == 0, again.stdout + again.stderr
    check_bucket(tmp_path / "bucket" / "run")


def check_bucket(root: Path) -> list[dict[str, Any]]:
    """All that has a manifest is whole, the sum is right, and no claim is left; the last run's events."""
    (final,) = (root / "checkpoints" / "second").glob("final*/sum.json")
    assert json.loads(final.read_text())["sum"] == SUM
    assert not list(root.rglob(".claim-*"))
    for path in root.rglob("manifest.json"):
        place = Held(FolderStore(path.parent.parent), path.parent.name)
        manifests.verify(place, manifests.read(place))
    *_, last = sorted((root / "runs" / "counting").glob("events-*.jsonl"))
    story: list[dict[str, Any]] = [json.loads(line) for line in last.read_text().splitlines()]
    assert {e["level"] for e in story if e["event"] == "mirrored"} <= {"durable"}
    assert story[-1]["ending"] == "done"
    return story


def newest(stage: Path) -> int:
    """The highest step whose manifest has arrived, and it arrives last."""
    found = [json.loads(path.read_text())["step"] for path in stage.glob("*/manifest.json")]
    return max(found, default=0)


def test_a_finished_run_is_found_done_by_another_machine(
    job: Path, qvl_run: Command, tmp_path: Path
) -> None:
    first = qvl_run(job)
    assert first.returncode == 0, first.stdout + first.stderr
    url = f"file://{tmp_path}/bucket/run"
    assert f"results in {url}" in first.stdout
    assert f"The result is in {url}/checkpoints/second/final. To load it, download" in first.stdout
    second = qvl_run(job, *fresh(tmp_path))
    assert second.returncode == 0, second.stdout + second.stderr
    assert "second: done (8 steps)" in second.stdout
    plan = qvl_run("plan", job, *fresh(tmp_path))
    assert f"storage: {url}" in plan.stdout
    assert "second (count): done" in plan.stdout
    listed = qvl_run("checkpoints", job, *fresh(tmp_path))
    assert listed.returncode == 0, listed.stdout + listed.stderr
    assert "final" in listed.stdout


@pytest.mark.parametrize("verb", ["run", "plan"])
def test_a_url_that_leads_nowhere_decides_nothing(
    job: Path, qvl_run: Command, tmp_path: Path, verb: str
) -> None:
    wrong = f"storage.bucket=file://{tmp_path}/not/there"
    run = qvl_run(verb, job, "--set", wrong, timeout=30)
    assert run.returncode == 75
    assert f"there is no folder {tmp_path}/not to hold it" in run.stderr
    assert "nothing was decided" in run.stderr
    assert "Traceback" not in run.stderr
    assert not (tmp_path / "not").exists()


def test_what_reads_the_bucket_must_be_installed(
    job: Path, qvl_run: Command, tmp_path: Path
) -> None:
    site = tmp_path / "site"
    site.mkdir()
    (site / "sitecustomize.py").write_text(
        "import importlib.util as u\n"
        "find = u.find_spec\n"
        "u.find_spec = lambda name, *rest: None if name == 's3fs' else find(name, *rest)\n"
    )
    for verb, code in (("validate", 0), ("plan", 2), ("run", 3)):
        told = qvl_run(
            verb, job, "--set", "storage.bucket=s3://b/run", env={"PYTHONPATH": str(site)}
        )
        assert told.returncode == code, told.stdout + told.stderr
        assert ("QVL410" in told.stderr) == (verb != "validate")
        assert ("pip install s3fs" in told.stderr) == (verb != "validate")


def test_checking_a_job_with_a_bucket_imports_none_of_what_reads_it(
    job: Path, qvl_run: Command, tmp_path: Path
) -> None:
    trap = tmp_path / "trap"
    for name in ("fsspec", "s3fs", "gcsfs"):
        (trap / name).mkdir(parents=True)
        (trap / name / "__init__.py").write_text("raise SystemExit('imported')\n")
    env = {"PYTHONPATH": str(trap)}
    for args in (("validate", job), ("plan", "--help"), ("plugins",)):
        told = qvl_run(*args, env=env)
        assert told.returncode == 0, told.stdout + told.stderr
