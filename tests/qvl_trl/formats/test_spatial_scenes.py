from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from qvl_run.contract import Kind
from qvl_run.settings import DataSettings
from qvl_trl.formats.spatial_scenes import data_format


def scenes(**options: Any) -> DataSettings:
    return DataSettings(format="spatial_scenes", options={"size": 4, **options})


@pytest.mark.parametrize("kind", ["sft", "preference", "prompt"])
def test_rows_of_every_kind(kind: Kind, tmp_path: Path) -> None:
    rows = data_format.examples(scenes(), kind=kind, cache=tmp_path)
    assert len(rows) == 4
    for row in rows:
        texts = (row.chosen, row.rejected) if kind == "preference" else (row.answer,)
        assert all(texts)
        assert all(isinstance(image, Path) and image.is_file() for image in row.images)


def test_options_choose_the_rows(tmp_path: Path) -> None:
    def questions(**options: Any) -> list[tuple[str, str | None]]:
        rows = data_format.examples(scenes(**options), kind="sft", cache=tmp_path)
        return [(row.question, row.answer) for row in rows]

    base = questions()
    assert questions() == base
    for changed in ({"seed": 1}, {"split": "test"}, {"task": "describe"}, {"size": 5}):
        assert questions(**changed) != base
    assert questions() == base


def test_max_samples(tmp_path: Path) -> None:
    data = DataSettings(format="spatial_scenes", options={"size": 4}, max_samples=3)
    assert len(data_format.examples(data, kind="sft", cache=tmp_path)) == 3


def test_the_fingerprint_follows_the_options() -> None:
    base = data_format.fingerprint(scenes(), kind="sft")
    assert data_format.fingerprint(scenes(seed=0), kind="sft") == base
    assert data_format.fingerprint(scenes(seed=1), kind="sft") != base
    assert data_format.fingerprint(scenes(), kind="prompt") != base


def test_rows_are_counted_without_being_drawn() -> None:
    def count(**more: Any) -> int | None:
        return data_format.count(DataSettings(format="spatial_scenes", **more))

    assert count() == 256
    assert count(options={"size": 9}) == 9
    assert count(options={"size": 9}, max_samples=4) == 4
