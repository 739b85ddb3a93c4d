"""A whole service that is measured, and what is asked of it."""

from __future__ import annotations

import contextlib
import json
import time
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime
from http.client import HTTPConnection
from pathlib import Path
from typing import Any, NamedTuple

import httpx
import psutil

from benchmarks.setup import Setup
from twinlens.cli.service.background import running_service

WAIT = {"Prefer": "wait=60"}
TIMEOUT_S = 600.0
Job = dict[str, Any]


class Indexed(NamedTuple):
    """How long a bulk job took: until it was accepted, and from then until all is searchable."""

    accept_s: float
    searchable_s: float


@dataclass(frozen=True)
class Service:
    """A service that is up."""

    client: httpx.Client
    connection: HTTPConnection
    data_dir: Path

    def put_library(self, name: str, models: list[str]) -> None:
        self.client.put(f"/v1/libraries/{name}", json={"models": models}).raise_for_status()

    def post_photos(self, photos: list[Path], library: str = "default") -> Job:
        return self.post_bulk(library, **_form_of(photos))

    def post_bulk(self, library: str = "default", **body: Any) -> Job:
        answer = self.client.post("/v1/images/bulk", params={"library": library}, **body)
        job: Job = answer.raise_for_status().json()
        return job

    def look(self, job: Job, headers: dict[str, str] | None = None) -> Job:
        answer = self.client.get(job["links"]["self"], headers=headers).raise_for_status()
        seen: Job = answer.json()
        return seen

    def wait(self, job: Job, n_photos: int) -> Job:
        while job["finished_at"] is None:
            job = self.look(job, WAIT)
        if job["progress"]["succeeded"] != n_photos:
            raise SystemExit(f"not all photos were indexed: {job['progress']}")
        return job

    def index(self, photos: list[Path], library: str = "default") -> Indexed:
        """Posts photos as one bulk job, and waits until all are searchable.

        Where work begins while the upload is still read, so does the clock of the work.
        """
        form = _form_of(photos)  # which is the client's work
        posted = time.time()
        job = self.post_bulk(library, **form)
        accepted = time.time()
        job = self.wait(job, len(photos))
        ended = time.time()
        begun = min(accepted, datetime.fromisoformat(job["started_at"]).timestamp())
        return Indexed(accepted - posted, ended - begun)

    def address(self, name: str) -> str:
        """Returns where a store is: `redis_url` or `milvus_uri`."""
        address: str = self._kept()[name]
        return address

    def processes(self, part: str) -> list[psutil.Process]:
        """Returns the process of a part, then its children."""
        parent = psutil.Process(self._kept()["pids"][part])
        return [parent, *parent.children(recursive=True)]

    def _kept(self) -> Any:
        return json.loads((self.data_dir / "services.json").read_text(encoding="utf-8"))

    def cpu_s(self, part: str) -> float:
        return cpu_s(self.processes(part))

    def rss_bytes(self, part: str) -> int:
        return sum(process.memory_info().rss for process in self.processes(part))


def connect(client: httpx.Client) -> HTTPConnection:
    """Opens a connection without httpx, which takes a millisecond of its own for a request."""
    return HTTPConnection(client.base_url.host, client.base_url.port)


def post_search(connection: HTTPConnection, body: bytes, content_type: str) -> bytes:
    """Searches, and returns the job that has ended, as JSON."""
    headers = {"Content-Type": content_type, **WAIT}
    connection.request("POST", "/v1/search", body, headers)
    answer = connection.getresponse()
    text = answer.read()
    assert answer.status == 200, text
    return text


def _form_of(photos: list[Path]) -> dict[str, Any]:
    """Returns the body and the headers of an upload."""
    files = [("files", (path.name, path.read_bytes(), "image/jpeg")) for path in photos]
    request = httpx.Request("POST", "http://127.0.0.1", files=files)
    return {"content": request.read(), "headers": {"Content-Type": request.headers["Content-Type"]}}


def cpu_s(processes: list[psutil.Process]) -> float:
    times = [process.cpu_times() for process in processes]
    return sum(one.user + one.system for one in times)


@contextlib.contextmanager
def serve(setup: Setup, *options: str, name: str = "data") -> Iterator[Service]:
    """Starts a service with the models of the setup, and stops it in the end."""
    data_dir = setup.work / name
    data_dir.mkdir()
    (data_dir / "models").symlink_to(setup.models)
    with (
        running_service(data_dir, 0, *options) as running,
        httpx.Client(base_url=running.url, timeout=TIMEOUT_S, trust_env=False) as client,
    ):
        connection = connect(client)
        yield Service(client, connection, data_dir)
        connection.close()
