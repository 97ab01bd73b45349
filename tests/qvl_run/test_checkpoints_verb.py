"""`qvl-run checkpoints`, as a user calls it."""

import hashlib
import json
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
from jsonschema import Draft202012Validator

from qvl_run.resources import folder
from tests.conftest import Command
from tests.qvl_run.checkpoints.plain import plain_checkpoint

JOB = """
version: 1
name: counting
model: {name: none}
training: {save_steps: 3}
stages:
  first: {uses: count, with: {to: 10}}
  second: {uses: count, with: {to: 8}}
"""
Checkpoints = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture
def checkpoints(job_file: Callable[..., Path], qvl_run: Command) -> Checkpoints:
    job = job_file(JOB)
    return lambda *args: qvl_run("checkpoints", job, *args)


@pytest.fixture
def first(tmp_path: Path) -> Path:
    return tmp_path / "qvl-runs" / "counting" / "checkpoints" / "first"


@pytest.fixture
def ran(job_file: Callable[..., Path], qvl_run: Command, first: Path) -> Path:
    """The folder of the stage `first`, finished."""
    assert qvl_run(job_file(JOB)).returncode == 0
    return first


def line(done: subprocess.CompletedProcess[str], name: str) -> str:
    return next(text for text in done.stdout.splitlines() if text.split()[:1] == [name])


def test_before_the_first_run_there_is_nothing(checkpoints: Checkpoints, tmp_path: Path) -> None:
    done = checkpoints()
    assert (done.returncode, done.stderr) == (0, "")
    assert "there is nothing in" in done.stdout
    assert not (tmp_path / "qvl-runs").exists()


def test_the_list_names_step_size_and_state(checkpoints: Checkpoints, ran: Path) -> None:
    done = checkpoints("--stage", "first")
    assert done.returncode == 0
    assert line(done, "checkpoint-10").split(maxsplit=5)[1:] == [
        "step",
        "10",
        "23",
        "B",
        "durable, sizes fit",
    ]
    assert "durable" in line(done, "final")
    assert "second" not in done.stdout


def test_verify_finds_what_sizes_do_not_tell(checkpoints: Checkpoints, ran: Path) -> None:
    path = ran / "checkpoint-10" / "sum.json"
    path.write_text(path.read_text().replace("55", "56"))
    assert "sizes fit" in line(checkpoints(), "checkpoint-10")
    verified = checkpoints("--verify")
    assert "not whole: sum.json has other content" in line(verified, "checkpoint-10")
    assert "durable, verified" in line(verified, "checkpoint-9")
    path.write_text("")
    assert "sum.json has 0 of 23 bytes" in line(checkpoints(), "checkpoint-10")


def test_checkpoints_of_other_settings_are_told_apart(
    job_file: Callable[..., Path], qvl_run: Command, ran: Path
) -> None:
    done = qvl_run("checkpoints", job_file(JOB.replace("to: 10", "to: 11")))
    assert "other settings than the job's" in line(done, "checkpoint-10")


def test_prune_asks_shows_and_keeps_two(
    checkpoints: Checkpoints, qvl_run: Command, ran: Path
) -> None:
    for name, source in (("checkpoint-3", "checkpoint-9"), ("checkpoint-12", "checkpoint-9")):
        shutil.copytree(ran / source, ran / name)
        (ran / name / "manifest.json").unlink()
    shown = checkpoints("--prune")
    assert "checkpoint-3 (torn: has no manifest" in shown.stdout
    assert (ran / "checkpoint-3").exists(), "without an answer nothing is deleted"
    done = checkpoints("--prune", "--yes")
    assert done.returncode == 0
    assert "deleted 1 folder\n" in done.stdout
    left = {path.name for path in ran.iterdir()}
    assert left == {"checkpoint-9", "checkpoint-10", "checkpoint-12", "final"}
    assert "nothing may go" in checkpoints("--prune", "--yes").stdout


def test_a_checkpoint_of_another_script_is_adopted_and_gone_on_from(
    checkpoints: Checkpoints, job_file: Callable[..., Path], qvl_run: Command, first: Path
) -> None:
    plain_checkpoint(first / "checkpoint-4", step=4, total=10)
    (first / "checkpoint-4" / "sum.json").write_text('{"step": 4, "sum": 10}')
    assert qvl_run(job_file(JOB)).returncode == 4, "not without being asked"
    done = checkpoints("--adopt")
    assert "checkpoint-4: taken" in done.stdout
    assert (
        json.loads((first / "checkpoint-4" / "manifest.json").read_text())["attempt"] == "adopted"
    )
    run = qvl_run(job_file(JOB))
    assert "resume at step 4 of 10" in run.stdout
    assert run.returncode == 0


@pytest.mark.parametrize(
    ("damage", "reason"),
    [
        (
            "optimizer.pt",
            "it has no optimizer.pt: it cannot be resumed, only started from (--init-from",
        ),
        ("trainer_state.json", "it has no trainer_state.json"),
        ("adapter_model.safetensors", "it has no weights in safetensors format"),
        ("rng_state.pth cut", "rng_state.pth is cut short"),
        ("adapter_model.safetensors cut", "adapter_model.safetensors has"),
        ("step", "its trainer_state.json is of step 4"),
    ],
)
def test_what_cannot_be_resumed_is_not_adopted(
    checkpoints: Checkpoints, first: Path, damage: str, reason: str
) -> None:
    plain_checkpoint(first / "checkpoint-4", step=4)
    name, _, how = damage.partition(" ")
    if damage == "step":
        (first / "checkpoint-4").rename(first / "checkpoint-5")
    elif how:
        path = first / "checkpoint-4" / name
        path.write_bytes(path.read_bytes()[:-3])
    else:
        (first / "checkpoint-4" / name).unlink()
    done = checkpoints("--adopt")
    assert f"not taken: {reason}" in done.stdout
    assert not list(first.rglob("manifest.json"))


def test_a_stage_whose_input_is_not_known_adopts_nothing(
    checkpoints: Checkpoints, first: Path
) -> None:
    plain_checkpoint(first.with_name("second") / "checkpoint-4", step=4)
    assert "first is not done" in checkpoints("--adopt").stdout


def test_manifests_follow_their_published_schema(ran: Path) -> None:
    schema = json.loads((folder("schemas") / "manifest.schema.json").read_text())
    Draft202012Validator.check_schema(schema)
    manifests = list(ran.parent.rglob("manifest.json"))
    assert len(manifests) == 6
    for path in manifests:
        Draft202012Validator(schema).validate(json.loads(path.read_text()))
    wrong = json.loads(manifests[0].read_text()) | {"more": 1}
    assert not Draft202012Validator(schema).is_valid(wrong)


def test_a_manifest_can_be_checked_by_its_schema_alone(ran: Path) -> None:
    body = json.loads((ran / "final" / "manifest.json").read_text())
    digest = body.pop("digest")
    assert hashlib.sha256(json.dumps(body, sort_keys=True).encode()).hexdigest() == digest
    assert (
        hashlib.sha256(json.dumps(body["identity"], sort_keys=True).encode()).hexdigest()
        == body["key"]
    )
    for entry in body["files"]:
        content = (ran / "final" / entry["name"]).read_bytes()
        assert (len(content), hashlib.sha256(content).hexdigest()) == (
            entry["size"],
            entry["sha256"],
        )


@pytest.mark.parametrize("verb", ["checkpoints", "plan"])
def test_a_drive_that_is_not_mounted_is_not_called_empty(
    job_file: Callable[..., Path], qvl_run: Command, tmp_path: Path, verb: str
) -> None:
    job = job_file(JOB + f"storage: {{drive: {tmp_path / 'mount' / 'drive'}, scratch: scratch}}\n")
    done = qvl_run(verb, job)
    assert done.returncode == 3
    assert "QVL411" in done.stdout + done.stderr
    assert not (tmp_path / "mount").exists()
