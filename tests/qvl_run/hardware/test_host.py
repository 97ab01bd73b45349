import threading
from collections import namedtuple
from pathlib import Path
from types import SimpleNamespace

import psutil
import pytest

from qvl_run import hardware, mounts
from qvl_run.hardware import driver, host, libraries

Usage = namedtuple("Usage", "total used free")


@pytest.fixture
def no_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(driver, "look", driver.Seen)


def test_this_machine_is_told_with_the_space_where_files_would_lie(
    no_gpu: None, tmp_path: Path
) -> None:
    found = hardware.probe(scratch=tmp_path / "not" / "there", storage=tmp_path)
    assert found.gpu is None
    assert found.assumed is None
    assert found.ram_available is not None
    assert 0 < found.ram_available <= found.ram
    assert found.disk is not None
    assert found.disk.free
    assert found.storage is not None
    assert found.storage.folder == tmp_path
    assert found.libraries["torch"].startswith("2.")
    assert not (tmp_path / "not").exists()


def test_what_is_not_asked_for_is_not_known(no_gpu: None) -> None:
    found = hardware.probe()
    assert (found.disk, found.storage) == (None, None)


def test_a_mount_that_hangs_raises_or_reports_nothing_has_no_known_space(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    answer = threading.Event()

    def dead(_: object) -> Usage:
        raise OSError(107, "Transport endpoint is not connected")

    def silent(_: object) -> Usage:
        return Usage(0, 0, 0)

    def hanging(_: object) -> Usage:
        answer.wait()
        return Usage(2, 1, 1)

    try:
        for usage in (dead, silent, hanging):
            monkeypatch.setattr(host.shutil, "disk_usage", usage)
            assert host.free(tmp_path, patience=0.01) is None
    finally:
        answer.set()


def test_google_drive_is_found_by_its_type_in_the_table_of_mounts(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    table = [
        SimpleNamespace(mountpoint="/", fstype="overlay"),
        SimpleNamespace(mountpoint="/mnt/x", fstype="fuse.sshfs"),
        SimpleNamespace(mountpoint="/content/drive", fstype="fuse.drive"),
    ]
    monkeypatch.setattr(psutil, "disk_partitions", lambda all: table)
    assert mounts.google_drive() == Path("/content/drive")
    table.pop()
    assert mounts.google_drive() is None


def test_a_library_is_told_by_its_metadata_and_left_out_where_there_is_none(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, text in (("here", "Name: here\nVersion: 1.2\n"), ("cut", "")):
        (tmp_path / f"{name}-1.2.dist-info").mkdir()
        (tmp_path / f"{name}-1.2.dist-info" / "METADATA").write_text(text)
    monkeypatch.syspath_prepend(str(tmp_path))
    assert libraries.installed(("here", "cut", "absent-of-course")) == {"here": "1.2"}


def test_every_tier_of_the_schema_has_a_profile() -> None:
    from qvl_run.spec.schema import job_schema

    tiers = job_schema()["properties"]["hardware"]["properties"]["tier"]["enum"]
    assert set(tiers) == set(hardware.PROFILES)
    assert set(hardware.GONE) <= set(hardware.PROFILES)
    for tier, machine in hardware.PROFILES.items():
        assert (machine.gpu is None, machine.gpus) == ((True, 0) if tier == "cpu" else (False, 1))
        assert (machine.assumed, machine.disk, machine.storage) == (tier, None, None)


@pytest.mark.parametrize(
    ("word", "hint"),
    [
        ("L4", 'did you mean "l4" or "l40s"?'),
        ("H100", 'did you mean "h100"?'),
        ("G4", 'did you mean "g4"?'),
        ("a100", 'did you mean "a100-40gb" or "a100-80gb"?'),
        ("A100", 'did you mean "a100-40gb" or "a100-80gb"?'),
        ("a10", 'did you mean "a100-40gb" or "a100-80gb" or "a10g"?'),
        ("4090", 'did you mean "rtx4090"?'),
        ("RTX 3060", 'did you mean "rtx3060-12gb"?'),
        *((word, "known: cpu, t4, v100, l4, ") for word in ("p100", "gpu", "t5", "", "g")),
    ],
)
def test_a_card_is_not_taken_for_another_that_is_written_alike(word: str, hint: str) -> None:
    assert hardware.meant(word).startswith(hint)


def test_a_tier_is_known_in_whatever_case() -> None:
    assert (hardware.named("H100"), hardware.named("RTX4090")) == ("h100", "rtx4090")
    assert (hardware.named("a100"), hardware.named("")) == (None, None)
