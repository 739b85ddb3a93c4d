"""A real Valkey and a real Milvus Lite for the whole session, and the API in front of them."""

from __future__ import annotations

import base64
import io
import json
import time
from typing import TYPE_CHECKING, Any

import httpx
import pytest
from beats import beat
from doors import Door, door_to
from flask.testing import FlaskClient
from inside_worker import WorkerProcess, serve_only, worker_process
from kept_models import KeptModels
from photos import jpeg, source
from plain_uploads import IDS, upload
from pymilvus import MilvusClient
from servers import needs_standalone, running_milvus, running_standalone, running_valkey

from twinlens.api.accepting.gateway import Gateway
from twinlens.api.app import create_app
from twinlens.shared.blobs import image_id_of
from twinlens.shared.libraries import Library
from twinlens.shared.messages import CatalogEntry, Image, Item, ModelSummary, now
from twinlens.shared.queue import QUEUES, connect
from twinlens.shared.redis.catalog import Catalog
from twinlens.shared.redis.jobs import Jobs
from twinlens.shared.redis.presence import announce
from twinlens.shared.settings import Settings
from twinlens.workers.chunk.embedding import embed_chunk
from twinlens.workers.process.runtime import build_runtime

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator
    from pathlib import Path

    from redis import Redis

    from twinlens.workers.process.runtime import Runtime, Target


@pytest.fixture(scope="session")
def redis_url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with running_valkey(tmp_path_factory.mktemp("valkey")) as url:
        yield url


@pytest.fixture(scope="session")
def lite_uri(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with running_milvus(tmp_path_factory.mktemp("milvus")) as uri:
        yield uri


@pytest.fixture(scope="session")
def standalone_uri(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with running_standalone(tmp_path_factory.mktemp("standalone")) as uri:
        yield uri


# For `params` of a fixture: fixtures' names of the servers there are here.
EVERY_MILVUS = (
    pytest.param("lite_uri", id="lite"),
    pytest.param("standalone_uri", id="standalone", marks=needs_standalone),
)
on_every_milvus = pytest.mark.parametrize("milvus_uri", EVERY_MILVUS, indirect=True)


@pytest.fixture(scope="session")
def kept_collections() -> set[str]:
    """Of libraries that tests share: they are not dropped with the test that made them."""
    return set()


@pytest.fixture(scope="session")
def milvus_clients() -> Iterator[dict[str, MilvusClient]]:
    clients: dict[str, MilvusClient] = {}
    yield clients
    for client in clients.values():
        client.close()


@pytest.fixture
def milvus_uri(
    request: pytest.FixtureRequest,
    kept_collections: set[str],
    milvus_clients: dict[str, MilvusClient],
) -> Iterator[str]:
    """Milvus Lite, unless a test is `on_every_milvus`.

    Collections that were made meanwhile are dropped: each takes memory of Milvus Lite, and
    processor time of every tick of the real server.
    """
    uri: str = request.getfixturevalue(getattr(request, "param", "lite_uri"))
    if uri not in milvus_clients:
        milvus_clients[uri] = MilvusClient(uri)
    client = milvus_clients[uri]
    before = set(client.list_collections())
    yield uri
    for one in set(client.list_collections()) - before - kept_collections:
        client.drop_collection(one)


@pytest.fixture
def settings(redis_url: str, milvus_uri: str, tmp_path: Any) -> Settings:
    return Settings(
        redis_url=redis_url,
        milvus_uri=milvus_uri,
        milvus_timeout_s=60,  # a busy machine is no outage
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
        done = {"n_pictures": 3, "pictures_per_s": 1.5, "tasks_per_s": 0.5, "busy_s": 2.0}
        told = beat(f"{lane}@test:1", time.time(), lanes=[lane], milvus=milvus, **done)
        announce(self.redis, told)

    def serve(self, *models: str, library: str = "default") -> None:
        self.catalog.publish_models(summary(name) for name in models)
        refs = [f"{name}@1" for name in models]
        self.catalog.ensure_library(Library(name=library, models=refs))

    def add(self, image: Image, path: str = "nowhere") -> None:
        there = {library.name: library.collections for library in self.catalog.libraries()}
        names = there.get(image.library, {})
        entry = CatalogEntry(image=image, path=path, added_by="j:0:0")
        entry.collections = {names[ref] for ref in image.models if ref in names}
        with self.redis.pipeline() as pipeline:
            self.catalog.add(pipeline, entry)
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


def summary(
    name: str, version: str = "1", *, has_text: bool = False, metric: Any = "L2"
) -> ModelSummary:
    return ModelSummary(
        name=name,
        version=version,
        title=name,
        dimension=8,
        metric=metric,
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


NAMES = ("astronaut.png", "chelsea.png", "coffee.png", "rocket.jpg")


@pytest.fixture(scope="session")
def small_photos() -> dict[str, bytes]:
    """Photos by name, each a JPEG of 128 px: under the 10 kB that the test settings allow."""
    found = {}
    for name in NAMES:
        photo = source(name)
        photo.thumbnail((128, 128))
        found[name] = jpeg(photo, quality=80)
    return found


@pytest.fixture
def runtime(settings: Settings, redis: Redis, models_dir: Path) -> Runtime:
    settings.data_dir.joinpath("models").symlink_to(models_dir)
    runtime = build_runtime(settings, ["bulk"])
    runtime.registry = KeptModels(settings.models_dir)
    return runtime


@pytest.fixture
def door(lite_uri: str) -> Iterator[Door]:
    """The way to Milvus of `process`."""
    with door_to(lite_uri) as door:
        yield door


@pytest.fixture
def milvus_timeout_s() -> float:
    """What `process` gives a call of Milvus; a test of its silence is parametrized with less."""
    return 60


@pytest.fixture
def process(
    settings: Settings,
    redis: Redis,
    door: Door,
    milvus_timeout_s: float,
    models_dir: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> Iterator[WorkerProcess]:
    """A worker's process; its default library has the perceptual hash alone, which is quick."""
    settings.data_dir.joinpath("models").symlink_to(models_dir)
    serve_only(redis, "phash@1")
    uri = f"http://127.0.0.1:{door.port}"
    changes = {"milvus_uri": uri, "milvus_timeout_s": milvus_timeout_s}
    with worker_process(settings.model_copy(update=changes), monkeypatch) as process:
        yield process


@pytest.fixture
def filled(client: FlaskClient, process: WorkerProcess) -> list[str]:
    """Plain pictures, embedded by `process`: their ids."""
    upload(client)
    process.run_all("bulk")
    assert process.runtime.catalog.count("default") == len(IDS)
    return IDS


def targets_of(runtime: Runtime, library: str = "default") -> list[Target]:
    return runtime.targets_of(runtime.catalog.library(library))


def names_of(runtime: Runtime) -> list[str]:
    return [target.model.card.name for target in targets_of(runtime)]


def post(client: FlaskClient, files: list[tuple[str, bytes]], library: str = "default") -> str:
    """Posts files as one bulk job and returns its id."""
    answer = client.post(
        f"/v1/images/bulk?library={library}",
        data={"files": [(io.BytesIO(content), name) for name, content in files]},
    )
    assert answer.status_code == 202, answer.text
    job_id: str = answer.json["id"]
    return job_id


def outcomes(runtime: Runtime, job_id: str, chunk: int = 0) -> list[str]:
    return [item.outcome for item in embed_chunk(runtime, job_id, chunk)]


@pytest.fixture
def library(
    client: FlaskClient, runtime: Runtime, small_photos: dict[str, bytes]
) -> dict[str, str]:
    """The small photos, embedded: image ids by name."""
    job_id = post(client, list(small_photos.items()))
    assert outcomes(runtime, job_id) == ["succeeded"] * len(NAMES)
    return {name: image_id_of(content) for name, content in small_photos.items()}
