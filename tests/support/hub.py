"""A hub that is played: it speaks as much of the Hugging Face Hub's interface as is asked of it.

A repository's files are those of a folder. Graphs and tokenizers are in LFS: asked for, they are
elsewhere, at another host and port, where no token may be sent; what is small is in git.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import re
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

REVISION = "8b1f70512c6a0d7e1f3d2a9c5b4e6f7a8091a2b3"
_API = re.compile(
    "/api/models/(?P<repository>[^/]+/[^/]+)(/(?P<kind>revision|tree)/(?P<revision>.+))?"
)
_FILE = re.compile("/(?P<repository>[^/]+/[^/]+)/resolve/(?P<revision>[^/]+)/(?P<name>.+)")
_IN_LFS = (".onnx", "_data", "tokenizer.json")


@dataclass
class Hub:
    """What the hub has, and how it fails.

    Attributes:
        folder: The only repository's files.
        repository: Its name.
        card: What its card says: `{"license": "mit"}`.
        gated: Whether its owner lets in those alone whom they know.
        token: The only one that is let in; None for no matter whom.
        status: Answered to every request of its interface, where it is not 200.
        breaks: Bytes after which an answer breaks off, one for each of the next downloads; None
            for an answer of status 500.
        spoilt: Names of files that come with other bytes than is stated.
        stated: Further files that it says it has, by name: their sizes.
        asked: Method, path, Range and Authorization of each request.
    """

    folder: Path
    repository: str = "someone/Some-Pair"
    card: dict[str, str] = field(default_factory=lambda: {"license": "mit"})
    gated: bool = False
    token: str | None = None
    status: int = 200
    breaks: list[int | None] = field(default_factory=list)
    spoilt: set[str] = field(default_factory=set)
    stated: dict[str, int] = field(default_factory=dict)
    asked: list[tuple[str, str, str | None, str | None]] = field(default_factory=list)
    url: str = ""
    elsewhere: str = ""

    def fetched(self) -> list[str]:
        """Returns the names of the files that were asked for."""
        matches = (_FILE.fullmatch(path) for method, path, _, _ in self.asked if method == "GET")
        return [unquote(match["name"]) for match in matches if match]

    def described(self) -> dict[str, Any]:
        files = [path for path in sorted(self.folder.rglob("*")) if path.is_file()]
        siblings = [self._sibling(path) for path in files]
        siblings += [
            {"rfilename": name, "size": size, "blobId": "0" * 40}
            for name, size in self.stated.items()
        ]
        return {
            "id": self.repository,
            "sha": REVISION,
            "gated": "manual" if self.gated else False,
            "private": False,
            "cardData": self.card,
            "tags": [],
            "downloads": 0,
            "likes": 0,
            "siblings": siblings,
        }

    def tree(self) -> list[dict[str, Any]]:
        """The same, as it is asked for by who fetches all of it."""
        return [
            {
                "type": "file",
                "path": one["rfilename"],
                "size": one["size"],
                "oid": one["blobId"],
                **({"lfs": one["lfs"] | {"oid": one["lfs"]["sha256"]}} if "lfs" in one else {}),
            }
            for one in self.described()["siblings"]
        ]

    def _sibling(self, path: Path) -> dict[str, Any]:
        content, name = path.read_bytes(), path.relative_to(self.folder).as_posix()
        git = hashlib.sha1(b"blob %d\0" % len(content) + content, usedforsecurity=False)
        stated = {"rfilename": name, "size": len(content), "blobId": git.hexdigest()}
        if name.endswith(_IN_LFS):
            sha256 = hashlib.sha256(content).hexdigest()
            stated["lfs"] = {"sha256": sha256, "size": len(content), "pointerSize": 134}
        return stated


class _Handler(BaseHTTPRequestHandler):
    hub: Hub
    protocol_version = "HTTP/1.1"

    def handle(self) -> None:
        with contextlib.suppress(ConnectionError):
            super().handle()

    def do_GET(self) -> None:
        path = unquote(urlsplit(self.path).path)
        given = self.headers.get("Authorization")
        self.hub.asked.append((self.command, path, self.headers.get("Range"), given))
        if path.startswith("/lfs/"):
            self._send(path.removeprefix("/lfs/"))
        elif self.hub.token is not None and given != f"Bearer {self.hub.token}":
            self._refuse(401, "GatedRepo" if self.hub.gated else "RepoNotFound")
        elif self.hub.status != 200:
            self._refuse(self.hub.status, "")
        else:
            self._answer(path)

    def _answer(self, path: str) -> None:
        api, file = _API.fullmatch(path), _FILE.fullmatch(path)
        named = api or file
        if named is None or named["repository"] != self.hub.repository:
            self._refuse(404, "RepoNotFound")
        elif named["revision"] not in (None, "main", "v2", REVISION):
            self._refuse(404, "RevisionNotFound")
        elif api is not None:
            listed = self.hub.tree() if api["kind"] == "tree" else self.hub.described()
            self._reply(200, json.dumps(listed).encode())
        elif file is not None and file["name"].endswith(_IN_LFS):
            content = (self.hub.folder / file["name"]).read_bytes()
            headers = {"Location": f"{self.hub.elsewhere}/lfs/{file['name']}"}
            headers |= {"X-Repo-Commit": REVISION, "X-Linked-Size": str(len(content))}
            headers["X-Linked-Etag"] = f'"{hashlib.sha256(content).hexdigest()}"'
            self._reply(302, b"", headers)
        elif file is not None:
            self._send(file["name"])

    def _send(self, name: str) -> None:
        content = (self.hub.folder / name).read_bytes()
        if name in self.hub.spoilt:
            content = content[:-1] + bytes([content[-1] ^ 1])
        first, status = 0, 200
        if asked := re.fullmatch(r"bytes=(\d+)-", self.headers.get("Range") or ""):
            first, status = int(asked[1]), 206
        headers = {
            "ETag": f'"{hashlib.sha256(content).hexdigest()}"',
            "X-Repo-Commit": REVISION,
        }
        if status == 206:
            headers["Content-Range"] = f"bytes {first}-{len(content) - 1}/{len(content)}"
        end = self.hub.breaks.pop(0) if self.hub.breaks else len(content)
        if end is None:
            self._refuse(500, "")
            return
        self._reply(status, content[first:], headers, sent=end)
        self.close_connection = end < len(content)

    def _refuse(self, status: int, code: str) -> None:
        self._reply(status, b"{}", {"X-Error-Code": code, "Retry-After": "7"})

    def _reply(
        self,
        status: int,
        body: bytes,
        headers: dict[str, str] | None = None,
        sent: int | None = None,
    ) -> None:
        self.send_response(status)
        for name, value in (headers or {}).items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body[:sent])

    do_HEAD = do_GET  # noqa: N815 (http.server's name)

    def log_message(self, *_: object) -> None:
        """Says nothing."""


@contextlib.contextmanager
def serving(hub: Hub) -> Iterator[Hub]:
    """Has a hub listen on two ports of its own, as long as this is open."""
    handler = type("Handler", (_Handler,), {"hub": hub})
    servers = [ThreadingHTTPServer(("127.0.0.1", 0), handler) for _ in range(2)]
    threads = [threading.Thread(target=server.serve_forever, args=(0.02,)) for server in servers]
    for thread in threads:
        thread.start()
    hub.url = f"http://127.0.0.1:{servers[0].server_address[1]}"
    hub.elsewhere = f"http://localhost:{servers[1].server_address[1]}"
    try:
        yield hub
    finally:
        for server, thread in zip(servers, threads, strict=True):
            server.shutdown()
            thread.join()
            server.server_close()
