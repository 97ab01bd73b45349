"""The package as people install it: the ranges it asks for, and the wheel."""

import os
import subprocess
import sys
import tomllib
import venv
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.version import Version

ROOT = Path(__file__).parent.parent
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
COLAB = dict(
    line.split("==")
    for line in (ROOT / "tests/data/colab-versions.txt").read_text().splitlines()
    if not line.startswith("#")
)


def requirements() -> dict[str, Requirement]:
    texts = list(PROJECT["dependencies"])
    for extra in ("train", "gpu", "wandb"):
        texts += PROJECT["optional-dependencies"][extra]
    return {r.name: r for r in map(Requirement, texts)}


def test_colabs_own_versions_stay_where_they_are() -> None:
    wanted = requirements()
    checked = {name for name in COLAB if name in wanted}
    assert {"torch", "numpy", "transformers", "peft", "accelerate", "huggingface_hub"} <= checked
    moved = [name for name in checked if not wanted[name].specifier.contains(COLAB[name])]
    assert moved == []
    assert "torchvision" not in wanted, "nothing may ask for torchvision: images work without it"
    assert Version(COLAB["python"]) in Requirement(f"x{PROJECT['requires-python']}").specifier


def test_what_training_pulls_in_moves_none_of_them_either() -> None:
    from importlib.metadata import requires

    for package in ("trl", "peft", "accelerate", "datasets"):
        for text in requires(package) or ():
            requirement = Requirement(text)
            if requirement.marker is not None and not requirement.marker.evaluate({"extra": ""}):
                continue
            name = requirement.name.replace("-", "_")
            if name in ("torch", "torchvision", "numpy", "transformers"):
                assert requirement.specifier.contains(COLAB[name]), f"{package} wants {text}"


def test_the_tested_versions_are_within_the_ranges() -> None:
    wanted = requirements()
    lines = (ROOT / "constraints.txt").read_text().splitlines()
    pinned = dict(line.split("==") for line in lines if "==" in line)
    assert pinned["torch"] == "2.13.0"
    for name, requirement in wanted.items():
        if name in pinned:
            assert requirement.specifier.contains(pinned[name]), name


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("wheel")
    command = [
        sys.executable,
        "-m",
        "build",
        "--wheel",
        "--no-isolation",
        "--outdir",
        str(out),
        str(ROOT),
    ]
    subprocess.run(command, check=True, capture_output=True)
    return next(out.glob("*.whl"))


def test_the_wheel_validates_a_shipped_job_in_an_empty_environment(
    wheel: Path, tmp_path: Path
) -> None:
    venv.create(tmp_path / "env", with_pip=True)
    python = tmp_path / "env" / "bin" / "python"
    subprocess.run(
        [
            python,
            "-m",
            "pip",
            "install",
            "-q",
            "--disable-pip-version-check",
            "-c",
            ROOT / "constraints.txt",
            wheel,
        ],
        check=True,
        env={k: v for k, v in os.environ.items() if k != "PYTHONPATH"},
    )
    qvl_run = tmp_path / "env" / "bin" / "qvl-run"
    for job in ("cpu_quickstart", "t4_full_pipeline"):
        done = subprocess.run(
            [qvl_run, "validate", f"jobs/{job}.yaml"],
            cwd=tmp_path,
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, done.stderr
        assert "right (3 stages: sft, dpo, grpo)" in done.stdout
    plan = subprocess.run(
        [qvl_run, "plan", "t4_full_pipeline", "--assume", "t4"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )
    assert plan.returncode == 0, plan.stderr
    assert "fp16 (compute capability 7.5 is below 8.0" in plan.stdout
    run = subprocess.run(
        [qvl_run, "cpu_quickstart"], cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert run.returncode == 3
    assert "error[QVL410]: training needs torch, transformers" in run.stderr
    assert 'pip install "qvl-run[train]"' in run.stderr
    assert sorted(p.name for p in tmp_path.iterdir()) == ["env"]
