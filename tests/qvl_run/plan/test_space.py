"""What a run leaves on its storage: never told as the whole of it where a part is not known."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from qvl_run.hardware import PROFILES
from qvl_run.plan.make import make_plan
from qvl_run.plan.space import Space
from qvl_run.spec.load import load_job
from tests.qvl_run.plan.fakes import Formula, needing

JOB = """
version: 1
name: demo
model: {name: qvl-tiny}
storage: {%s: %s, scratch: %s/scratch}
stages:
  sft:
    uses: sft
    data: %s
    eval_data: %s
    evaluation: {data: %s}
"""
HERE = "{format: spatial_scenes}"
HUB = "{format: hub, path: some/set, with: {image: i, question: q, answer: a}}"


@pytest.mark.parametrize("place", [0, 1, 2])
@pytest.mark.parametrize(
    ("kind", "hub", "whole"), [("drive", HUB, False), ("drive", HERE, True), ("bucket", HUB, True)]
)
def test_data_sets_that_are_downloaded_to_the_drive_are_not_known(
    job_file: Callable[..., Path],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    place: int,
    kind: str,
    hub: str,
    whole: bool,
) -> None:
    needing(monkeypatch, Formula())
    data = [HERE] * 3
    data[place] = hub
    url = {"drive": f"{tmp_path}/drive", "bucket": f'"file://{tmp_path}/run"'}
    space = space_of(job_file(JOB % (kind, url[kind], tmp_path, *data)))
    assert space.whole == whole
    assert space.results > 0


def test_a_data_set_that_lies_here_already_takes_nothing(
    job_file: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    needing(monkeypatch, Formula())
    (tmp_path / "set").mkdir()
    mine = HUB.replace("some/set", "./set")
    assert space_of(
        job_file(JOB % ("drive", f"{tmp_path}/drive", tmp_path, mine, HERE, HERE))
    ).whole


def space_of(path: Path) -> Space:
    return make_plan(load_job(path), PROFILES["t4"]).space
