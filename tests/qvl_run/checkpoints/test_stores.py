"""What every store must do, whatever it is made of.

A store from elsewhere is held to the same: subclass `Conformance` in a test of its own, with a fixture `opened` that
opens one and the same root anew each time it is called.
"""

from __future__ import annotations

import errno
import io
import threading
import uuid
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import fsspec
import pytest

from qvl_run import plugins
from qvl_run.checkpoints import manifest as manifests
from qvl_run.checkpoints import schemes
from qvl_run.checkpoints.bucket import BucketStore
from qvl_run.checkpoints.folder import FolderStore
from qvl_run.checkpoints.manifest import NAME, Broken
from qvl_run.checkpoints.schemes import BucketScheme
from qvl_run.checkpoints.store import Held, Store, held
from qvl_run.checkpoints.transfer import fetch, put
from qvl_run.disk import Disk
from tests.qvl_run.checkpoints.test_manifest import checkpoint

Opened = Callable[[], Store]
MOST = 16 * 1024 * 1024
"""Bytes that one chunk may have."""


class Conformance:
    """Subclasses bring the fixture `opened`."""

    @pytest.fixture
    def store(self, opened: Opened) -> Store:
        return opened()

    @pytest.mark.parametrize("size", [0, 1, 1024, 9 * 1024 * 1024 + 1])
    def test_what_is_written_is_read_by_others(self, opened: Opened, size: int) -> None:
        content = bytes(range(256)) * (size // 256) + b"x" * (size % 256)
        parts = [content[at : at + 1_000_003] for at in range(0, size, 1_000_003)]
        opened().write("a/b/file.bin", parts)
        chunks = list(opened().read("a/b/file.bin"))
        assert b"".join(chunks) == content
        assert max(map(len, chunks), default=0) <= MOST
        assert opened().sizes("a") == {"b/file.bin": size}

    def test_a_second_write_replaces_the_first(self, store: Store) -> None:
        for content in (b"a long first one", b"short"):
            store.write("file", [content])
            assert b"".join(store.read("file")) == content
            assert store.sizes("") == {"file": len(content)}

    def test_what_is_not_there_is_absent(self, store: Store) -> None:
        store.write("a/file", [b"x"])
        for folder in ("b", "a/b", "b/c"):
            assert list(store.names(folder)) == []
            assert store.sizes(folder) == {}
            with pytest.raises(FileNotFoundError):
                list(store.read(f"{folder}/file"))

    def test_names_are_those_directly_below_sorted(self, opened: Opened) -> None:
        store = opened()
        for name in ("b/2", "b/1/deep/er", "a", "b/10", "bb/1"):
            store.write(name, [b"x"])
        for one in (store, opened()):
            assert list(one.names("")) == ["a", "b", "bb"]
            assert list(one.names("b")) == ["1", "10", "2"]
            assert one.sizes("b") == {"2": 1, "1/deep/er": 1, "10": 1}

    def test_a_listing_is_never_an_old_one(self, opened: Opened) -> None:
        reader, writer = opened(), opened()
        assert list(reader.names("a")) == []
        writer.write("a/1", [b"x"])
        assert list(reader.names("a")) == ["1"]
        writer.write("a/2", [b"x"])
        assert list(reader.names("a")) == ["1", "2"]
        writer.remove("a", first="1")
        assert list(reader.names("a")) == []
        assert reader.sizes("a") == {}

    def test_a_file_is_no_folder(self, store: Store) -> None:
        store.write("a/file", [b"x"])
        with suppress(NotADirectoryError):
            assert list(store.names("a/file")) == []
        with suppress(OSError):
            assert list(store.read("a")) == []

    def test_removal_takes_one_folder_and_no_other(self, opened: Opened) -> None:
        store = opened()
        for name in ("s/c-1/x", "s/c-1/sub/y", "s/c-1/manifest.json", "s/c-10/x", "s/c-1.k/x"):
            store.write(name, [b"x"])
        store.remove("s/c-1", first="manifest.json")
        for one in (store, opened()):
            assert list(one.names("s")) == ["c-1.k", "c-10"]
            assert one.sizes("s") == {"c-10/x": 1, "c-1.k/x": 1}
        with suppress(FileNotFoundError):
            store.remove("s/c-1", first="manifest.json")

    def test_one_file_is_removed_like_a_folder(self, opened: Opened) -> None:
        store = opened()
        for name in ("s/file", "s/file-2", "s/other/x"):
            store.write(name, [b"x"])
        store.remove("s/file", first="")
        for one in (store, opened()):
            assert list(one.names("s")) == ["file-2", "other"]
        with suppress(FileNotFoundError):
            store.remove("s/file", first="")

    def test_a_name_is_claimed_once(self, opened: Opened) -> None:
        store, other = opened(), opened()
        assert store.claim("s/one")
        assert not store.claim("s/one")
        assert not other.claim("s/one")
        assert other.claim("s/two")
        store.write("s/one/x", [b"x"])
        other.write("s/two/x", [b"x"])
        assert not other.claim("s/one")
        assert not store.claim("s/two")
        assert list(store.names("s")) == ["one", "two"]
        assert store.sizes("s") == {"one/x": 1, "two/x": 1}
        store.remove("s/one", first="x")
        assert other.claim("s/one")

    def test_a_claim_that_was_given_up_leaves_nothing(self, opened: Opened) -> None:
        store = opened()
        assert store.claim("s/one")
        store.remove("s/one", first="x")
        assert list(store.names("s")) == []
        assert opened().claim("s/one")

    def test_of_many_threads_one_claims(self, store: Store) -> None:
        told: list[bool] = []
        start = threading.Barrier(8)

        def claim() -> None:
            start.wait()
            told.append(store.claim("s/one"))

        threads = [threading.Thread(target=claim) for _ in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert sorted(told) == [False] * 7 + [True]

    def test_the_callers_own_exception_ends_a_write(self, store: Store) -> None:
        class EnoughError(Exception):
            pass

        def content() -> Iterator[bytes]:
            yield b"x" * 1000
            raise EnoughError

        with pytest.raises(EnoughError):
            store.write("s/file", content())
        assert store.sizes("s").get("file", 0) <= 1000

    def test_a_reader_may_stop_early(self, store: Store) -> None:
        store.write("file", [b"x" * 10_000_000])
        reader = store.read("file")
        assert next(iter(reader))
        reader.close()  # type: ignore[attr-defined]
        store.write("file", [b"y"])
        assert list(store.read("file")) == [b"y"]

    def test_a_checkpoint_goes_in_and_comes_out(self, opened: Opened, tmp_path: Path) -> None:
        manifest = checkpoint(tmp_path / "work" / "c")
        place = put(tmp_path / "work" / "c", manifest, opened())
        assert place.name == "checkpoints/sft/checkpoint-10"
        (found,) = held(opened(), "sft")
        assert manifests.read(found) == manifest
        manifests.verify(found, manifest)
        folder = fetch(found, manifest, tmp_path / "fetched")
        manifests.verify(Held(FolderStore(folder.parent), folder.name), manifest)

    def test_a_checkpoint_is_never_written_over(self, opened: Opened, tmp_path: Path) -> None:
        places = []
        for turn in range(3):
            folder = tmp_path / "work" / f"c{turn}"
            places.append(put(folder, checkpoint(folder, key="abcdefgh1"), opened()).last)
        assert places == ["checkpoint-10", "checkpoint-10.abcdefgh", "checkpoint-10.abcdefgh-2"]
        for one in held(opened(), "sft"):
            manifests.verify(one, manifests.read(one))

    @pytest.mark.parametrize("damage", ["missing", "empty", "changed"])
    def test_damage_is_found(self, opened: Opened, tmp_path: Path, damage: str) -> None:
        manifest = checkpoint(tmp_path / "work" / "c")
        place = put(tmp_path / "work" / "c", manifest, opened())
        store, name = opened(), f"{place.name}/sub/state.json"
        if damage == "missing":
            store.remove(f"{place.name}/sub", first="")
        else:
            store.write(name, [b"" if damage == "empty" else b'{"step": 11}'])
        with pytest.raises(Broken):
            manifests.verify(Held(opened(), place.name), manifest)

    def test_a_copy_that_was_ended_leaves_no_checkpoint(
        self, opened: Opened, tmp_path: Path
    ) -> None:
        class EnoughError(Exception):
            pass

        def stop(_: int) -> None:
            raise EnoughError

        manifest = checkpoint(tmp_path / "work" / "c")
        store = opened()
        with suppress(EnoughError):  # a store that takes a folder by renaming copies nothing
            put(tmp_path / "work" / "c", manifest, store, wait=stop)
            return
        assert list(held(opened(), "sft")) == []
        assert put(tmp_path / "work" / "c", manifest, opened()).last == "checkpoint-10"

    def test_it_says_what_it_is(self, store: Store) -> None:
        assert store.place
        assert store.finished in ("mirrored", "durable")
        assert store.free() is None or isinstance(store.free(), int)
        path = store.local("")
        assert path is None or path.is_dir()


class OtherDisk(Disk):
    """As if the store lay on another disk, so that nothing is renamed into it."""

    def device(self, path: Path) -> int:
        return 2 if "store" in path.parts else 1


class TestFolder(Conformance):
    @pytest.fixture
    def opened(self, tmp_path: Path) -> Opened:
        (tmp_path / "store").mkdir()
        return lambda: FolderStore(tmp_path / "store")


class TestMountedFolder(Conformance):
    @pytest.fixture
    def opened(self, tmp_path: Path) -> Opened:
        (tmp_path / "store").mkdir()
        return lambda: FolderStore(tmp_path / "store", lasting=False, disk=OtherDisk())


def memory(root: str) -> BucketStore:
    fs = fsspec.filesystem("memory", skip_instance_cache=True)
    return BucketStore(fs, f"/{root}/run", place=f"memory://{root}/run")


@pytest.fixture
def root() -> Iterator[str]:
    """A name in the memory file system, which all tests of a process share."""
    name = f"bucket-{uuid.uuid4().hex}"
    yield name
    with suppress(FileNotFoundError):
        fsspec.filesystem("memory").rm(f"/{name}", recursive=True)


class TestBucketInMemory(Conformance):
    @pytest.fixture
    def opened(self, root: str) -> Opened:
        return lambda: memory(root)


class TestBucketOnDisk(Conformance):
    @pytest.fixture
    def opened(self, tmp_path: Path) -> Opened:
        (tmp_path / "store").mkdir()
        return lambda: plugins.store("file").open(f"file://{tmp_path}/store/run")

    def test_links_are_left_out_and_what_they_lead_to_stays(
        self, opened: Opened, tmp_path: Path
    ) -> None:
        checkpoint(tmp_path / "c")
        store = opened()
        store.write("s/c-1/x", [b"x"])
        folder = tmp_path / "store" / "run" / "s"
        (folder / "c-1" / "link").symlink_to(tmp_path / "c" / NAME)
        (folder / "c-2").symlink_to(tmp_path / "c")
        assert store.sizes("s/c-1") == {"x": 1}
        for name in ("c-1", "c-2"):
            store.remove(f"s/{name}", first="x")
        assert list(store.names("s")) == []
        assert (tmp_path / "c" / NAME).exists()


class NoCredentialsError(Exception):
    """As botocore's: no OSError."""


class HttpError(Exception):
    """As gcsfs's."""

    def __init__(self, code: int) -> None:
        super().__init__(f"HTTP {code}")
        self.code = code


class Failing:
    """A file system that raises `error` from every call."""

    def __init__(self, error: BaseException) -> None:
        self.error = error

    def __getattr__(self, name: str) -> Any:
        def fail(*args: object, **kwargs: object) -> Any:
            raise self.error

        return fail


CALLS: dict[str, Callable[[Store], object]] = {
    "names": lambda store: store.names("a"),
    "sizes": lambda store: store.sizes("a"),
    "read": lambda store: list(store.read("a/x")),
    "write": lambda store: store.write("a/x", [b"x"]),
    "claim": lambda store: store.claim("a"),
    "remove": lambda store: store.remove("a", first="x"),
}
PASSING = [
    ConnectionResetError("reset"), TimeoutError(), RuntimeError("the loop is closed"), HttpError(503),
    OSError("no number"), OSError(errno.ECONNREFUSED, "refused"),
]  # fmt: skip
REFUSALS = [PermissionError("Access Denied"), NoCredentialsError("no credentials"), HttpError(403)]


@pytest.mark.parametrize("call", CALLS)
@pytest.mark.parametrize("error", [*PASSING, *REFUSALS], ids=repr)
def test_every_failure_is_an_os_error_that_says_nothing_of_what_is_there(
    call: str, error: Exception
) -> None:
    store = BucketStore(Failing(error), "b/run", place="s3://b/run", top="b")
    with pytest.raises(OSError, match=type(error).__name__) as caught:
        CALLS[call](store)
    assert not isinstance(caught.value, (FileNotFoundError, PermissionError))
    assert caught.value.errno == (errno.EIO if error in PASSING else errno.EINVAL)
    assert "s3://b/run" in str(caught.value)


@pytest.mark.parametrize("call", ["names", "sizes", "read", "write", "claim"])
def test_a_bucket_that_is_not_there_is_not_empty(call: str) -> None:
    store = BucketStore(Failing(FileNotFoundError("b")), "b/run", place="s3://b/run", top="b")
    with pytest.raises(OSError, match=r"there is no b|cannot be written") as caught:
        CALLS[call](store)
    assert not isinstance(caught.value, FileNotFoundError)


def test_where_listing_the_bucket_is_not_allowed_what_is_absent_is_believed(root: str) -> None:
    fs = fsspec.filesystem("memory", skip_instance_cache=True)
    listing = fs.ls

    def ls(path: str, **options: Any) -> Any:
        if path == "top":
            raise PermissionError("Access Denied")
        return listing(path, **options)

    fs.ls = ls
    store = BucketStore(fs, f"/{root}/run", place="s3://top/run", top="top")
    assert list(store.names("a")) == []


def test_a_claim_without_exclusive_creation_rests_on_the_listing(root: str) -> None:
    fs = fsspec.filesystem("memory", skip_instance_cache=True)
    opening = fs.open

    def open_(path: str, mode: str, **options: Any) -> Any:
        if "x" in mode:
            raise NotImplementedError("File mode not supported")
        return opening(path, mode, **options)

    fs.open = open_
    store = BucketStore(fs, f"/{root}/run", place="x")
    assert store.claim("s/one")
    assert not store.claim("s/one")
    store.write("s/one/x", [b"x"])
    assert not BucketStore(fs, f"/{root}/run", place="x").claim("s/one")


def test_the_claim_of_a_run_that_died_leaves_its_name_unused(root: str, tmp_path: Path) -> None:
    assert memory(root).claim("checkpoints/sft/checkpoint-10")
    place = put(tmp_path / "c", checkpoint(tmp_path / "c"), memory(root))
    assert place.last == "checkpoint-10.kkkkkkkk"
    assert [one.last for one in held(memory(root), "sft")] == [place.last]


def test_an_upload_that_was_begun_is_discarded_not_ended() -> None:
    done: list[str] = []

    class Upload(fsspec.spec.AbstractBufferedFile):  # type: ignore[misc]
        def __init__(self) -> None:
            super().__init__(fsspec.filesystem("memory"), "/nowhere", "wb")

        def _initiate_upload(self) -> None:
            done.append("begun")

        def _upload_chunk(self, final: bool = False) -> bool:
            done.append("final" if final else "part")
            return True

        def discard(self) -> None:
            done.append("discarded")

    class OneFile(Failing):
        def open(self, *args: object, **kwargs: object) -> io.IOBase:
            return Upload()  # type: ignore[no-any-return]

    def content() -> Iterable[bytes]:
        yield b"x" * 20_000_000
        raise KeyboardInterrupt

    store = BucketStore(OneFile(AssertionError()), "b/run", place="s3://b/run")
    with pytest.raises(KeyboardInterrupt):
        store.write("x", content())
    assert done == ["begun", "part", "discarded"]


def test_the_manifest_goes_first(root: str) -> None:
    order: list[str] = []
    fs = fsspec.filesystem("memory", skip_instance_cache=True)
    removing = fs.rm_file

    def rm_file(path: str) -> None:
        order.append(path.rpartition("/")[2])
        removing(path)

    fs.rm_file = rm_file
    store = BucketStore(fs, f"/{root}/run", place="x")
    for name in ("a", NAME, "z"):
        store.write(f"c/{name}", [b"x"])
    store.remove("c", first=NAME)
    assert order == [NAME, "a", "z"]


@pytest.mark.parametrize("url", ["s3://b/run", "gs://b/run"])
def test_what_is_not_installed_is_named(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    scheme = url.partition("://")[0]
    monkeypatch.setattr(schemes, "find_spec", lambda name: None)
    assert list(plugins.store(scheme).missing()) == [
        "fsspec",
        {"s3": "s3fs", "gs": "gcsfs"}[scheme],
    ]


def test_a_file_system_that_cannot_be_imported_is_an_os_error() -> None:
    with pytest.raises(OSError, match="no-such-scheme"):
        BucketScheme(name="no-such-scheme").open("no-such-scheme://b/run")


def test_a_folder_above_that_is_missing_is_not_made(tmp_path: Path) -> None:
    with pytest.raises(OSError, match="there is no folder"):
        plugins.store("file").open(f"file://{tmp_path}/mount/run")
    assert not (tmp_path / "mount").exists()
