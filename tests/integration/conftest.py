"""A real Valkey and a real Milvus Lite for the whole session, and the API in front of them."""

from __future__ import annotations

import base64
import io
import json
import time
from typing import TYPE_CHECKING, Any

import httpx
import pytest
from flask.testing import FlaskClient
from servers import running_milvus, running_valkey

from twinlens.api.app import create_app
from twinlens.api.gateway import Gateway
from twinlens.shared.catalog import Catalog
from twinlens.shared.jobs import Jobs
from twinlens.shared.messages import CatalogEntry, Image, Item, Library, ModelSummary, now
from twinlens.shared.presence import WorkerStatus, announce
from twinlens.shared.queue import QUEUES, connect
from twinlens.shared.settings import Settings

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

    from redis import Redis


@pytest.fixture(scope="session")
def redis_url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with running_valkey(tmp_path_factory.mktemp("valkey")) as url:
        yield url


@pytest.fixture(scope="session")
def milvus_uri(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with running_milvus(tmp_path_factory.mktemp("milvus")) as uri:
        yield uri


@pytest.fixture
def settings(redis_url: str, milvus_uri: str, tmp_path: Any) -> Settings:
    return Settings(
        redis_url=redis_url,
        milvus_uri=milvus_uri,
        data_dir=tmp_path,
        chunk_items=4,
        max_picture_bytes=10_000,
        max_body_bytes=1_000_000,
    )


@pytest.fixture
def redis(settings: Settings) -> Iterator[Redis]:
    with connect(settings.redis_url) as client:
        client.flushall()
        yield client


@pytest.fixture
def client(settings: Settings, redis: Redis) -> FlaskClient:
    return client_of(settings)


class Client(FlaskClient):
    """Reads each answer whole, so that the files behind it are closed."""

    def open(self, *args: Any, **kwargs: Any) -> Any:
        return super().open(*args, **({"buffered": True} | kwargs))


def client_of(settings: Settings) -> FlaskClient:
    app = create_app(settings, Gateway(settings))
    app.test_client_class = Client
    return app.test_client()


@pytest.fixture
def worker(redis: Redis) -> StandIn:
    return StandIn(redis)


class StandIn:
    """Does what workers do, through the interfaces that API and workers share."""

    def __init__(self, redis: Redis) -> None:
        self.redis = redis
        self.jobs = Jobs(redis)
        self.catalog = Catalog(redis)

    def announce(self, lane: Any, milvus: str = "ok") -> None:
        status = WorkerStatus(
            name=f"{lane}@test:1",
            lanes=[lane],
            beat_at=time.time(),
            milvus=milvus,
            n_pictures=3,
            pictures_per_s=1.5,
            tasks_per_s=0.5,
            busy_s=2.0,
        )
        announce(self.redis, status)

    def serve(self, *models: str, library: str = "default") -> None:
        self.catalog.publish_models(summary(name) for name in models)
        refs = [f"{name}@1" for name in models]
        self.catalog.ensure_library(Library(name=library, models=refs))

    def add(self, image: Image, path: str = "nowhere") -> None:
        with self.redis.pipeline() as pipeline:
            self.catalog.add(pipeline, CatalogEntry(image=image, path=path, added_by="j:0:0"))
            pipeline.execute()

    def finish_chunk(self, job_id: str, chunk: int, items: list[Item]) -> None:
        self.jobs.start(job_id)
        with self.redis.pipeline() as pipeline:
            self.jobs.count_chunk(job_id, chunk, items, pipeline)

    def finish_search(self, job_id: str, result: dict[str, Any]) -> None:
        self.jobs.start(job_id)
        self.jobs.finish(job_id, result=json.dumps(result))

    def queued(self) -> list[dict[str, Any]]:
        """Returns the waiting tasks: name, queue, id, kwargs, request_id."""
        return [
            read_task(str(text)) | {"queue": queue}
            for queue in QUEUES
            for text in reversed(self.redis.lrange(queue, 0, -1))
        ]


def read_task(text: str) -> dict[str, Any]:
    envelope = json.loads(text)
    _, kwargs, _ = json.loads(base64.b64decode(envelope["body"]))
    headers = envelope["headers"]
    return {
        "name": headers["task"],
        "id": headers["id"],
        "kwargs": kwargs,
        "request_id": headers["request_id"],
        "expires": headers["expires"],
    }


def image(image_id: str, name: str = "a.jpg", library: str = "default") -> Image:
    return Image(
        id=image_id,
        name=name,
        library=library,
        width=2,
        height=1,
        format="image/jpeg",
        bytes=3,
        models=["lite0@1"],
        added_at=now(),
    )


def summary(name: str, version: str = "1", *, has_text: bool = False) -> ModelSummary:
    return ModelSummary(
        name=name,
        version=version,
        title=name,
        dimension=8,
        metric="L2",
        input={"width": 4},
        weight=1.0,
        licence="Apache-2.0",
        source="https://example.org",
        sha256="0" * 64,
        has_text=has_text,
    )


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


class Body(io.RawIOBase):
    """A body whose pieces are made as they are read: each may look at the service meanwhile."""

    def __init__(self, pieces: Iterable[bytes | Exception | Callable[[], None]]) -> None:
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
