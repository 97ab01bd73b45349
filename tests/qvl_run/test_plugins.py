"""Plugins from real distributions: a fake dist-info on the path is one, as far as entry points go."""

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.conftest import Command

JOB = "version: 1\nname: demo\nmodel: {name: none}\nstages:\n  a: {uses: %s, with: {to: 3}}\n"


@pytest.fixture
def distribution(tmp_path: Path) -> Callable[..., dict[str, str]]:
    """Makes a distribution with one stage; returns the environment that has it installed."""

    def make(name: str, *, stage: str, code: str) -> dict[str, str]:
        site = tmp_path / "site"
        info = site / f"{name}-1.0.dist-info"
        info.mkdir(parents=True)
        (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n")
        (info / "entry_points.txt").write_text(f"[qvl.stages]\n{stage} = {name}:stage\n")
        (site / f"{name}.py").write_text(code)
        return {"PYTHONPATH": os.pathsep.join([str(site), os.environ.get("PYTHONPATH", "")])}

    return make


def test_a_plugin_that_fails_to_import_names_its_distribution(
    job_file: Callable[..., Path], qvl_run: Command, distribution: Callable[..., dict[str, str]]
) -> None:
    env = distribution("broken_one", stage="broken", code="import nothing_like_it")
    done = qvl_run("validate", job_file(JOB % "broken"), env=env)
    assert done.returncode == 2
    assert "broken_one 1.0 cannot be imported: ModuleNotFoundError" in done.stderr
    assert "Traceback" not in done.stderr
    assert "error[QVL205]" in done.stderr
    assert "job.yaml:5:13" in done.stderr
    listing = qvl_run("plugins", env=env)
    assert listing.returncode == 0
    assert "cannot be used" in listing.stdout


def test_two_plugins_of_one_name_are_an_error_naming_both(
    job_file: Callable[..., Path], qvl_run: Command, distribution: Callable[..., dict[str, str]]
) -> None:
    env = distribution("pretender", stage="count", code="from qvl_counter.stage import stage")
    done = qvl_run("validate", job_file(JOB % "count"), env=env)
    assert done.returncode == 2
    assert "qvl-counter 1.0.0" in done.stderr
    assert "pretender 1.0" in done.stderr


def test_what_is_no_stage_is_refused(
    job_file: Callable[..., Path], qvl_run: Command, distribution: Callable[..., dict[str, str]]
) -> None:
    env = distribution("no_stage", stage="thing", code="stage = object()")
    done = qvl_run("validate", job_file(JOB % "thing"), env=env)
    assert done.returncode == 2
    assert "is not a Stage" in done.stderr


def test_the_listing_tells_options_and_defaults(qvl_run: Command) -> None:
    text = qvl_run("plugins").stdout
    for word in (
        "stages:",
        "sft",
        "dpo",
        "grpo",
        "count  (qvl-counter 1.0.0)",
        "beta",
        "num_generations",
        "qvl-tiny",
    ):
        assert word in text
