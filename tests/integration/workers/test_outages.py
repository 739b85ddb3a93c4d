"""Milvus and Redis may be away: what was accepted waits, and none of it is given up."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

import pytest
from kombu.exceptions import OperationalError
from redis import ConnectionError as RedisAway
from redis import RedisError, ResponseError
from support.doors import Door
from support.plain_uploads import IDS, ending, go_on, job_of, outcomes, upload, upload_one
from support.servers import wait_until
from support.tiny_pair import pair_card, picture_graph, text_graph, tokenizer_file

from twinlens.shared.errors import Unavailable
from twinlens.shared.queue import COUNT_VECTORS, Reply
from twinlens.shared.redis import keys
from twinlens.workers.process import sweeper
from twinlens.workers.process.app import redis_of_parent
from twinlens.workers.process.runtime import build_runtime

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from support.inside_worker import WorkerProcess
    from support.requests import Client

    from twinlens.shared.libraries import Library
    from twinlens.shared.redis.client import Redis
    from twinlens.shared.settings import Settings

    Outage = Callable[[Door], None]

# More than the tries that a picture, or a task, has when it ends its process.
N_OUTAGES = 5

outages = pytest.mark.parametrize(
    ("outage", "milvus_timeout_s"),
    [pytest.param(Door.shut, 60, id="refused"), pytest.param(Door.hush, 0.2, id="silent")],
)


def try_in_vain(process: WorkerProcess, queue: str, door: Door, outage: Outage) -> None:
    outage(door)
    for _ in range(N_OUTAGES):
        process.run_next(queue)
        assert process.runtime.redis.hlen("unacked") == 0, "no message is left behind"
    door.open()


def assert_vectors(process: WorkerProcess, expected: dict[str, int]) -> None:
    """Counts, for as often as a call is cut short."""

    def is_counted() -> bool:
        try:
            return process.runtime.images.count_vectors("default") == expected
        except Unavailable:
            return False

    wait_until(is_counted, 60)


@outages
def test_pictures_outlive_any_number_of_outages_of_milvus(
    client: Client, process: WorkerProcess, door: Door, outage: Outage
) -> None:
    job_id = upload(client)
    try_in_vain(process, "bulk", door, outage)
    assert process.runtime.catalog.count("default") == 0
    assert job_of(client, job_id)["status"] == "running"
    go_on(process, "bulk", job_id)
    assert outcomes(client, job_id) == ["succeeded"] * 3
    assert_vectors(process, {"phash": 3})


def remove_one(client: Client) -> Any:
    return client.delete(f"/v1/images/{IDS[0]}")


def find_duplicates(client: Client) -> Any:
    return client.post("/v1/duplicates", json={})


@outages
@pytest.mark.parametrize("ask", [remove_one, find_duplicates])
def test_a_task_outlives_any_number_of_outages_of_milvus(
    client: Client,
    process: WorkerProcess,
    door: Door,
    filled: list[str],
    outage: Outage,
    ask: Callable[[Client], Any],
) -> None:
    job_id = ask(client).json["id"]
    try_in_vain(process, "single", door, outage)
    assert job_of(client, job_id)["status"] == "running"
    assert client.get(f"/v1/images/{filled[0]}").status_code == 200, "it is not gone by half"
    go_on(process, "single", job_id)
    assert job_of(client, job_id)["status"] == "succeeded"


@pytest.fixture
def two_models(
    settings: Settings, models_dir: Path, process: WorkerProcess, filled: list[str]
) -> list[str]:
    """There is another model than the library has: what it is to have, with that."""
    own = settings.models_dir
    own.unlink()
    own.mkdir()
    for file in models_dir.iterdir():
        (own / file.name).symlink_to(file)
    process.runtime.registry.add(pair_card(), picture_graph(), (text_graph(), tokenizer_file()))
    process.runtime.publish()
    return ["phash", "colours"]


@outages
def test_a_change_of_a_library_outlives_any_number_of_outages_of_milvus(
    client: Client, process: WorkerProcess, door: Door, two_models: list[str], outage: Outage
) -> None:
    job_id = client.put("/v1/libraries/default", json={"models": two_models}).json["id"]
    process.run_all("single")
    try_in_vain(process, "bulk", door, outage)
    go_on(process, "bulk", job_id)
    assert ending(client, job_id) == ("succeeded", None)
    assert_vectors(process, {"phash": 3, "colours": 3})


def test_a_change_of_a_library_that_got_empty_outlives_an_outage_of_milvus(
    client: Client, process: WorkerProcess, door: Door, two_models: list[str]
) -> None:
    job_id = client.put("/v1/libraries/default", json={"models": two_models}).json["id"]
    for image_id in IDS:
        process.runtime.catalog.remove("default", image_id)
    door.shut()
    process.run_next("single")
    assert job_of(client, job_id)["status"] == "running"
    door.open()
    wait_until(lambda: milvus_answers(process), 60)
    process.run_all("single")
    process.runtime.sweeper.sweep(process.celery)
    assert ending(client, job_id) == ("succeeded", None)


def milvus_answers(process: WorkerProcess) -> bool:
    try:
        process.runtime.vectors.ping(timeout_s=5)
    except Unavailable:
        return False
    return True


@outages
def test_a_search_tells_that_milvus_is_away(
    client: Client, process: WorkerProcess, door: Door, filled: list[str], outage: Outage
) -> None:
    job_id = client.post("/v1/search", json={"image_id": filled[0]}).json["id"]
    outage(door)
    process.run_next("search")
    assert ending(client, job_id) == ("failed", "unavailable")
    assert process.queued("search") == []


@outages
def test_a_caller_is_told_that_milvus_is_away(
    process: WorkerProcess, filled: list[str], door: Door, outage: Outage
) -> None:
    outage(door)
    kwargs = {"library": "default"}
    process.celery.send_task(COUNT_VECTORS, kwargs=kwargs, task_id="call", queue="search")
    process.run_next("search")
    [text] = process.runtime.redis.lrange(keys.reply("call"), 0, -1)
    error = Reply.model_validate_json(text).error
    assert error is not None
    assert error.type.endswith(":unavailable")
    assert 0 < process.runtime.redis.ttl(keys.reply("call")) <= 60


class Breaking:
    """The connection of a Redis client, which breaks once, at the call of this name."""

    def __init__(
        self,
        patch: pytest.MonkeyPatch,
        redis: Redis,
        name: str,
        error: RedisError | None = None,
    ) -> None:
        self.is_broken = False
        self._error = error or RedisAway("Connection reset by peer")
        self._call: Callable[..., Any] = getattr(redis, name)
        patch.setattr(redis, name, self._break_once)

    def _break_once(self, *args: Any, **options: Any) -> Any:
        if not self.is_broken:
            self.is_broken = True
            raise self._error
        return self._call(*args, **options)


@pytest.mark.parametrize("ask", [remove_one, find_duplicates])
def test_a_task_outlives_a_broken_connection_to_redis(
    client: Client,
    process: WorkerProcess,
    filled: list[str],
    monkeypatch: pytest.MonkeyPatch,
    ask: Callable[[Client], Any],
) -> None:
    job_id = ask(client).json["id"]
    breaking = Breaking(monkeypatch, process.runtime.redis, "hget")
    process.run_next("single")
    assert breaking.is_broken
    assert ending(client, job_id) == ("running", None)
    process.run_next("single")
    assert ending(client, job_id) == ("succeeded", None)


@pytest.fixture
def no_publishing(process: WorkerProcess, monkeypatch: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    """The worker cannot put anything into its queues: Redis is away just then."""

    def fail(*_: Any, **__: Any) -> None:
        raise OperationalError("Connection refused")

    monkeypatch.setattr(process.celery.amqp, "send_task_message", fail)
    return monkeypatch


@pytest.mark.parametrize("ask", [remove_one, find_duplicates])
def test_a_task_that_cannot_be_queued_for_later_goes_back(
    client: Client,
    process: WorkerProcess,
    filled: list[str],
    no_publishing: pytest.MonkeyPatch,
    ask: Callable[[Client], Any],
) -> None:
    """Celery would drop its message: then the job waits for ever."""
    job_id = ask(client).json["id"]
    breaking = Breaking(no_publishing, process.runtime.redis, "hget")
    process.run_next("single")
    assert breaking.is_broken
    assert ending(client, job_id) == ("running", None)
    assert process.queued("single") == [job_id]
    process.run_next("single")
    assert ending(client, job_id) == ("succeeded", None)


@pytest.mark.parametrize("ask", [remove_one, find_duplicates])
def test_a_task_whose_end_redis_refuses_is_looked_for(
    client: Client,
    process: WorkerProcess,
    filled: list[str],
    monkeypatch: pytest.MonkeyPatch,
    ask: Callable[[Client], Any],
) -> None:
    """As where a disk is full: Redis would refuse the message as well, which ends a worker."""
    monkeypatch.setattr(sweeper, "MIN_AGE_S", 0)
    job_id = ask(client).json["id"]
    backend: Any = process.celery.backend
    with pytest.MonkeyPatch.context() as patch:
        breaking = Breaking(
            patch, backend.client, "evalsha", ResponseError("MISCONF No space left")
        )
        process.run_next("single")
        assert breaking.is_broken
    assert ending(client, job_id) == ("running", None)
    assert process.queued("single") == []
    process.runtime.sweeper.sweep(process.celery)
    process.run_next("single")
    assert ending(client, job_id) == ("succeeded", None)


def test_a_failure_that_redis_cannot_be_told_is_told_later(
    client: Client, process: WorkerProcess, filled: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sweeper, "MIN_AGE_S", 0)
    job_id = remove_one(client).json["id"]
    process.runtime.redis.delete(keys.LIBRARIES)
    breaking = Breaking(monkeypatch, redis_of_parent(), "evalsha")
    with pytest.warns(RuntimeWarning, match="outside body"):
        process.run_next("single")
    assert breaking.is_broken
    assert ending(client, job_id) == ("running", None)
    process.runtime.sweeper.sweep(process.celery)
    process.run_next("single")
    assert ending(client, job_id) == ("failed", "library-not-found")


@pytest.mark.parametrize("call", ["hget", "hmget"])
def test_a_search_tells_that_redis_is_away(
    client: Client,
    process: WorkerProcess,
    filled: list[str],
    monkeypatch: pytest.MonkeyPatch,
    call: str,
) -> None:
    job_id = client.post("/v1/search", json={"image_id": filled[0]}).json["id"]
    breaking = Breaking(monkeypatch, process.runtime.redis, call)
    process.run_next("search")
    assert breaking.is_broken
    assert ending(client, job_id) == ("failed", "unavailable")
    assert job_of(client, job_id)["error"]["retryable"]


def test_a_process_starts_while_milvus_is_away(
    process: WorkerProcess, door: Door, redis: Redis
) -> None:
    door.shut()
    redis.delete(keys.MODELS)
    started = build_runtime(process.runtime.settings, ["search"])
    started.warm_up()
    assert "phash@1" in started.catalog.models()


def test_a_process_starts_though_the_default_library_lacks_a_model(
    client: Client, process: WorkerProcess
) -> None:
    def name_another(library: Library) -> Library:
        library.models.append("gone@1")
        return library

    process.runtime.catalog.change_library("default", name_another)
    started = build_runtime(process.runtime.settings, ["search"])
    started.warm_up()
    assert client.get("/v1/libraries/default").json["missing_models"] == ["gone@1"]
    assert client.put("/v1/libraries/default", json={"models": ["phash"]}).status_code == 200
    assert client.get("/v1/libraries/default").json["missing_models"] == []


def header_in(process: WorkerProcess, queue: str) -> dict[str, Any]:
    """Returns the header of the one message of a queue."""
    [text] = process.runtime.redis.lrange(queue, 0, -1)
    header: dict[str, Any] = json.loads(text)["headers"]
    return header


@pytest.mark.parametrize(("queue", "post"), [("bulk", upload), ("single", upload_one)])
def test_what_is_tried_again_is_so_in_five_seconds_and_in_the_same_queue(
    client: Client,
    process: WorkerProcess,
    door: Door,
    queue: str,
    post: Callable[[Client], str],
) -> None:
    post(client)
    before = header_in(process, queue)
    door.shut()
    earliest = datetime.now(UTC)
    process.run_next(queue)
    again = header_in(process, queue)
    pause = timedelta(seconds=5)
    assert earliest + pause <= datetime.fromisoformat(again["eta"]) <= datetime.now(UTC) + pause
    for name in ("id", "request_id", "task"):
        assert again[name] == before[name]


@pytest.mark.parametrize("call", ["hget", "hmget"])
def test_pictures_outlive_a_broken_connection_to_redis(
    client: Client, process: WorkerProcess, monkeypatch: pytest.MonkeyPatch, call: str
) -> None:
    job_id = upload(client)
    breaking = Breaking(monkeypatch, process.runtime.redis, call)
    process.run_next("bulk")
    assert breaking.is_broken
    assert job_of(client, job_id)["status"] == "running"
    process.run_next("bulk")
    assert outcomes(client, job_id) == ["succeeded"] * 3


def test_a_change_of_a_library_outlives_the_loss_of_its_plan(
    client: Client,
    process: WorkerProcess,
    two_models: list[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(sweeper, "MIN_AGE_S", 0)
    job_id = client.put("/v1/libraries/default", json={"models": two_models}).json["id"]
    process.lose("single")
    process.runtime.sweeper.sweep(process.celery)
    process.run_all("single")
    assert not process.runtime.redis.exists(keys.TASKS), "only its chunks are left to be done"
    process.run_all("bulk")
    assert ending(client, job_id) == ("succeeded", None)
