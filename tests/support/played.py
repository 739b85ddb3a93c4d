"""A service that is played: it answers clients as the real one does, or fails as it is told to."""

from __future__ import annotations

import contextlib
import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import TYPE_CHECKING, Any

import httpx

from twinlens.client.client import Client
from twinlens.shared.answers import JobAnswer, Progress
from twinlens.shared.blobs import image_id_of
from twinlens.shared.errors import BrokenPicture
from twinlens.shared.messages import Item, now

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator
    from pathlib import Path

    from pydantic import BaseModel


class Service:
    """Answers uploads, as the service does, after failures that are told beforehand.

    Attributes:
        failures: For the next uploads, one after another: an answer, an error of the network, or
            None for none.
        there: Ids of the pictures that it has.
        answers: By path, what is answered, before all else.
        bodies: Of the uploads.
        requests: All.
        jobs: By id, as they are read.
        items: By job, its failed pictures.
    """

    def __init__(self, failures: Iterable[Any] = ()) -> None:
        self.failures = list(failures)
        self.there: set[str] = set()
        self.answers: dict[str, Callable[[httpx.Request], httpx.Response]] = {}
        self.bodies: list[bytes] = []
        self.requests: list[httpx.Request] = []
        self.jobs: dict[str, JobAnswer] = {}
        self.items: dict[str, list[Item]] = {}
        self._lock = threading.Lock()

    def client(self, outage_s: float = 60) -> Client:
        transport = httpx.MockTransport(self.answer)
        return Client("http://127.0.0.1:1", transport, outage_s)

    def answer(self, request: httpx.Request) -> httpx.Response:
        body = request.read()
        with self._lock:
            self.requests.append(request)
            return self._answer(request, body)

    def asked(self, path: str) -> list[httpx.Request]:
        return [request for request in self.requests if request.url.path == path]

    def _answer(self, request: httpx.Request, body: bytes) -> httpx.Response:
        path = request.url.path
        if path in self.answers:
            return self.answers[path](request)
        if path.endswith("/items"):
            return as_json_page(self.items[path.split("/")[3]])
        if path.startswith("/v1/jobs/"):
            return as_json(self.jobs[path.rpartition("/")[2]])
        if path == "/v1/images/missing":
            asked = json.loads(body)
            missing = [image_id for image_id in asked["ids"] if image_id not in self.there]
            changed = sorted(asked["described"].keys() & self.there)
            return httpx.Response(200, json={"missing": missing, "changed": changed})
        self.bodies.append(body)
        failure = self.failures.pop(0) if self.failures else None
        if isinstance(failure, Exception):
            raise failure
        return failure if failure is not None else as_json(self._new_job(body))

    def _new_job(self, body: bytes) -> JobAnswer:
        n = body.count(b'name="files"')
        job = job_answer(f"{len(self.jobs):032x}", n)
        self.jobs[job.id] = job
        return job


def as_json(answer: BaseModel, **headers: str) -> httpx.Response:
    return httpx.Response(202, content=answer.model_dump_json(), headers=headers)


def as_json_page(items: list[Any], next_cursor: str | None = None) -> httpx.Response:
    page = {"items": [one.model_dump(mode="json") for one in items], "next_cursor": next_cursor}
    return httpx.Response(200, json=page)


def job_answer(job_id: str, n_succeeded: int, **changes: Any) -> JobAnswer:
    """A job that has ended well, but for the changes; counts among them are of its progress."""
    counts = {name: changes.pop(name) for name in Progress.model_fields if name in changes}
    n_all = n_succeeded + counts.get("skipped", 0) + counts.get("failed", 0)
    progress = {"total": n_all, "received": n_all, "skipped": 0, "failed": 0, **counts}
    fields = {
        "id": job_id,
        "kind": "bulk",
        "library": "default",
        "status": "succeeded",
        "progress": Progress(succeeded=n_succeeded, **progress),
        "created_at": now(),
        "started_at": now(),
        "finished_at": now(),
        "expires_at": None,
        "result": None,
        "error": None,
        "links": {},
    }
    return JobAnswer(**(fields | changes))


def running(job_id: str, n_succeeded: int, **changes: Any) -> JobAnswer:
    """A job that has not ended."""
    return job_answer(job_id, n_succeeded, status="running", finished_at=None, **changes)


def failed(name: str, reason: str | None = "It is no picture.") -> Item:
    """A picture that failed, as a job tells of it."""
    error = None if reason is None else BrokenPicture(reason).to_problem()
    return Item(name=name, image_id=None, outcome="failed", error=error)


def busy(status: int, retry_after: str | None = "0") -> httpx.Response:
    return httpx.Response(status, headers={"Retry-After": retry_after} if retry_after else {})


def fill(folder: Path, n_files: int) -> list[str]:
    """Writes files that stand for pictures, and returns their ids."""
    folder.mkdir()
    for n in range(n_files):
        (folder / f"{n}.jpg").write_bytes(b"%d" % n)
    return [image_id_of(b"%d" % n) for n in range(n_files)]


@contextlib.contextmanager
def listening(service: Service) -> Iterator[str]:
    """Has a played service listen on a port of its own, for commands that are given a URL."""

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def handle(self) -> None:
            with contextlib.suppress(ConnectionError):  # who asked may have gone
                super().handle()

        def _answer(self) -> None:
            body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
            # Where it stands for a proxy, it is asked for a whole URL.
            url = str(httpx.URL("http://127.0.0.1").join(self.path))
            request = httpx.Request(self.command, url, headers=dict(self.headers), content=body)
            try:
                answer = service.answer(request)
            except httpx.TransportError:
                self.close_connection = True  # without an answer
                return
            self.send_response(answer.status_code)
            for name, value in answer.headers.items():
                if name != "content-length":
                    self.send_header(name, value)
            self.send_header("Content-Length", str(len(answer.content)))
            self.end_headers()
            self.wfile.write(answer.content)

        do_GET = do_POST = do_PUT = do_DELETE = _answer  # noqa: N815 (http.server's names)

        def log_message(self, *_: Any) -> None:
            """Says nothing."""

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_port}"
        finally:
            server.shutdown()
            thread.join()
