import os
import shutil
from pathlib import Path

import pytest

from qvl_run.checkpoints.pick import pick
from tests.qvl_run.checkpoints.test_manifest import checkpoint

KEY = "k" * 64


def folders(parent: Path) -> list[Path]:
    return sorted(parent.iterdir())


def test_the_highest_step_wins_whatever_the_clock_or_the_order_of_names_says(
    tmp_path: Path,
) -> None:
    for step in (1000, 90, 200):
        checkpoint(tmp_path / f"checkpoint-{step}", step=step)
    os.utime(tmp_path / "checkpoint-90", (2e9, 2e9))
    found = pick(folders(tmp_path), key=KEY, stage="sft", kind="checkpoint")
    assert found.folder == tmp_path / "checkpoint-1000"


def test_what_is_broken_is_passed_over_by_name(tmp_path: Path) -> None:
    for step in (100, 200, 300):
        checkpoint(tmp_path / f"checkpoint-{step}", step=step)
    (tmp_path / "checkpoint-300" / "optimizer.pt").write_bytes(b"cut")
    (tmp_path / "checkpoint-200" / "manifest.json").unlink()
    found = pick(folders(tmp_path), key=KEY, stage="sft", kind="checkpoint")
    assert found.folder == tmp_path / "checkpoint-100"
    assert {r.folder.name: r.broken for r in found.rejected} == {
        "checkpoint-200": True,
        "checkpoint-300": True,
    }
    assert "optimizer.pt has 3 of 1600 bytes" in {r.reason for r in found.rejected}


def test_other_settings_do_not_fit_and_are_not_called_broken(tmp_path: Path) -> None:
    checkpoint(tmp_path / "checkpoint-300", step=300, key="other")
    checkpoint(tmp_path / "checkpoint-100", step=100)
    found = pick(folders(tmp_path), key=KEY, stage="sft", kind="checkpoint")
    assert found.folder == tmp_path / "checkpoint-100"
    assert [r.broken for r in found.rejected] == [False]


@pytest.mark.parametrize("name", ["checkpoint-400", "checkpoint-4000", "final"])
def test_a_copied_folder_is_refused_for_its_name(tmp_path: Path, name: str) -> None:
    checkpoint(tmp_path / "checkpoint-40", step=40)
    shutil.copytree(tmp_path / "checkpoint-40", tmp_path / name)
    found = pick(folders(tmp_path), key=KEY, stage="sft", kind="checkpoint")
    assert found.folder == tmp_path / "checkpoint-40"
    output = pick(folders(tmp_path), key=KEY, stage="sft", kind="output")
    assert output.folder is None


def test_a_checkpoint_of_another_stage_is_refused(tmp_path: Path) -> None:
    checkpoint(tmp_path / "checkpoint-40", step=40)
    assert pick(folders(tmp_path), key=KEY, stage="dpo", kind="checkpoint").folder is None


def test_only_the_highest_that_verifies_is_hashed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for step in range(1, 21):
        checkpoint(tmp_path / f"checkpoint-{step}", step=step)
    hashed: list[Path] = []
    from qvl_run import files

    real = files.sha256
    monkeypatch.setattr(files, "sha256", lambda path: hashed.append(path) or real(path))
    pick(folders(tmp_path), key=KEY, stage="sft", kind="checkpoint")
    assert {path.parents[len(path.parts) - len(tmp_path.parts) - 2].name for path in hashed} == {
        "checkpoint-20"
    }
