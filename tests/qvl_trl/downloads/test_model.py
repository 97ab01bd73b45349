"""A model comes from the hub whole, resumed, and only what is loaded of it."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
from filelock import FileLock

from qvl_run.contract import StageError, StageStopped
from qvl_trl.downloads import cache as caches
from qvl_trl.downloads.explain import explained
from qvl_trl.downloads.model import needed
from tests.hub_server import Hub, etag
from tests.qvl_trl.downloads.conftest import NOT_LOADED, REPO, WEIGHTS, Attempt


def test_what_is_loaded_comes_and_its_bytes_are_told(hub: Hub, repository: Path) -> None:
    attempt = Attempt()
    folder = attempt.run()
    wanted = {path.name for path in repository.iterdir()} - set(NOT_LOADED)
    assert {path.name for path in folder.iterdir()} == wanted
    assert all((folder / n).read_bytes() == (repository / n).read_bytes() for n in wanted)
    total = sum((repository / name).stat().st_size for name in wanted)
    told = [report["bytes"] for report in attempt.reports]
    assert told == sorted(told)
    assert told[0] == 0
    assert len(set(told)) > 10  # not file by file: the weights are one
    assert attempt.reports[-1] == {"bytes": total, "total_bytes": total}
    assert attempt.ctx.sections == ["download"]


def test_the_libraries_find_it(hub: Hub) -> None:
    from huggingface_hub import hf_hub_download, scan_cache_dir

    folder = Attempt().run()
    asked = len(hub.fetched(WEIGHTS))
    assert hf_hub_download(REPO, WEIGHTS) == str(folder / WEIGHTS)
    assert len(hub.fetched(WEIGHTS)) == asked
    scanned = scan_cache_dir(folder.parents[2])
    assert not scanned.warnings
    assert [repo.repo_id for repo in scanned.repos] == [REPO]


def test_a_whole_cache_needs_no_network(hub: Hub) -> None:
    first = Attempt().run()
    hub.requests.clear()
    again = Attempt()
    assert again.run() == first
    assert hub.requests == []
    assert again.reports == []


def test_a_cut_connection_is_resumed_from_the_byte_reached(hub: Hub, repository: Path) -> None:
    hub.faults.cut_after, hub.faults.cuts = 1_000_000, 2
    attempt = Attempt()
    attempt.run()
    first, second, third = hub.fetched(WEIGHTS)
    assert first.first is None
    assert 0 < (second.first or 0) < (third.first or 0)
    size = (repository / WEIGHTS).stat().st_size
    assert sum(r.sent for r in (first, second, third)) < size + 2 * 256 * 1024
    assert attempt.slept == [1, 1]  # bytes came in between


def test_a_server_that_stalls_is_asked_again(hub: Hub, impatient: None) -> None:
    hub.faults.stall_after, hub.faults.stalls = 1_000_000, 1
    Attempt().run()
    assert [bool(r.first) for r in hub.fetched(WEIGHTS)] == [False, True]


def test_a_server_that_stalls_for_good_ends_the_try(hub: Hub, impatient: None) -> None:
    hub.faults.stall_after = 0
    attempt = Attempt()
    with pytest.raises(StageError, match=r"the connection failed \(ReadTimeout") as caught:
        attempt.run()
    assert caught.value.failure == "download"
    assert len(hub.fetched(WEIGHTS)) == 4
    assert len({r["bytes"] for r in attempt.reports}) == len(attempt.reports)  # none without bytes


@pytest.mark.parametrize(("count", "asked"), [(2, 3), (9, 4)])
def test_errors_of_the_server_pass_or_not(hub: Hub, count: int, asked: int) -> None:
    hub.faults.errors = count
    attempt = Attempt()
    if count < 4:
        attempt.run()
    else:
        with pytest.raises(StageError, match="HTTP status 500") as caught:
            attempt.run()
        assert caught.value.failure == "download"
    assert len(hub.fetched(WEIGHTS)) == asked
    assert attempt.slept == [1, 2, 4][: asked - 1]


def test_a_server_without_ranges_sends_it_anew(hub: Hub, repository: Path) -> None:
    hub.faults.cut_after, hub.faults.ignore_range = 1_000_000, True
    attempt = Attempt()
    folder = attempt.run()
    assert (folder / WEIGHTS).read_bytes() == (repository / WEIGHTS).read_bytes()
    assert attempt.reports[-1]["bytes"] == attempt.reports[-1]["total_bytes"]


def test_content_that_is_not_what_the_hub_lists_is_not_kept(hub: Hub) -> None:
    hub.faults.corrupt = 1
    with pytest.raises(StageError, match="did not arrive as the hub lists it") as caught:
        Attempt().run()
    assert caught.value.failure == "download"
    folder = Attempt(earlier=1).run()
    assert caches.is_content(
        folder / WEIGHTS, etag((folder / WEIGHTS).read_bytes()), checked=lambda: None
    )
    assert [r.first for r in hub.fetched(WEIGHTS)] == [None, None]  # nothing of it was resumed


def test_a_killed_download_goes_on_where_it_was(hub: Hub, tmp_path: Path) -> None:
    """A process of its own, stalled and killed, as the watchdog does."""
    hub.faults.stall_after, hub.faults.stalls = 1_000_000, 1
    code = (
        "from qvl_trl.downloads.model import model_folder\n"
        "from qvl_trl.downloads.watch import Watch\n"
        "class Ctx:\n"
        "    def earlier(self, failure): return 0\n"
        "    def progress(self, section, *, metrics): print(section, metrics['bytes'], flush=True)\n"
        f"model_folder('{REPO}', revision=None, watch=Watch(Ctx(), clock=iter(range(0, 10**6, 9)).__next__))\n"
    )
    env = {
        "HF_ENDPOINT": hub.url,
        "HF_HUB_CACHE": str(tmp_path / "cache"),
        "HF_HUB_DOWNLOAD_TIMEOUT": "30",
    }
    with subprocess.Popen(
        [sys.executable, "-c", code], env={**os.environ, **env}, stdout=subprocess.PIPE, text=True
    ) as child:
        assert child.stdout
        told = next(line for line in child.stdout if float(line.split()[1]) > 700_000)
        child.send_signal(signal.SIGKILL)
        after = child.stdout.read()  # no more was told than had come
    assert told.startswith("download ")
    assert all(float(line.split()[1]) <= 1_010_000 for line in after.splitlines())
    attempt = Attempt(earlier=1)
    attempt.run()
    assert (hub.fetched(WEIGHTS)[-1].first or 0) >= 700_000
    assert attempt.reports[0]["bytes"] >= 700_000  # what is here counts from the start


def test_a_stop_is_obeyed_and_loses_nothing(hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    attempt = Attempt()
    progress = attempt.ctx.progress

    def stop(*args: object, **values: object) -> None:
        progress(*args, **values)  # type: ignore[arg-type]
        if attempt.reports[-1]["bytes"] > 1_000_000:
            raise StageStopped

    monkeypatch.setattr(attempt.ctx, "progress", stop)
    with pytest.raises(StageStopped):
        attempt.run()
    Attempt().run()
    assert (hub.fetched(WEIGHTS)[-1].first or 0) > 700_000


@pytest.mark.parametrize(
    ("status", "words"),
    [
        (404, r"the hub knows no such name.*check the spelling.*set HF_TOKEN"),
        (403, r"access was refused: accept its terms at https://huggingface.co/owner/tiny"),
        (401, r"did not accept the token, or shows that name to few"),
        (503, r"the hub answered with HTTP status 503"),
    ],
)
def test_a_refusal_is_explained(
    hub: Hub, status: int, words: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_TOKEN", "hf_secret")
    hub.faults.refuse = status
    with pytest.raises(StageError, match=f"(?s){words}") as caught:
        Attempt().run()
    assert caught.value.failure == ("download" if status == 503 else "config")
    assert hub.requests[0].authorization == "Bearer hf_secret"
    assert "hf_secret" not in str(caught.value)


@pytest.mark.parametrize("name", ["./no/such/folder", "a b"])
def test_a_name_that_is_none(hub: Hub, name: str) -> None:
    with pytest.raises(StageError, match="neither a folder here nor a name on the hub") as caught:
        Attempt(repo=name).run()
    assert caught.value.failure == "config"
    assert hub.requests == []


def test_revisions(hub: Hub) -> None:
    commit = hub.commit(f"models/{REPO}")
    assert Attempt(revision=commit).run().name == commit
    with pytest.raises(StageError, match="it has no revision v9") as caught:
        Attempt(revision="v9").run()
    assert caught.value.failure == "config"


def test_too_little_room_is_told_before_it_begins(hub: Hub, tmp_path: Path) -> None:
    with pytest.raises(StageError) as caught:
        Attempt(free=lambda _: 64 * 1024 * 1024).run()
    assert caught.value.failure == "disk"
    assert "needs 3.6 MiB more" in str(caught.value)
    assert f"in {tmp_path / 'cache'}, which has 64.0 MiB left" in str(caught.value)
    assert "set HF_HOME or storage.drive" in str(caught.value)
    assert hub.fetched(WEIGHTS) == []


def test_no_weights_but_pickles(hub: Hub, tmp_path: Path) -> None:
    (tmp_path / "old").mkdir()
    (tmp_path / "old" / "pytorch_model.bin").write_bytes(b"x")
    hub.repos = {f"models/{REPO}": tmp_path / "old"}
    with pytest.raises(StageError, match="pickles are never loaded") as caught:
        Attempt().run()
    assert caught.value.failure == "config"


def test_another_process_at_the_same_file_is_not_waited_for(hub: Hub, repository: Path) -> None:
    tag = etag((repository / WEIGHTS).read_bytes())
    lock = Path(Attempt().run()).parents[2] / ".locks" / "models--owner--other" / f"{tag}.lock"
    lock.parent.mkdir()
    theirs = lock.parents[2] / "models--owner--other" / "blobs" / f"{tag}.incomplete"
    theirs.parent.mkdir(parents=True)
    theirs.write_bytes(b"half")
    with FileLock(lock):
        folder = Attempt(repo="owner/other", earlier=2).run()
    assert (folder / WEIGHTS).read_bytes() == (repository / WEIGHTS).read_bytes()
    assert theirs.read_bytes() == b"half"


def test_the_last_try_tells_what_is_known(hub: Hub) -> None:
    hub.faults.errors = 99
    with pytest.raises(StageError) as caught:
        Attempt(earlier=2).run()
    told = str(caught.value)
    assert "It failed 3 times in a row; the hub has listed it" in told
    assert "left" in told
    hub.faults.refuse = 503
    with pytest.raises(StageError, match="never listed it: check its name, your access") as caught:
        Attempt(repo="owner/other", earlier=2).run()
    assert caught.value.failure == "download"


@pytest.mark.parametrize(
    ("error", "failure", "words"),
    [
        (OSError(28, "No space left on device"), "disk", "is full: free some space there"),
        (OSError("Not enough disk space. Needed: 1 GB"), "disk", "is full"),
        (OSError(107, "Transport endpoint is not connected"), "download", "mount it again"),
        (
            PermissionError(13, "Permission denied", "/root/x"),
            "config",
            "/root/x cannot be written",
        ),
        (ConnectionResetError(104, "Connection reset by peer"), "download", "reset by peer"),
    ],
)
def test_errors_of_the_system(error: OSError, failure: str, words: str, tmp_path: Path) -> None:
    told = explained(error, REPO, kind="model", revision=None, folder=tmp_path)
    assert told is not None
    assert told.failure == failure
    assert words in str(told)


def test_what_is_no_downloads_failure_is_not_explained(tmp_path: Path) -> None:
    for error in (ValueError("Unknown split"), FileNotFoundError("no such file"), StageStopped()):
        assert explained(error, REPO, kind="data set", revision=None, folder=tmp_path) is None


def test_shards_are_weights_and_a_variant_is_not() -> None:
    def entry(name: str) -> SimpleNamespace:
        return SimpleNamespace(rfilename=name, size=1, blob_id="0" * 40, lfs=None)

    names = [
        "model-00001-of-00002.safetensors",
        "model-00002-of-00002.safetensors",
        "model.safetensors.index.json",
        "model.fp32-00001-of-00001.safetensors",
        "original/model.safetensors",
        "additional_chat_templates/tools.jinja",
        "config.json",
    ]
    chosen = {file.name for file in needed(REPO, [entry(name) for name in names])}
    assert set(names) - chosen == {names[3], names[4]}
