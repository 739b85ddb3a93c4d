"""A real Valkey and a real Milvus Lite for the whole session, and the API in front of them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
from support.doors import Door, door_to
from support.embedding import outcomes
from support.every_milvus import tidied
from support.inside_worker import WorkerProcess, serve_only, worker_process
from support.kept_models import KeptModels
from support.photos import NAMES, jpeg, source
from support.plain_uploads import IDS, upload
from support.requests import Client, client_of, post
from support.servers import running_milvus, running_standalone, running_valkey
from support.stand_in import StandIn

from twinlens.models.registry import DEFAULT_MODELS
from twinlens.shared.blobs import image_id_of
from twinlens.shared.libraries import DEFAULT_LIBRARY, new_library
from twinlens.shared.redis.catalog import Catalog
from twinlens.shared.redis.client import connect
from twinlens.shared.settings import Settings
from twinlens.workers.process.runtime import build_runtime

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from pymilvus import MilvusClient

    from twinlens.shared.redis.client import Redis
    from twinlens.workers.process.runtime import Runtime


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
    """Milvus Lite, unless a test is `on_every_milvus`."""
    uri: str = request.getfixturevalue(getattr(request, "param", "lite_uri"))
    with tidied(uri, milvus_clients, kept_collections):
        yield uri


@pytest.fixture
def settings(redis_url: str, milvus_uri: str, tmp_path: Any) -> Settings:
    return Settings(
        redis_url=redis_url,
        milvus_uri=milvus_uri,
        milvus_timeout_s=60,  # a busy machine is no outage
        verify_time_limit_ms=60_000,
        data_dir=tmp_path,
        chunk_items=4,
        max_picture_bytes=10_000,
        max_body_bytes=1_000_000,
    )


@pytest.fixture
def redis(settings: Settings) -> Iterator[Redis]:
    with connect(settings.redis_url) as client:
        client.flushall()
        # As the first worker leaves it.
        Catalog(client).ensure_library(new_library(DEFAULT_LIBRARY, DEFAULT_MODELS))
        yield client


@pytest.fixture
def client(settings: Settings, redis: Redis) -> Client:
    return client_of(settings)


@pytest.fixture
def worker(redis: Redis) -> StandIn:
    return StandIn(redis)


@pytest.fixture(scope="session")
def small_photos() -> dict[str, bytes]:
    """Photos by name, each a JPEG of 128 px: under the 10 kB that the test settings allow."""
    photos = {}
    for name in NAMES:
        photo = source(name)
        photo.thumbnail((128, 128))
        photos[name] = jpeg(photo, quality=80)
    return photos


@pytest.fixture
def runtime(settings: Settings, redis: Redis, models_dir: Path) -> Runtime:
    settings.data_dir.joinpath("models").symlink_to(models_dir)
    return build_runtime(settings, ["bulk"], KeptModels(settings.models_dir))


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
def filled(client: Client, process: WorkerProcess) -> list[str]:
    """Plain pictures, embedded by `process`: their ids."""
    upload(client)
    process.run_all("bulk")
    assert process.runtime.catalog.count("default") == len(IDS)
    return IDS


@pytest.fixture
def library(client: Client, runtime: Runtime, small_photos: dict[str, bytes]) -> dict[str, str]:
    """The small photos, embedded: image ids by name."""
    job_id = post(client, list(small_photos.items()))
    assert outcomes(runtime, job_id) == ["succeeded"] * len(NAMES)
    return {name: image_id_of(content) for name, content in small_photos.items()}
