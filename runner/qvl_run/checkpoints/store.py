"""Where checkpoints outlive the machine: named files behind a Protocol of a few methods.

A plain path is a `FolderStore`; for `scheme://...` the entry-point group `qvl.stores` has one called `scheme`. What it
must promise is little, since everything read from it is verified: a file that was written may
be missing, empty, cut short or late. What it must not do is show one file's bytes under another's name.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, Protocol

from qvl_run.disk import sha256

Level = Literal["written", "mirrored", "durable"]
"""How far a checkpoint has come: on this machine's disk alone; in the store, read back and equal; sure to outlive the
machine."""


class Store(Protocol):
    """Named files below a root. Names use forward slashes. Methods raise OSError where the store cannot be reached:
    that says nothing about what it holds."""

    place: str
    """The root, for people."""
    finished: Level
    """What a write that was read back means here: "durable", or "mirrored" where an upload follows that nobody can
    wait for."""

    def names(self, folder: str) -> Sequence[str]:
        """Names of files and folders directly in `folder`, sorted; empty where there surely is none."""

    def sizes(self, folder: str) -> dict[str, int]:
        """Every regular file below `folder`, by its name relative to it: bytes. Links are left out; empty where there
        surely is no such folder."""

    def read(self, name: str) -> Iterator[bytes]:
        """The content, in chunks of a few MiB. Raises FileNotFoundError where there surely is none."""

    def write(self, name: str, chunks: Iterable[bytes]) -> None:
        """Write a file, replacing what is there."""

    def claim(self, folder: str) -> bool:
        """Make `folder` if nobody has: False where it is taken. Two callers are never both told True where the store
        can tell them apart."""

    def remove(self, folder: str, *, first: str) -> None:
        """Remove `folder` with all its files, the one called `first` before the rest; or the one file of that name."""

    def free(self) -> int | None:
        """Bytes that still fit, None where that cannot be known."""

    def local(self, folder: str) -> Path | None:
        """`folder` as a folder that a model can be loaded from as it is, fast and safely; None: fetch it."""

    def take(self, folder: Path, name: str) -> bool:
        """Take a whole local folder under `name` at once, by renaming it; False where that cannot be done."""


@dataclass(frozen=True)
class Held:
    """A folder in a store."""

    store: Store
    name: str

    def __str__(self) -> str:
        return f"{self.store.place.rstrip('/')}/{self.name}"

    @property
    def last(self) -> str:
        """Its own name, without the folders above."""
        return self.name.rpartition("/")[2]

    @property
    def path(self) -> Path | None:
        """See `Store.local`."""
        return self.store.local(self.name)

    def read(self, file: str) -> Iterator[bytes]:
        """The content of one of its files."""
        return self.store.read(f"{self.name}/{file}")

    def sizes(self) -> dict[str, int]:
        """Its files, in bytes."""
        return self.store.sizes(self.name)

    def sha256(self, file: str) -> str:
        """Hex digest of one of its files."""
        return sha256(self.read(file))


def stage_folder(stage: str) -> str:
    """Where everything of `stage` lies in a store: the guide's layout."""
    return f"checkpoints/{stage}"


def held(store: Store, stage: str) -> Iterator[Held]:
    """Every checkpoint and output of `stage`, whole or not. Raises OSError where the store cannot tell."""
    for name in store.names(stage_folder(stage)):
        if name.startswith(("checkpoint-", "final")):
            yield Held(store, f"{stage_folder(stage)}/{name}")


Wait = Callable[[int], None]
"""Called after each chunk with its bytes: slows a copy down, or ends it by raising."""


def chunks_of(content: Iterable[bytes], wait: Wait) -> Iterator[bytes]:
    """`content`, telling `wait` of every chunk that was passed on."""
    for chunk in content:
        yield chunk
        wait(len(chunk))
