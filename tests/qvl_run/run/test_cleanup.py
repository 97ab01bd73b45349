from pathlib import Path

import pytest

from qvl_run.run.cleanup import leftovers, tidy_attempts, tidy_fetched
from tests.qvl_run.checkpoints.test_manifest import check, checkpoint

LEFT = [
    "checkpoints/checkpoint-10/manifest.json",
    "checkpoints/checkpoint-10/sub/state.json",
    "checkpoints/checkpoint-20/optimizer.pt",
    "checkpoints/checkpoint-20/sub/state.json",
    "checkpoints/README.md",
    "final/model.safetensors",
    "rollouts/empty/",
    "notes.txt",
]


def test_what_has_no_manifest_goes_and_nothing_around_one_that_has() -> None:
    assert leftovers(LEFT) == ["checkpoints/checkpoint-20", "final", "rollouts"]
    assert leftovers(["a/b/c/x", "a/b/d/manifest.json"]) == ["a/b/c"]
    assert leftovers(["manifest.json", "a/b/x"]) == []
    assert leftovers(["a/.manifest.json"]) == ["a"]
    assert leftovers([]) == []


def test_what_something_is_about_to_load_from_stays() -> None:
    assert leftovers(LEFT, keep=["checkpoints/checkpoint-20"]) == ["final", "rollouts"]
    assert leftovers(LEFT, keep=["final", "rollouts/empty"]) == ["checkpoints/checkpoint-20"]
    assert leftovers(LEFT, keep=[""]) == []


@pytest.fixture
def parent(tmp_path: Path) -> Path:
    for name in ("attempt-0002", "attempt-9999", "attempt-10000"):
        folder = tmp_path / name
        checkpoint(folder / "work" / "checkpoints" / "checkpoint-10")
        for torn in ("checkpoints/checkpoint-20", "final"):
            (folder / "work" / torn).mkdir(parents=True)
            (folder / "work" / torn / "model").write_bytes(b"half")
        for file in ("log.txt", "error.json", "records.json", "attempt.json", "report.txt"):
            (folder / file).write_text(name)
    return tmp_path


def torn(parent: Path) -> list[str]:
    found = [*parent.glob("*/work/final"), *parent.glob("*/work/checkpoints/checkpoint-20")]
    return sorted({path.relative_to(parent).parts[0] for path in found})


def test_attempts_that_are_over_keep_what_is_whole_and_what_they_said(parent: Path) -> None:
    tidy_attempts(parent)
    assert torn(parent) == ["attempt-10000"], "the newest by number"
    for folder in parent.iterdir():
        check(folder / "work" / "checkpoints" / "checkpoint-10")
        assert len([path for path in folder.iterdir() if path.is_file()]) == 5
    tidy_attempts(parent)


def test_the_attempt_that_runs_and_what_is_loaded_stay(parent: Path) -> None:
    keep = parent / "attempt-9999" / "work" / "final"
    tidy_attempts(parent, keep_running="attempt-0002", keep=[keep, Path("/elsewhere")])
    assert torn(parent) == ["attempt-0002", "attempt-10000", "attempt-9999"]
    assert not (parent / "attempt-9999" / "work" / "checkpoints" / "checkpoint-20").exists()
    assert keep.is_dir()
    tidy_attempts(parent / "none")


def test_links_are_not_followed(parent: Path, tmp_path: Path) -> None:
    theirs = tmp_path / "theirs"
    theirs.mkdir()
    (theirs / "precious").write_bytes(b"x")
    (parent / "attempt-0002" / "work" / "final" / "link").symlink_to(theirs)
    tidy_attempts(parent)
    assert torn(parent) == ["attempt-10000"]
    assert (theirs / "precious").read_bytes() == b"x"


def test_fetched_copies_that_nothing_wants_go(tmp_path: Path) -> None:
    fetched = tmp_path / "fetched"
    tidy_fetched(fetched)
    for name in ("checkpoint", "input"):
        checkpoint(fetched / name)
    tidy_fetched(fetched, wanted=["input"])
    assert [path.name for path in fetched.iterdir()] == ["input"]
    check(fetched / "input")
