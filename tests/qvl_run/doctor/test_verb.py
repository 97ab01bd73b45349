from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from qvl_run import hardware
from qvl_run.hardware import GIB, PROFILES, Driver, Machine, Space
from qvl_run.run import preflight
from qvl_run.verbs import doctor
from tests.conftest import Command
from tests.qvl_run.test_imports import HEAVY, imported

GPU = PROFILES["t4"].gpu
assert GPU is not None
COLAB_T4 = Machine(
    gpu=replace(GPU, free=14 * GIB),
    gpus=1,
    driver=Driver(version="550.54.15", cuda=(12, 4)),
    ram=round(12.67 * GIB),
    ram_available=10 * GIB,
    cores=2,
    colab=True,
    drive=Path("/content/drive"),
    python="3.13.0",
    libraries={"torch": "2.11.0+cu128", "torchvision": "0.26.0+cu128", "transformers": "5.15.0"},
)


@pytest.fixture
def on(monkeypatch: pytest.MonkeyPatch) -> Callable[[Machine], None]:
    """Makes this machine another one, with all libraries."""

    def become(machine: Machine) -> None:
        monkeypatch.setattr(hardware, "probe", lambda **_: machine)
        monkeypatch.setattr(preflight, "find_spec", lambda _: object())

    return become


def test_a_colab_t4_in_five_lines(
    on: Callable[[Machine], None], capsys: pytest.CaptureFixture[str]
) -> None:
    on(COLAB_T4)
    assert doctor.main(None, as_json=False) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[:5] == [
        "GPU        Tesla T4, compute capability 7.5, driver 550.54.15 for CUDA 12.4",
        "VRAM       14.7 GiB, 14.0 GiB free",
        "precision  fp16: compute capability 7.5 is below 8.0: bf16 would be emulated",
        "attention  sdpa: works on every GPU; no extra package",
        "Drive      mounted at /content/drive",
    ]
    assert "host       Colab, 2 cores, 12.7 GiB RAM, 10.0 GiB available" in lines
    assert any(line.startswith("warning[QVL417]: torch says that Tesla T4") for line in lines)
    assert lines[-1] == "this machine can train"


def test_the_space_on_the_drive_is_told_beside_it(
    on: Callable[[Machine], None], capsys: pytest.CaptureFixture[str]
) -> None:
    for folder, words in (("/content/drive/MyDrive", ", 9.0 GiB free as it reports"), ("/tmp", "")):
        on(replace(COLAB_T4, storage=Space(folder=Path(folder), free=9 * GIB)))
        doctor.main(None, as_json=False)
        assert f"Drive      mounted at /content/drive{words}\n" in capsys.readouterr().out


def test_a_cap_is_told_beside_the_memory(
    on: Callable[[Machine], None], capsys: pytest.CaptureFixture[str]
) -> None:
    on(replace(COLAB_T4, gpu=replace(GPU, cap=7 * GIB)))
    doctor.main(None, as_json=False)
    assert "VRAM       14.7 GiB; PyTorch is told to keep to 7.0 GiB" in capsys.readouterr().out


def test_a_gpu_that_does_not_answer_is_exit_code_3(
    on: Callable[[Machine], None], capsys: pytest.CaptureFixture[str]
) -> None:
    on(replace(COLAB_T4, gpu=None, gpus=0, driver=Driver(problem="GPU is lost")))
    assert doctor.main(None, as_json=False) == 3
    out = capsys.readouterr().out
    assert out.startswith("GPU        none that answers\n")
    assert "error[QVL415]: the GPU's driver does not answer: GPU is lost" in out
    assert out.endswith("this machine cannot train\n")


def test_the_same_as_data(
    on: Callable[[Machine], None], capsys: pytest.CaptureFixture[str]
) -> None:
    on(COLAB_T4)
    assert doctor.main(None, as_json=True) == 0
    data = json.loads(capsys.readouterr().out)
    assert (data["able"], data["job"]) == (True, None)
    assert data["machine"]["gpu"]["capability"] == [7, 5]
    assert data["machine"]["driver"] == {"version": "550.54.15", "cuda": [12, 4], "problem": ""}
    assert data["machine"]["libraries"]["torch"] == "2.11.0+cu128"
    assert {d["name"]: d["value"] for d in data["decisions"]} == {
        "precision": "fp16",
        "attention": "sdpa",
    }
    assert [f["code"] for f in data["findings"]] == ["QVL417"]


def test_with_a_job_it_says_what_run_would_refuse_for(
    qvl_run: Command, job_file: Callable[..., Path]
) -> None:
    hidden = {"CUDA_VISIBLE_DEVICES": ""}
    refused = qvl_run("t4_full_pipeline", env=hidden)
    told = qvl_run("doctor", "t4_full_pipeline", env=hidden)
    assert (refused.returncode, told.returncode) == (3, 3)
    assert refused.stderr.strip() in told.stdout
    assert told.stdout.endswith("t4-full-pipeline cannot run here\n")
    fine = qvl_run("doctor", "cpu_quickstart", "--json", env=hidden)
    assert fine.returncode == 0, fine.stdout
    assert json.loads(fine.stdout)["job"] == "cpu-quickstart"


def test_a_wrong_job_is_exit_code_2(qvl_run: Command) -> None:
    assert "there is no file nothing.yaml" in qvl_run("doctor", "nothing.yaml").stderr
    assert qvl_run("doctor", "nothing.yaml").returncode == 2
    assert "name one" in qvl_run("doctor", "--set", "training.seed=1").stderr


def test_it_imports_nothing_heavy() -> None:
    code = (
        "from qvl_run.cli import cli\n"
        "try: cli(['doctor', 'cpu_quickstart'])\n"
        "except SystemExit: pass"
    )
    found = imported(code)
    assert "packaging" in found
    assert not found & HEAVY
