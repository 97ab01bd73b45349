import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from qvl_run import hardware
from qvl_run.hardware import GIB, PROFILES, Space
from qvl_run.plan.make import Choices
from qvl_run.plan.places import places
from qvl_run.run import preflight as checks
from qvl_run.run.preflight import findings, judged, machine_here
from qvl_run.spec.load import load_job
from tests.conftest import Command
from tests.qvl_run.plan.fakes import Formula, needing

JOB = """
version: 1
name: demo
model: {name: qvl-tiny, quantization: nf4}
hardware: {min_disk: 900TB}
stages: {sft: {uses: sft, data: {format: spatial_scenes}, training: {max_seq_length: 256}}}
"""


def test_all_that_is_missing_is_told_at_once_and_nothing_is_made(
    job_file: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    job = load_job(job_file(JOB))
    missing = {"bitsandbytes", "trl"}
    monkeypatch.setattr(checks, "find_spec", lambda name: None if name in missing else object())
    machine = replace(PROFILES["t4"], disk=Space(folder=tmp_path, free=GIB), assumed=None)
    found = findings(job, machine, places(job))
    assert [d.code for d in found] == ["QVL412", "QVL410", "QVL410"]
    assert ["trl" in found[1].message, "bitsandbytes" in found[2].message] == [True, True]
    assert found[0].span is not None
    assert found[0].span.line == 5
    assert [p.name for p in tmp_path.iterdir()] == ["job.yaml"]


def test_a_machine_with_everything_is_let_through(
    job_file: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(checks, "find_spec", lambda name: object())
    job = load_job(job_file(JOB.replace("900TB", "1KB")))
    machine = replace(PROFILES["t4"], disk=Space(folder=tmp_path, free=GIB), assumed=None)
    assert findings(job, machine, places(job)) == ()


def test_beneath_a_drive_that_is_not_mounted_no_space_is_looked_for(
    job_file: Callable[..., Path], tmp_path: Path
) -> None:
    drive = tmp_path / "mount" / "drive"
    job = load_job(job_file(JOB + f"storage: {{drive: {drive}}}\n"))
    assert machine_here(job, places(job)).storage is None
    drive.mkdir(parents=True)
    space = machine_here(job, places(job)).storage
    assert space is not None
    assert space.free


@pytest.mark.parametrize(
    ("need", "code"),
    [
        ("min_disk: 900TB", "QVL412"),
        ("min_ram: 900TB", "QVL407"),
        ("min_drive_space: 900TB", "QVL413"),
        ("min_compute_capability: 19.0", "QVL4"),
    ],
)
def test_plan_says_what_run_refuses_for_before_anything_is_made(
    job_file: Callable[..., Path], qvl_run: Command, tmp_path: Path, need: str, code: str
) -> None:
    text = JOB.replace(", quantization: nf4", "").replace("min_disk: 900TB", need)
    job = job_file(text)
    plan, run = qvl_run("plan", job), qvl_run(job)
    assert (plan.returncode, run.returncode) == (3, 3), plan.stdout + run.stderr
    refusals = run.stderr.strip()
    assert refusals.startswith(f"error[{code}")
    assert f"{job}:5:" in refusals
    assert "qvl-run cpu_quickstart" in refusals
    assert plan.stdout.strip().endswith(refusals)
    assert [p.name for p in tmp_path.iterdir()] == ["job.yaml"]


def test_what_cannot_be_told_holds_nothing_up(
    job_file: Callable[..., Path], qvl_run: Command, tmp_path: Path
) -> None:
    (tmp_path / "bucket").mkdir()
    text = f"""
    version: 1
    name: demo
    hardware: {{min_drive_space: 1KB}}
    model: {{name: qvl-tiny}}
    storage: {{bucket: "file://{tmp_path}/bucket/run", scratch: scratch}}
    stages: {{first: {{uses: count, with: {{to: 1}}}}}}
    """
    job = job_file(text)
    plan = json.loads(qvl_run("plan", job, "--json").stdout)
    assert [(f["code"], f["severity"]) for f in plan["findings"]] == [("QVL414", "warning")]
    done = qvl_run(job)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "warning[QVL414]" in done.stderr


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
    cpu = replace(PROFILES["cpu"], ram=64 * GIB)
    found = judged(job, PROFILES["t4"], places(job), choices=Choices())
    assert [d.code for d in found] == ["QVL410"]
    assert judged(job, cpu, places(job), choices=Choices()) == ()


def test_flash_attention_needs_its_package_where_there_is_a_gpu(
    job_file: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    text = JOB.replace("900TB", "1KB").replace("quantization: nf4", "attention: flash_attention_2")
    job = load_job(job_file(text))
    l4 = replace(PROFILES["l4"], assumed=None)
    monkeypatch.setattr(checks, "find_spec", lambda name: name != "flash_attn" or None)
    (found,) = judged(job, l4, places(job), choices=Choices())
    assert (found.code, "flash-attn" in found.message) == ("QVL410", True)
    cpu = replace(PROFILES["cpu"], ram=64 * GIB, assumed=None)
    assert [d.code for d in judged(job, cpu, places(job), choices=Choices())] == ["QVL405"]
    monkeypatch.setattr(checks, "find_spec", lambda name: object())
    assert judged(job, l4, places(job), choices=Choices()) == ()


def test_a_gpu_that_the_torch_here_has_no_kernels_for_is_refused(
    job_file: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    job = load_job(job_file(JOB.replace("900TB", "1KB").replace(", quantization: nf4", "")))
    monkeypatch.setattr(checks, "find_spec", lambda name: object())
    v100 = replace(PROFILES["v100"], assumed=None, libraries={"torch": "2.13.0+cu128"})
    (found,) = judged(job, v100, places(job), choices=Choices())
    assert (found.code, found.severity) == ("QVL424", "error")
    kept = replace(v100, libraries={"torch": "2.13.0+cu126"})
    assert judged(job, kept, places(job), choices=Choices()) == ()


@pytest.mark.parametrize("colab", [True, False])
def test_where_colabs_drive_is_missing_the_hint_is_one_for_this_machine(
    job_file: Callable[..., Path], monkeypatch: pytest.MonkeyPatch, colab: bool
) -> None:
    monkeypatch.setattr(hardware, "on_colab", lambda: colab)
    job = load_job(job_file(JOB + "storage: {drive: /content/drive/MyDrive/x}\n"))
    (found,) = checks.drive_missing(job, places(job))
    assert ("drive.mount" in found.hint, "storage: !reset" in found.hint) == (colab, not colab)


THREE = """
version: 1
name: demo
model: {name: qvl-tiny, precision: fp16, quantization: nf4}
training: {optim: adamw_8bit}
stages:
  sft: {uses: sft, data: {format: spatial_scenes}}
  dpo: {uses: dpo, data: {format: spatial_scenes}}
  grpo: {uses: grpo, data: {format: spatial_scenes}}
"""


@pytest.mark.parametrize(
    ("verb", "options"), [("run", ()), ("doctor", ()), ("plan", ()), ("plan", ("--assume", "cpu"))]
)
def test_what_three_stages_share_is_told_once(
    job_file: Callable[..., Path], qvl_run: Command, verb: str, options: tuple[str, ...]
) -> None:
    done = qvl_run(verb, job_file(THREE), *options)
    assert done.returncode == 3
    assert [(done.stdout + done.stderr).count(f"error[{c}]") for c in ("QVL403", "QVL404")] == [
        1,
        2,
    ]
