import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from qvl_run.checkpoints.folder import FolderStore
from qvl_run.checkpoints.pick import Entry, Pick, entry_of, pick, step_of
from qvl_run.checkpoints.store import Held
from qvl_run.disk import Disk
from tests.qvl_run.checkpoints.test_manifest import checkpoint

KEY = "k" * 64


def entries(parent: Path, *, stage: str = "sft", disk: Disk | None = None) -> list[Entry]:
    store = FolderStore(parent, disk=disk or Disk())
    return [entry_of(Held(store, name), stage=stage) for name in store.names("")]


def best(parent: Path, *, stage: str = "sft") -> Pick:
    return pick(entries(parent, stage=stage), key=KEY, kind="checkpoint")


def name(found: Pick) -> str | None:
    return found.held.last if found.held else None


def test_the_highest_step_wins_whatever_the_clock_or_the_order_of_names_says(
    tmp_path: Path,
) -> None:
    for step in (1000, 90, 200):
        checkpoint(tmp_path / f"checkpoint-{step}", step=step)
    os.utime(tmp_path / "checkpoint-90", (2e9, 2e9))
    os.utime(tmp_path / "checkpoint-1000", (1, 1))
    assert name(best(tmp_path)) == "checkpoint-1000"


def test_what_is_broken_is_passed_over_by_name(tmp_path: Path) -> None:
    for step in (100, 200, 300, 400):
        checkpoint(tmp_path / f"checkpoint-{step}", step=step)
    (tmp_path / "checkpoint-400" / "adapter.safetensors").write_bytes(b"weights," * 100)
    (tmp_path / "checkpoint-300" / "optimizer.pt").write_bytes(b"cut")
    (tmp_path / "checkpoint-200" / "manifest.json").unlink()
    found = best(tmp_path)
    assert name(found) == "checkpoint-100"
    assert {r.held.last: r.broken for r in found.rejected} == {
        "checkpoint-200": True,
        "checkpoint-300": True,
        "checkpoint-400": True,
    }
    reasons = " ".join(r.reason for r in found.rejected)
    assert "optimizer.pt has 3 of 1600 bytes" in reasons
    assert "adapter.safetensors has other content" in reasons
    assert "has no manifest" in reasons


def test_other_settings_do_not_fit_and_are_not_called_broken(tmp_path: Path) -> None:
    checkpoint(tmp_path / "checkpoint-300", step=300, key="other")
    checkpoint(tmp_path / "checkpoint-100", step=100)
    found = best(tmp_path)
    assert name(found) == "checkpoint-100"
    assert [r.broken for r in found.rejected] == [False]


@pytest.mark.parametrize("copy", ["checkpoint-400", "checkpoint-4000", "final"])
def test_a_copied_folder_is_refused_for_its_name(tmp_path: Path, copy: str) -> None:
    checkpoint(tmp_path / "checkpoint-40", step=40)
    shutil.copytree(tmp_path / "checkpoint-40", tmp_path / copy)
    assert name(best(tmp_path)) == "checkpoint-40"
    assert pick(entries(tmp_path), key=KEY, kind="output").held is None


def test_a_checkpoint_of_another_stage_is_refused(tmp_path: Path) -> None:
    checkpoint(tmp_path / "checkpoint-40", step=40)
    assert best(tmp_path, stage="dpo").held is None


def test_a_link_to_a_folder_is_held_to_what_it_says(tmp_path: Path) -> None:
    checkpoint(tmp_path / "checkpoint-40", step=40)
    (tmp_path / "checkpoint-50").symlink_to("checkpoint-40")
    (tmp_path / "checkpoint-60").symlink_to("nowhere")
    found = best(tmp_path)
    assert name(found) == "checkpoint-40"
    assert {r.held.last for r in found.rejected if r.broken} == {"checkpoint-50", "checkpoint-60"}


def test_a_linked_file_or_manifest_is_not_a_whole_one(tmp_path: Path) -> None:
    for step in (40, 50, 60):
        checkpoint(tmp_path / f"checkpoint-{step}", step=step)
    for step, linked in ((60, "optimizer.pt"), (50, "manifest.json")):
        path = tmp_path / f"checkpoint-{step}" / linked
        path.rename(tmp_path / f"{step}-{linked}")
        path.symlink_to(tmp_path / f"{step}-{linked}")
    assert name(best(tmp_path)) == "checkpoint-40"


def test_a_file_that_may_not_be_read_is_named_and_not_fatal(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Closed(Disk):
        def read(self, path: Path) -> Iterator[bytes]:
            if path.parent.name == "checkpoint-60" and path.name == "optimizer.pt":
                raise PermissionError(13, "Permission denied", str(path))
            return super().read(path)

    for step in (50, 60):
        checkpoint(tmp_path / f"checkpoint-{step}", step=step)
    found = pick(entries(tmp_path, disk=Closed()), key=KEY, kind="checkpoint")
    assert name(found) == "checkpoint-50"
    assert "optimizer.pt cannot be read: Permission denied" in found.rejected[0].reason


def test_only_the_highest_that_verifies_is_hashed(tmp_path: Path) -> None:
    read: set[str] = set()

    class Noting(Disk):
        def read(self, path: Path) -> Iterator[bytes]:
            if path.name != "manifest.json":
                read.add(path.relative_to(tmp_path).parts[0])
            return super().read(path)

    for step in range(1, 21):
        checkpoint(tmp_path / f"checkpoint-{step}", step=step)
    pick(entries(tmp_path, disk=Noting()), key=KEY, kind="checkpoint")
    assert read == {"checkpoint-20"}


@pytest.mark.parametrize(
    ("folder", "step"),
    [
        ("checkpoint-7", 7),
        ("checkpoint-7.ab12cd34-2", 7),
        ("checkpoint-", -1),
        ("checkpoint-x", -1),
        ("checkpoint-²", -1),
        ("final", -1),
    ],
)
def test_the_step_of_a_name(folder: str, step: int) -> None:
    assert step_of(folder) == step
