"""One file over plain HTTP, resumed where it broke off, in this process or in one before it.

Not by the hub's own downloads: of late they begin each file anew in every process, and their Xet transfers may hang
without an error. Here a server that sends nothing for `HF_HUB_DOWNLOAD_TIMEOUT` seconds (10) is asked again from the
byte reached. Only content that fits its etag is kept.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

from qvl_run.disk import CHUNK
from qvl_trl.downloads.cache import Digest, RemoteFile
from qvl_trl.downloads.watch import Watch

TRIES = 4
"""Requests in a row that bring nothing before it is given up."""
PIECE = 256 * 1024
"""Bytes that are written, counted and can be resumed at a time."""
_PASSING = {408, 425, 429, 500, 502, 503, 504}

T = TypeVar("T")


class WrongContent(Exception):
    """What arrived is not what the hub's listing names."""


@dataclass(frozen=True, kw_only=True)
class Transfer:
    """How files are fetched; `sleep` waits that many seconds between tries."""

    watch: Watch
    sleep: Callable[[float], None] = time.sleep
    tries: int = TRIES
    headers: dict[str, str] = field(default_factory=dict)

    def fetch(self, url: str, file: RemoteFile, part: Path) -> None:
        """Bring `part` to the whole of `file`, on from what it holds. Raises the errors of `huggingface_hub`, OSError
        and WrongContent; `part` is left for the next try, but for wrong content."""
        resumed = part.exists() and part.stat().st_size > 0
        try:
            self._whole(url, file, part)
        except WrongContent:
            if not resumed:
                raise
            self._whole(url, file, part)  # what was here before may be the culprit

    def patiently(self, ask: Callable[[], T], *, moved: Callable[[], bool] = lambda: False) -> T:
        """The answer of `ask`, asked again after a failure that may pass; tries count anew once `moved`."""
        failed = 0
        while True:
            try:
                return ask()
            except Exception as error:
                failed = 1 if moved() else failed + 1
                if not _may_pass(error) or failed >= self.tries:
                    raise
            self.sleep(2 ** (failed - 1))

    def _whole(self, url: str, file: RemoteFile, part: Path) -> None:
        have = part.stat().st_size if part.exists() else 0
        if have > file.size:
            part.unlink()
            self.watch.arrived(-have)
        digest = Digest(file.etag, file.size)
        with part.open("ab+") as out:
            out.seek(0)
            while data := out.read(CHUNK):
                digest.update(data)
                self.watch.checked()
            reached = out.tell()
            state = _State(out=out, digest=digest, reached=reached)
            before = [reached]

            def moved() -> bool:
                came = state.reached > before[0]
                before[0] = state.reached
                return came

            if reached < file.size or file.size == 0:
                self.patiently(lambda: self._request(url, file, state), moved=moved)
        if state.reached != file.size or not state.digest.fits():
            part.unlink()
            self.watch.arrived(-state.reached)
            raise WrongContent(f"{file.name} did not arrive as the hub lists it")

    def _request(self, url: str, file: RemoteFile, state: _State) -> None:
        from huggingface_hub import constants, get_session, hf_raise_for_status

        headers = {**self.headers, "Accept-Encoding": "identity"}
        if state.reached:
            headers["Range"] = f"bytes={state.reached}-"
        timeout = constants.HF_HUB_DOWNLOAD_TIMEOUT
        with get_session().stream(
            "GET", url, headers=headers, timeout=timeout, follow_redirects=True
        ) as response:
            hf_raise_for_status(response)
            if state.reached and response.status_code != 206:
                self.watch.arrived(-state.reached)
                state.out.truncate(0)
                state.digest, state.reached = Digest(file.etag, file.size), 0
            for data in response.iter_bytes(PIECE):
                state.out.write(data)
                state.out.flush()
                state.digest.update(data)
                state.reached += len(data)
                self.watch.arrived(len(data))
        if state.reached < file.size:
            raise ConnectionError(f"{file.name}: {state.reached} of {file.size} bytes came")


@dataclass
class _State:
    """A file on its way: open for appending, digested up to `reached` bytes."""

    out: Any
    digest: Digest
    reached: int


def _may_pass(error: Exception) -> bool:
    """Whether the same request may succeed a little later."""
    status = getattr(getattr(error, "response", None), "status_code", None)
    if status is not None:
        return status in _PASSING
    names = {cls.__name__ for cls in type(error).__mro__}
    return "OfflineModeIsEnabled" not in names and bool(
        names & {"TransportError", "ConnectionError"}
    )
