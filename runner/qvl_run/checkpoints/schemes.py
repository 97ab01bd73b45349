"""The URLs that `storage.bucket` takes: one scheme each, found by the entry-point group `qvl.stores`.

fsspec and its file systems are imported when a store is opened, not before. Credentials come from where s3fs and gcsfs
look for them (the environment, their own files, the machine's role), never from the URL.
"""

from __future__ import annotations

import errno
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from qvl_run import mounts
from qvl_run.checkpoints.bucket import BucketStore, failure
from qvl_run.checkpoints.store import Store


@dataclass(frozen=True, kw_only=True)
class BucketScheme:
    """See `qvl_run.contract.StoreScheme`: any file system that fsspec knows as `name`. `needs` are the distributions
    beside fsspec that it takes, importable under the same names."""

    name: str
    needs: tuple[str, ...] = ()

    def missing(self) -> Sequence[str]:
        """See `StoreScheme`."""
        return [one for one in ("fsspec", *self.needs) if find_spec(one) is None]

    def check(self, url: str) -> Iterable[str]:
        """See `StoreScheme`."""
        if not urlsplit(url).netloc:
            yield f"it names no bucket: {self.name}://BUCKET/FOLDER"

    def open(self, url: str) -> Store:
        """See `StoreScheme`."""
        fs, root = self._file_system(url)
        return BucketStore(fs, root, place=url, top=root.partition("/")[0])

    def _file_system(self, url: str, **options: Any) -> tuple[Any, str]:
        """The file system, with no cache of listings, and the path in it. One of its own: the caches of fsspec hand
        out what others have configured."""
        try:
            import fsspec

            fs = fsspec.filesystem(
                self.name, skip_instance_cache=True, use_listings_cache=False, **options
            )
            return fs, str(fs._strip_protocol(url))
        except Exception as error:
            raise failure(error, url) from error


@dataclass(frozen=True, kw_only=True)
class FileScheme(BucketScheme):
    """A folder that is treated as a bucket, to try a job without one. A mounted drive belongs in `storage.drive`,
    where its disconnects are told from an empty folder."""

    name: str = "file"

    def check(self, url: str) -> Iterable[str]:
        """See `StoreScheme`."""
        if urlsplit(url).netloc or urlsplit(url).path in ("", "/"):
            yield "it names no folder by its whole path: file:///FOLDER"

    def open(self, url: str) -> Store:
        """See `StoreScheme`. The folder above must be there."""
        fs, root = self._file_system(url, auto_mkdir=True)
        folder = Path(root)
        if not folder.parent.is_dir():
            text = f"there is no folder {folder.parent} to hold it"
            raise OSError(errno.EINVAL, text, url)
        lasting = not mounts.uploads_later(folder)
        return BucketStore(fs, root, place=url, top=str(folder.parent), lasting=lasting)


s3 = BucketScheme(name="s3", needs=("s3fs",))
gs = BucketScheme(name="gs", needs=("gcsfs",))
file = FileScheme()
