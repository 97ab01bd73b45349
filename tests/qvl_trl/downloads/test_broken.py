"""What is broken in the cache is mended alone; the rest of the cache is left as it is."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from qvl_run.contract import StageError
from tests.hub_server import Hub
from tests.qvl_trl.downloads.conftest import REPO, WEIGHTS, Attempt, stamps


def cut_short(path: Path) -> None:
    """As a lost connection leaves it."""
    with path.open("rb+") as file:
        file.truncate(path.stat().st_size // 2)


def change_a_byte(path: Path) -> None:
    with path.open("rb+") as file:
        file.seek(-1, 2)
        last = file.read(1)
        file.seek(-1, 2)
        file.write(bytes([last[0] ^ 1]))


@pytest.fixture
def no_links(monkeypatch: pytest.MonkeyPatch) -> None:
    """A drive through FUSE."""

    def refuse(*_: object, **__: object) -> None:
        raise OSError(95, "Operation not supported")

    monkeypatch.setattr(Path, "symlink_to", refuse)


@pytest.mark.parametrize("name", [WEIGHTS, "tokenizer.json"])
@pytest.mark.parametrize("breaking", [cut_short, lambda path: path.write_bytes(b"")])
def test_a_file_cut_short_is_fetched_again_alone(
    hub: Hub, name: str, breaking: Callable[[Path], None]
) -> None:
    folder = Attempt().run()
    before = stamps(folder.parents[1])
    whole = (folder / name).read_bytes()
    breaking((folder / name).resolve())
    hub.requests.clear()
    Attempt().run()
    assert [r.path.rpartition("/")[2] for r in hub.requests] == [name]
    assert (folder / name).read_bytes() == whole
    after = stamps(folder.parents[1])
    changed = {path for path in before | after if before.get(path) != after.get(path)}
    assert changed == {
        f"snapshots/{folder.name}/{name}",
        f"blobs/{(folder / name).readlink().name}",
    }


def test_the_same_where_the_file_system_knows_no_links(hub: Hub, no_links: None) -> None:
    folder = Attempt().run()
    assert not (folder / WEIGHTS).is_symlink()
    assert list((folder.parents[1] / "blobs").iterdir()) == []  # not twice on a small drive
    whole = (folder / WEIGHTS).read_bytes()
    hub.requests.clear()
    Attempt().run()
    assert hub.requests == []
    cut_short(folder / WEIGHTS)
    Attempt().run()
    assert (folder / WEIGHTS).read_bytes() == whole
    change_a_byte(folder / WEIGHTS)
    Attempt(earlier=2).run()
    assert (folder / WEIGHTS).read_bytes() == whole
    assert len(hub.fetched(WEIGHTS)) == len(hub.requests) == 2


def test_from_the_third_try_on_every_byte_is_looked_at(
    hub: Hub, caplog: pytest.LogCaptureFixture
) -> None:
    folder = Attempt().run()
    Attempt(repo="owner/other").run()
    cache = folder.parents[2]
    blobs = folder.parents[1] / "blobs"
    whole = (folder / WEIGHTS).read_bytes()
    change_a_byte((folder / WEIGHTS).resolve())
    for repo in ("tiny", "other"):
        left = cache / f"models--owner--{repo}" / "blobs" / f"{'0' * 64}.1234abcd.incomplete"
        left.write_bytes(b"x" * 2048)
    before = stamps(cache)
    hub.requests.clear()

    Attempt(earlier=1).run()
    assert hub.requests == []  # of the right size: not suspected yet
    assert stamps(cache) == before

    attempt = Attempt(earlier=2)
    attempt.run()
    assert (folder / WEIGHTS).read_bytes() == whole
    assert [r.path.rpartition("/")[2] for r in hub.requests] == [WEIGHTS]
    assert not list(blobs.glob("*.incomplete"))
    after = {path: time for path, time in stamps(cache).items() if ".locks" not in path}
    before = {path: time for path, time in before.items() if ".locks" not in path}
    tiny = "models--owner--tiny"
    assert {path for path in before | after if before.get(path) != after.get(path)} == {
        f"{tiny}/snapshots/{folder.name}/{WEIGHTS}",
        f"{tiny}/blobs/{(folder / WEIGHTS).readlink().name}",
        f"{tiny}/blobs/{'0' * 64}.1234abcd.incomplete",
    }
    assert f"cleared from the cache of {REPO}: {WEIGHTS}: not what its name says" in caplog.text
    assert "2.0 KiB of an unfinished download" in caplog.text
    assert attempt.ctx.sections == ["download"]


@pytest.fixture
def of_another_tool(hub: Hub) -> Path:
    """A cache that `huggingface_hub` filled: no listing of ours."""
    from huggingface_hub import snapshot_download

    folder = Path(snapshot_download(REPO))
    hub.requests.clear()
    return folder


def test_a_cache_that_others_filled(hub: Hub, of_another_tool: Path) -> None:
    assert Attempt().run() == of_another_tool
    assert [r.path for r in hub.requests] == [f"/api/models/{REPO}"]
    hub.requests.clear()
    Attempt().run()
    assert hub.requests == []


@pytest.mark.parametrize("how", ["offline", "unreachable"])
def test_without_a_network_its_files_speak(
    hub: Hub, of_another_tool: Path, how: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    name, value = (
        ("HF_HUB_OFFLINE", True) if how == "offline" else ("ENDPOINT", "http://127.0.0.1:1")
    )
    monkeypatch.setattr(f"huggingface_hub.constants.{name}", value)
    assert Attempt().run() == of_another_tool
    cut_short((of_another_tool / WEIGHTS).resolve())
    with pytest.raises(StageError, match=f"{WEIGHTS} is cut short") as caught:
        Attempt().run()
    assert caught.value.failure == "download"
    assert ("HF_HUB_OFFLINE is set" in str(caught.value)) == (how == "offline")


@pytest.mark.parametrize("name", ["tokenizer.json", "config.json", WEIGHTS])
def test_what_is_missing_offline_is_named(
    hub: Hub, of_another_tool: Path, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    (of_another_tool / name).unlink()
    missing = "vocab.json" if name == "tokenizer.json" else name
    with pytest.raises(StageError, match=f"{missing} is missing"):
        Attempt().run()


def test_nothing_in_the_cache_offline(hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(StageError, match="unset it once to download") as caught:
        Attempt().run()
    assert caught.value.failure == "download"


def test_a_broken_note_is_made_again(hub: Hub) -> None:
    folder = Attempt().run()
    for note in (folder.parents[1] / "qvl-run").iterdir():
        note.write_text("[{")
    hub.requests.clear()
    Attempt().run()
    assert len(hub.requests) == 1


def test_content_of_another_commit_is_used_again(
    hub: Hub, repository: Path, tmp_path: Path
) -> None:
    Attempt().run()
    shutil.copytree(repository, tmp_path / "newer")
    (tmp_path / "newer" / "generation_config.json").write_text("{}")
    hub.repos = {f"models/{REPO}": tmp_path / "newer"}
    hub.requests.clear()
    Attempt(revision=hub.commit(f"models/{REPO}")).run()
    fetched = [r.path.rpartition("/")[2] for r in hub.requests if "/resolve/" in r.path]
    assert fetched == ["generation_config.json"]
