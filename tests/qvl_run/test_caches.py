"""Where downloads go is where `huggingface_hub` itself would have them."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from qvl_run.caches import hub_cache, variables

ASK = "from huggingface_hub import constants; print(constants.HF_HUB_CACHE)"


@pytest.mark.parametrize(
    "set_to",
    [
        {},
        {"XDG_CACHE_HOME": "/x"},
        {"HF_HOME": "~/hf"},
        {"HUGGINGFACE_HUB_CACHE": "/old"},
        {"HF_HUB_CACHE": "$HOME/new", "HUGGINGFACE_HUB_CACHE": "/old"},
    ],
)
def test_the_hubs_cache_is_where_its_library_looks(
    set_to: dict[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("HF_HUB_CACHE", "HUGGINGFACE_HUB_CACHE", "HF_HOME", "XDG_CACHE_HOME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    for name, value in set_to.items():
        monkeypatch.setenv(name, value)
    asked = subprocess.run(
        [sys.executable, "-c", ASK],
        capture_output=True,
        text=True,
        check=True,
        env=dict(os.environ),
    )
    assert str(hub_cache(None)) == asked.stdout.strip()


def test_a_users_own_cache_stays_where_it_is(tmp_path: Path) -> None:
    assert variables(tmp_path, {})["HF_HUB_CACHE"] == str(tmp_path / "hf_cache")
    for name in ("HF_HOME", "HF_HUB_CACHE", "HUGGINGFACE_HUB_CACHE", "HF_DATASETS_CACHE"):
        assert variables(tmp_path, {name: "/mine"}) == {}
