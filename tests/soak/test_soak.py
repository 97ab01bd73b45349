"""The soak for two minutes: real stages and counting ones under faults that fixed seeds draw, side by side."""

from __future__ import annotations

import dataclasses
import os
import re
import tempfile
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from qvl_run.faults import POINTS
from tests.soak.check import explained
from tests.soak.jobs import JOBS
from tests.soak.plan import KINDS, Kind, draw
from tests.soak.round import Different, Places, soak, undisturbed

TINY, COUNT = dataclasses.replace(JOBS["tiny"], starts=4), JOBS["count"]
TINY_SEEDS, COUNT_SEEDS = (11,), (2, 4, 6)
LEAST = 35
"""Faults that must really have been done. About twice as many are: on a fast machine a run is sooner at its end."""


@pytest.fixture
def places(tmp_path: Path) -> Iterator[Places]:
    """On two file systems, where there are two."""
    shm = Path("/dev/shm")
    with tempfile.TemporaryDirectory(dir=shm if os.access(shm, os.W_OK) else None) as drive:
        yield Places(disk=tmp_path, drive=Path(drive))


def test_runs_under_faults_end_as_undisturbed_ones_do(places: Places) -> None:
    with ThreadPoolExecutor(2) as pool:
        tiny = pool.submit(undisturbed, TINY, places)
        trained = [pool.submit(soak, TINY, places, seed, tiny.result) for seed in TINY_SEEDS]
        count = pool.submit(undisturbed, COUNT, places)
        rounds = [pool.submit(soak, COUNT, places, seed, count.result) for seed in COUNT_SEEDS]
        done = [one.result() for one in (*trained, *rounds)]
    survived = Counter[Kind]()
    for one in done:
        print(one)
        survived += one.survived
    assert survived.total() >= LEAST, survived
    assert set(survived) == set(KINDS), f"never done: {set(KINDS) - set(survived)}"
    assert done[0].survived, "nothing was done to the real stages"


def test_a_run_that_comes_to_something_else_is_noticed_and_kept(places: Places) -> None:
    job = dataclasses.replace(COUNT, text=re.sub(r"to: \d+", "to: 3", COUNT.text), starts=0)
    right = undisturbed(job, places)
    wrong = {**right, "third": {"another"}}
    with pytest.raises(
        Different, match=r"other results in \['third'\](.|\n)*--job count --seed 7 "
    ):
        soak(job, places, 7, lambda: wrong)
    assert (places.drive / "count-7" / "qvl" / "checkpoints" / "third" / "final").is_dir()


def test_a_seed_draws_the_same_faults_and_another_seed_others() -> None:
    assert draw(1, starts=14, beats=100) == draw(1, starts=14, beats=100)
    assert draw(1, starts=14, beats=100) != draw(2, starts=14, beats=100)


def test_every_kind_and_every_crash_point_is_drawn() -> None:
    drawn = [start for seed in range(6) for start in draw(seed, starts=14, beats=100)]
    kinds = {fault.kind for start in drawn for fault in start.faults}
    assert kinds == set(KINDS) - {"crash point"}
    assert {start.crash_at.partition("@")[0] for start in drawn} == {"", *POINTS}


def test_an_exit_code_that_nothing_explains_is_no_fault_survived() -> None:
    assert explained(0, [])
    assert explained(75, ["child frozen", "qvl-run stop"])
    assert not explained(75, ["child frozen"])
    assert not explained(-9, ["qvl-run stop"])
    assert not explained(1, KINDS)
