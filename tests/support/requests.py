"""The API, asked within this process, and what it answers."""

from __future__ import annotations

import io
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import httpx
from flask.testing import FlaskClient

from twinlens.api.app import create_app
from twinlens.api.services import Services, build_services
from twinlens.shared.settings import Settings

if TYPE_CHECKING:
    from collections.abc import Iterable


class Client(FlaskClient):
    """Reads each answer whole, so that the files behind it are closed. Answers are not typed."""

    def open(self, *args: Any, **kwargs: Any) -> Any:
        return super().open(*args, **({"buffered": True} | kwargs))

    def get(self, *args: Any, **kwargs: Any) -> Any:
        return super().get(*args, **kwargs)

    def post(self, *args: Any, **kwargs: Any) -> Any:
        return super().post(*args, **kwargs)

    def put(self, *args: Any, **kwargs: Any) -> Any:
        return super().put(*args, **kwargs)

    def patch(self, *args: Any, **kwargs: Any) -> Any:
        return super().patch(*args, **kwargs)

    def delete(self, *args: Any, **kwargs: Any) -> Any:
        return super().delete(*args, **kwargs)


def client_of(settings: Settings, services: Services | None = None) -> Client:
    app = create_app(settings, services or build_services(settings))
    return Client(app, app.response_class)


def form_body(parts: Any) -> dict[str, Any]:
    """Returns a form as httpx sends it: Werkzeug's client leaves out an empty file's body."""
    request = httpx.Request("POST", "http://127.0.0.1", files=parts)
    return {"data": request.read(), "content_type": request.headers["Content-Type"]}


def assert_problem(response: Any, status: int, code: str) -> dict[str, Any]:
    """Checks that an answer is a problem of this kind, and returns it."""
    assert response.status_code == status, response.text
    assert response.content_type == "application/problem+json"
    problem: dict[str, Any] = response.json
    assert problem["type"] == f"urn:twinlens:problem:{code}"
    assert problem["status"] == status
    assert problem["request_id"] == response.headers["X-Request-ID"]
    assert problem["instance"] == response.request.path
    assert set(problem) == {
        "type",
        "title",
        "status",
        "detail",
        "instance",
        "request_id",
        "errors",
    }
    return problem


def counts(job: dict[str, Any]) -> dict[str, int | None]:
    """Returns how many pictures of a job have which outcome."""
    return {name: job["progress"][name] for name in ("total", "succeeded", "skipped", "failed")}


# Of a body: bytes, an error at this place, or what is done before the next is read.
Piece = bytes | Exception | Callable[[], object]


class Body(io.RawIOBase):
    """A body whose pieces are made as they are read: each may look at the service meanwhile."""

    def __init__(self, pieces: Iterable[Piece]) -> None:
        self._pieces = iter(pieces)
        self._left = b""

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        while not self._left:
            piece = next(self._pieces, None)
            if piece is None:
                return 0
            if isinstance(piece, bytes):
                self._left = piece
            elif isinstance(piece, Exception):
                raise piece
            else:
                piece()
        n_bytes = min(len(buffer), len(self._left))
        buffer[:n_bytes], self._left = self._left[:n_bytes], self._left[n_bytes:]
        return n_bytes


def post(client: Client, files: list[tuple[str, bytes]], library: str = "default") -> str:
    """Posts files as one bulk job and returns its id."""
    answer = client.post(
        f"/v1/images/bulk?library={library}",
        data={"files": [(io.BytesIO(content), name) for name, content in files]},
    )
    assert answer.status_code == 202, answer.text
    job_id: str = answer.json["id"]
    return job_id
