"""A hub on loopback: folders served as repositories, with the faults that real ones have.

    python -m tests.hub_server FOLDER --repo owner/name --stall-after 100000 --stalls 1

prints its address, for HF_ENDPOINT, and serves until it is ended. Speaks what `huggingface_hub` and
`datasets` ask: listings, `resolve` with ranges and etags. Files of more than `LFS` bytes are named by
their sha256, as on the hub.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import threading
from collections.abc import Mapping
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

LFS = 100_000
"""Bytes from which on a file is stored apart, and faults fall on it."""


@dataclass(frozen=True)
class Request:
    """One that was answered: bytes `first` to `last` of `path`, as asked for and as sent."""

    method: str
    path: str
    first: int | None = None
    sent: int = 0
    authorization: str | None = None


@dataclass
class Faults:
    """What goes wrong; the counts are of requests for large files, and go down with each."""

    stall_after: int | None = None
    """Send so many bytes of a large file, then nothing more, the connection open."""
    stalls: int = 10**9
    cut_after: int | None = None
    """Send so many bytes, then close the connection."""
    cuts: int = 1
    errors: int = 0
    """Answer so many requests with 500."""
    refuse: int | None = None
    """Answer every request with this status, 401, 403 or 404."""
    corrupt: int = 0
    """Send so many large files with a byte changed."""
    ignore_range: bool = False
    silent: bool = False
    """Answer nothing at all."""


@dataclass
class Hub:
    """`repos` maps "models/owner/name" or "datasets/owner/name" to a folder. A context manager; `url` while open."""

    repos: Mapping[str, Path]
    faults: Faults = field(default_factory=Faults)
    requests: list[Request] = field(default_factory=list)
    port: int = 0
    over: threading.Event = field(default_factory=threading.Event)
    url: str = ""
    _listed: dict[Path, list[dict[str, Any]]] = field(default_factory=dict)

    def __enter__(self) -> Hub:
        hub = self

        class Bound(_Handler):
            pass

        Bound.hub = hub
        self._server = ThreadingHTTPServer(("127.0.0.1", self.port), Bound)
        self._server.daemon_threads = True
        self.url = f"http://127.0.0.1:{self._server.server_address[1]}"
        threading.Thread(target=self._server.serve_forever, args=(0.05,), daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self.over.set()
        self._server.shutdown()
        self._server.server_close()

    def commit(self, repo: str) -> str:
        """Changes with the repository's files."""
        listed = [(entry["path"], entry["oid"]) for entry in self.listing(repo)]
        return hashlib.sha1(json.dumps([repo, listed]).encode()).hexdigest()

    def listing(self, repo: str) -> list[dict[str, Any]]:
        """The tree of `repo`, as the hub lists it: that of when it was first asked for."""
        folder = self.repos[repo]
        if folder not in self._listed:
            paths = sorted(path for path in folder.rglob("*") if path.is_file())
            self._listed[folder] = [
                _entry(path.relative_to(folder).as_posix(), path.read_bytes()) for path in paths
            ]
        return self._listed[folder]

    def fetched(self, name: str) -> list[Request]:
        """The requests for the content of the file `name`."""
        return [r for r in self.requests if r.method == "GET" and r.path.endswith(f"/{name}")]


def etag(data: bytes) -> str:
    """What the hub calls content: its sha256 where it is large, else its git object id."""
    if len(data) > LFS:
        return hashlib.sha256(data).hexdigest()
    return hashlib.sha1(b"blob %d\0" % len(data) + data).hexdigest()


def _entry(name: str, data: bytes) -> dict[str, Any]:
    entry = {"type": "file", "path": name, "size": len(data), "oid": etag(data)[:40]}
    if len(data) > LFS:
        entry["lfs"] = {"oid": etag(data), "size": len(data), "pointerSize": 134}
    return entry


def _level(tree: list[dict[str, Any]], folder: str, *, deep: bool) -> list[dict[str, Any]]:
    """What lies in `folder` of `tree`, and below it if `deep`."""
    start = f"{folder}/" if folder else ""
    below = [entry for entry in tree if entry["path"].startswith(start)]
    if deep:
        return below
    parts = [entry["path"].removeprefix(start).partition("/") for entry in below]
    folders = sorted({start + first for first, slash, _ in parts if slash})
    return [
        *({"type": "directory", "path": path, "oid": "0" * 40, "size": 0} for path in folders),
        *(entry for entry, (_, slash, _) in zip(below, parts, strict=True) if not slash),
    ]


OF_ITS_OWN = "/api/agent-harnesses"
"""What huggingface_hub asks for once a day, whatever it is called for: no test's affair, so it is not noted."""


class _Handler(BaseHTTPRequestHandler):
    hub: Hub
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True

    def log_message(self, *_: object) -> None:
        """Nothing."""

    def do_HEAD(self) -> None:
        self.do_GET()

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0)).decode()
        self.do_GET(body)

    def do_GET(self, body: str = "") -> None:
        path = unquote(urlsplit(self.path).path)
        faults = self.hub.faults
        if faults.silent:
            self._note(path)
            self.hub.over.wait()
            return
        if faults.refuse:
            self._refuse(path, faults.refuse)
        elif path == OF_ITS_OWN:
            self._json({}, status=404)
        elif path.startswith("/api/"):
            self._api(path.removeprefix("/api/"), body)
        else:
            self._resolve(path)

    def _refuse(self, path: str, status: int) -> None:
        code = {403: "GatedRepo", 404: "RepoNotFound"}.get(status)
        self._note(path)
        self._json({"error": "no"}, status=status, headers={"X-Error-Code": code} if code else {})

    def _api(self, path: str, body: str) -> None:
        kind, owner, name, *rest = [*path.split("/"), "", ""]
        repo = f"{kind}/{owner}/{name}"
        self._note(f"/api/{path}")
        if repo not in self.hub.repos:
            return self._missing("RepoNotFound")
        commit, tree = self.hub.commit(repo), self.hub.listing(repo)
        verb, revision = [*rest, "", ""][:2]
        if revision not in ("", "main", commit):
            return self._missing("RevisionNotFound")
        if verb == "paths-info":
            asked = set(parse_qs(body).get("paths", []))
            return self._json([entry for entry in tree if entry["path"] in asked])
        if verb == "tree":
            return self._json(
                _level(tree, "/".join(rest[2:]).strip("/"), deep="recursive=true" in self.path)
            )
        siblings = [
            {
                "rfilename": entry["path"],
                "size": entry["size"],
                "blobId": entry["oid"],
                **(
                    {"lfs": {**entry["lfs"], "sha256": entry["lfs"]["oid"]}}
                    if "lfs" in entry
                    else {}
                ),
            }
            for entry in tree
        ]
        return self._json(
            {
                "_id": "1",
                "id": f"{owner}/{name}",
                "sha": commit,
                "private": False,
                "siblings": siblings,
                "tags": [],
            }
        )

    def _resolve(self, path: str) -> None:
        parts = path.strip("/").split("/")
        kind = parts.pop(0) if parts[0] == "datasets" else "models"
        owner, name, _, revision, *rest = parts
        repo, file = f"{kind}/{owner}/{name}", "/".join(rest)
        if repo not in self.hub.repos:
            self._note(path)
            return self._missing("RepoNotFound")
        source, commit = self.hub.repos[repo] / file, self.hub.commit(repo)
        if revision not in ("main", commit):
            self._note(path)
            return self._missing("RevisionNotFound")
        if not source.is_file():
            self._note(path)
            return self._missing("EntryNotFound")
        return self._send(path, source.read_bytes(), commit)

    def _send(self, path: str, data: bytes, commit: str) -> None:
        faults, size, large = self.hub.faults, len(data), len(data) > LFS
        if large and faults.errors > 0 and self.command == "GET":
            faults.errors -= 1
            self._note(path)
            return self._json({"error": "later"}, status=500)
        tag = etag(data)
        if large and faults.corrupt > 0 and self.command == "GET":
            faults.corrupt -= 1
            data = bytes([data[0] ^ 1]) + data[1:]
        first = None
        if (asked := self.headers.get("Range")) and not faults.ignore_range:
            first = int(asked.removeprefix("bytes=").partition("-")[0])
        self.send_response(206 if first is not None else 200)
        if first is not None:
            self.send_header("Content-Range", f"bytes {first}-{size - 1}/{size}")
        self.send_header("Accept-Ranges", "bytes")
        self.send_header("Content-Length", str(size - (first or 0)))
        self.send_header("ETag", f'"{tag}"')
        self.send_header("X-Repo-Commit", commit)
        if large:
            self.send_header("X-Linked-Size", str(size))
            self.send_header("X-Linked-Etag", f'"{tag}"')
        self.end_headers()
        if self.command == "HEAD":
            self._note(path)
            return None
        rest = data[first or 0 :]
        if large and faults.stall_after is not None and faults.stalls > 0:
            faults.stalls -= 1
            self._write(path, first, rest[: faults.stall_after])
            self.hub.over.wait()
            self.close_connection = True
        elif large and faults.cut_after is not None and faults.cuts > 0:
            faults.cuts -= 1
            self._write(path, first, rest[: faults.cut_after])
            self.close_connection = True
        else:
            self._write(path, first, rest)
        return None

    def _write(self, path: str, first: int | None, data: bytes) -> None:
        self._note(path, first=first, sent=len(data))
        try:
            self.wfile.write(data)
            self.wfile.flush()
        except OSError:
            self.close_connection = True

    def _missing(self, code: str) -> None:
        self._json({"error": "not found"}, status=404, headers={"X-Error-Code": code})

    def _json(
        self, value: Any, *, status: int = 200, headers: Mapping[str, str] | None = None
    ) -> None:
        data = json.dumps(value).encode()
        self.send_response(status)
        for name, text in {"Content-Type": "application/json", **(headers or {})}.items():
            self.send_header(name, text)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(data)

    def _note(self, path: str, *, first: int | None = None, sent: int = 0) -> None:
        token = self.headers.get("Authorization")
        self.hub.requests.append(Request(self.command, path, first, sent, token))


def main() -> None:
    parser = argparse.ArgumentParser(description="Serve a folder as a repository of the hub.")
    parser.add_argument("folder", type=Path)
    parser.add_argument("--repo", default="owner/tiny", help="owner/name")
    parser.add_argument("--kind", choices=["models", "datasets"], default="models")
    parser.add_argument("--port", type=int, default=0)
    for name in (
        "--stall-after",
        "--stalls",
        "--cut-after",
        "--cuts",
        "--errors",
        "--refuse",
        "--corrupt",
    ):
        parser.add_argument(name, type=int, default=argparse.SUPPRESS)
    given = vars(parser.parse_args())
    folder, repo, kind, port = (given.pop(key) for key in ("folder", "repo", "kind", "port"))
    with Hub({f"{kind}/{repo}": folder}, Faults(**given), port=port) as hub:
        print(hub.url, flush=True)
        threading.Event().wait()


if __name__ == "__main__":
    main()
