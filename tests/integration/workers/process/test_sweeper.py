"""What was lost is found, and nothing else is touched: each thing as kombu really has it."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

import pytest
from support.beats import beat
from support.plain_uploads import IDS, ending, job_of, upload, upload_one
from support.records import image
from support.requests import assert_problem, post
from support.servers import set_rules, wait_until
from support.tiny_pair import plain_picture

from twinlens.shared.libraries import new_library
from twinlens.shared.messages import CatalogEntry, now
from twinlens.shared.queue import chunk_task
from twinlens.shared.redis import feed, keys, scripts
from twinlens.shared.redis.jobs import Job
from twinlens.shared.redis.presence import SILENCE_S, announce
from twinlens.workers.process import sweeper
from twinlens.workers.process.sweeper import SWEEP_S

if TYPE_CHECKING:
    from collections.abc import Callable

    from support.doors import Door
    from support.inside_worker import WorkerProcess
    from support.requests import Client


@pytest.fixture
def at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing is too young to be lost."""
    monkeypatch.setattr(sweeper, "MIN_AGE_S", 0)


both_uploads = pytest.mark.parametrize(
    ("queue", "post"), [("bulk", upload), ("single", upload_one)]
)


@both_uploads
def test_a_lost_chunk_is_queued_again_where_it_was(
    client: Client,
    process: WorkerProcess,
    at_once: None,
    queue: str,
    post: Callable[[Client], str],
) -> None:
    job_id = post(client)
    request_id = process.runtime.jobs.get(job_id).request_id
    process.lose(queue)
    process.runtime.sweeper.sweep(process.celery)
    assert process.queued(queue) == [f"{job_id}.0"]
    message = process.take(queue)
    assert message.headers["request_id"] == request_id
    assert sum(rescues(client).values()) == 1
    process.request(message).execute()
    assert ending(client, job_id) == ("succeeded", None)


@both_uploads
def test_a_chunk_that_waits_is_not_queued_twice(
    client: Client,
    process: WorkerProcess,
    at_once: None,
    queue: str,
    post: Callable[[Client], str],
) -> None:
    job_id = post(client)
    process.runtime.sweeper.sweep(process.celery)
    assert process.queued(queue) == [f"{job_id}.0"]


@both_uploads
def test_a_chunk_that_a_worker_holds_is_not_queued_again(
    client: Client,
    process: WorkerProcess,
    at_once: None,
    queue: str,
    post: Callable[[Client], str],
) -> None:
    job_id = post(client)
    message = process.take(queue)
    process.runtime.sweeper.sweep(process.celery)
    assert process.queued(queue) == []
    process.request(message).execute()
    assert ending(client, job_id) == ("succeeded", None)


@both_uploads
def test_what_is_young_may_still_be_on_its_way(
    client: Client,
    process: WorkerProcess,
    queue: str,
    post: Callable[[Client], str],
) -> None:
    post(client)
    process.lose(queue)
    process.runtime.sweeper.sweep(process.celery)
    assert process.queued(queue) == []


def test_a_chunk_counts_as_lost_after_twenty_seconds(
    client: Client, process: WorkerProcess, monkeypatch: pytest.MonkeyPatch
) -> None:
    job_id = upload(client)
    process.lose("bulk")
    moment = time.time()
    monkeypatch.setattr(time, "time", lambda: moment + 21)
    process.runtime.sweeper.sweep(process.celery)
    assert process.queued("bulk") == [f"{job_id}.0"]


def test_only_the_lost_one_of_several_is_queued_again(
    client: Client, process: WorkerProcess, at_once: None
) -> None:
    """One is held, one is lost, and a third waits, of another job."""
    lost, held = upload(client), upload(client)
    process.lose("bulk")
    process.take("bulk")
    process.runtime.feed.forget_chunk(held, 0)
    waits = upload(client)
    process.runtime.sweeper.sweep(process.celery)
    assert sorted(process.queued("bulk")) == sorted([f"{lost}.0", f"{waits}.0"])


# Jobs of one task.


def rescues(client: Client) -> dict[str, int]:
    counted: dict[str, int] = client.get("/v1/stats").json["rescues"]
    return counted


def delete_one(client: Client) -> Any:
    return client.delete(f"/v1/images/{IDS[0]}")


def delete_library(client: Client) -> Any:
    assert client.put("/v1/libraries/art", json={"models": ["phash"]}).status_code == 201
    return client.delete("/v1/libraries/art")


def find_duplicates(client: Client) -> Any:
    return client.post("/v1/duplicates", json={})


@pytest.mark.parametrize("ask", [delete_one, delete_library, find_duplicates])
def test_a_lost_task_is_queued_again_where_it_was(
    client: Client,
    process: WorkerProcess,
    filled: list[str],
    at_once: None,
    ask: Callable[[Client], Any],
) -> None:
    job_id = ask(client).json["id"]
    process.lose("single")
    process.runtime.sweeper.sweep(process.celery)
    assert process.queued("single") == [job_id]
    process.run_next("single")
    assert ending(client, job_id) == ("succeeded", None)
    assert not process.runtime.redis.exists(keys.TASKS)
    assert rescues(client) == {process.runtime.jobs.get(job_id).kind: 1}


@pytest.mark.parametrize("queue", ["single", "search"])
def test_a_task_that_waits_or_is_held_is_left_alone(
    client: Client, process: WorkerProcess, filled: list[str], at_once: None, queue: str
) -> None:
    if queue == "single":
        held, waits = (find_duplicates(client).json["id"] for _ in range(2))
    else:
        asked = {"image_id": filled[0]}
        held, waits = (client.post("/v1/search", json=asked).json["id"] for _ in range(2))
    process.take(queue)
    process.runtime.sweeper.sweep(process.celery)
    assert process.queued(queue) == [waits]
    assert ending(client, held) == ("queued", None)


def test_a_task_whose_api_died_before_it_was_queued_is_queued(
    client: Client, process: WorkerProcess, filled: list[str], at_once: None
) -> None:
    set_rules(process.runtime.redis, "-lpush", "-del")
    assert_problem(delete_one(client), 503, "unavailable")
    set_rules(process.runtime.redis, "+@all")
    [job_id] = [job["id"] for job in client.get("/v1/jobs?kind=delete").json["items"]]
    process.runtime.sweeper.sweep(process.celery)
    process.run_all("single")
    assert ending(client, job_id) == ("succeeded", None)


def test_a_search_that_is_lost_ends_as_failed_and_may_be_asked_again(
    client: Client, process: WorkerProcess, filled: list[str], at_once: None
) -> None:
    job_id = client.post("/v1/search", json={"image_id": filled[0]}).json["id"]
    process.lose("search")
    process.runtime.sweeper.sweep(process.celery)
    assert ending(client, job_id) == ("failed", "unavailable")
    assert job_of(client, job_id)["error"]["retryable"]
    assert process.queued("search") == []
    assert rescues(client) == {"search": 1}


def test_a_queue_that_is_long_is_read_once_it_is_shorter(
    client: Client, process: WorkerProcess, at_once: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sweeper, "MAX_READ", 1)
    lost = upload_one(client, "red.png")
    process.lose("single")
    waits = [upload_one(client, name) for name in ("green.png", "blue.png")]
    process.runtime.sweeper.sweep(process.celery)
    assert process.queued("single") == [f"{job_id}.0" for job_id in waits]
    process.run_next("single")
    process.runtime.redis.delete(keys.SWEEP)
    process.runtime.sweeper.sweep(process.celery)
    assert process.queued("single") == [f"{waits[1]}.0", f"{lost}.0"]


def end(process: WorkerProcess, job_id: str) -> None:
    process.runtime.jobs.cancel(job_id)


def expire(process: WorkerProcess, job_id: str) -> None:
    process.runtime.redis.hset(keys.job(job_id), "ttl_s", 0)
    process.runtime.jobs.cancel(job_id)


def forget(process: WorkerProcess, job_id: str) -> None:
    process.runtime.jobs.forget(process.runtime.jobs.get(job_id))


@pytest.mark.parametrize("go", [end, expire, forget])
def test_a_chunk_of_a_job_that_is_over_is_not_queued_again(
    client: Client,
    process: WorkerProcess,
    at_once: None,
    go: Callable[[WorkerProcess, str], None],
) -> None:
    job_id = upload(client)
    process.lose("bulk")
    go(process, job_id)
    process.runtime.sweeper.sweep(process.celery)
    assert process.queued("bulk") == []
    assert process.runtime.redis.zcard(keys.FED) == 0, "it makes room for another"


def test_a_chunk_that_is_counted_is_not_queued_again(
    client: Client, process: WorkerProcess, at_once: None
) -> None:
    colours = [(f"{n}.png", plain_picture(f"#{n:06x}")) for n in range(8)]
    job_id = post(client, colours)
    process.run_next("bulk")
    # As if it had been noted as fed after it was done.
    process.runtime.redis.zadd(keys.FED, {f"{job_id}.0": time.time()})
    process.runtime.sweeper.sweep(process.celery)
    assert process.queued("bulk") == [f"{job_id}.1"]
    assert process.runtime.redis.zrange(keys.FED, 0, -1) == [f"{job_id}.1"]


def test_a_lost_chunk_makes_room_and_the_next_is_queued(
    client: Client, process: WorkerProcess, at_once: None
) -> None:
    ended = [upload(client) for _ in range(2)]
    waits = upload(client)
    for job_id in ended:
        process.lose("bulk")
        process.runtime.jobs.cancel(job_id)
    process.runtime.sweeper.sweep(process.celery)
    assert process.queued("bulk") == [f"{waits}.0"]


# Uploads without an API process.


@pytest.fixture
def arrival_of_a_second(monkeypatch: pytest.MonkeyPatch) -> None:
    """The sign that an upload is being read lives for a second."""
    for module in (scripts, feed):
        monkeypatch.setattr(module, "ARRIVAL_TTL_S", 1)


def begin_upload(process: WorkerProcess, kind: Any = "bulk") -> None:
    job = Job(id="lost", kind=kind, library="default", created_at=now(), ttl_s=60)
    process.runtime.jobs.create(job)


def test_an_upload_that_is_being_read_is_left_alone(process: WorkerProcess) -> None:
    begin_upload(process)
    process.runtime.sweeper.sweep(process.celery)
    assert not process.runtime.jobs.get("lost").has_ended


def test_an_upload_that_goes_on_is_being_read(
    process: WorkerProcess, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(scripts, "ARRIVAL_TTL_S", 1)
    begin_upload(process)
    process.runtime.feed.still_arrives("lost")
    assert 10 < process.runtime.redis.ttl(keys.arrival("lost")) <= 20


@pytest.mark.parametrize("is_renewed", [False, True])
def test_an_upload_whose_api_process_is_gone_ends_as_failed(
    process: WorkerProcess, arrival_of_a_second: None, is_renewed: bool
) -> None:
    begin_upload(process)
    if is_renewed:
        process.runtime.feed.still_arrives("lost")
    wait_until(lambda: process.runtime.feed.lost_arrivals() == ["lost"], 30)
    process.runtime.sweeper.sweep(process.celery)
    job = process.runtime.jobs.get("lost")
    assert (job.status, job.total) == ("failed", 0)
    assert job.error is not None
    assert job.error.type.endswith(":upload-broken")
    assert process.runtime.feed.lost_arrivals() == []
    assert not process.runtime.redis.exists(keys.ARRIVING)


def test_what_arrived_of_a_lost_upload_is_embedded_all_the_same(
    client: Client, process: WorkerProcess, arrival_of_a_second: None
) -> None:
    begin_upload(process)
    process.runtime.feed.add_chunk("lost", 0, 3)
    wait_until(lambda: process.runtime.feed.lost_arrivals() == ["lost"], 30)
    process.runtime.sweeper.sweep(process.celery)
    assert process.queued("bulk") == ["lost.0"]
    assert rescues(client) == {"bulk": 1}
    assert job_of(client, "lost")["progress"]["total"] == 3
    assert not process.runtime.jobs.get("lost").has_ended


# One at a time, and whatever happens.


def test_one_worker_of_all_sweeps_at_a_time(
    client: Client, process: WorkerProcess, at_once: None
) -> None:
    process.runtime.sweeper.sweep(process.celery)
    upload(client)
    process.lose("bulk")
    process.runtime.sweeper.sweep(process.celery)
    assert process.queued("bulk") == [], "somebody has just looked"


def test_a_worker_that_dies_as_it_sweeps_holds_up_the_others_for_a_while(
    client: Client, process: WorkerProcess, at_once: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sweeper, "SWEEP_S", 1)
    process.runtime.sweeper.sweep(process.celery)
    job_id = upload(client)
    process.lose("bulk")

    def is_found() -> bool:
        process.runtime.sweeper.sweep(process.celery)
        return process.queued("bulk") == [f"{job_id}.0"]

    wait_until(is_found, 30)


def test_the_life_of_a_sweep_is_that_of_its_period(process: WorkerProcess) -> None:
    process.runtime.sweeper.sweep(process.celery)
    assert 0 < process.runtime.redis.ttl(keys.SWEEP) <= SWEEP_S == 10


def test_the_dead_are_not_counted_when_chunks_are_fed(
    client: Client, process: WorkerProcess
) -> None:
    colours = [(f"{n}.png", plain_picture(f"#{n:06x}")) for n in range(20)]
    job_id = post(client, colours)
    two = [f"{job_id}.0", f"{job_id}.1"]
    assert process.queued("bulk") == two
    for name in "abc":
        announce(process.runtime.redis, beat(name, time.time() - SILENCE_S - 1))
    process.runtime.sweeper.sweep(process.celery)
    assert process.queued("bulk") == two
    assert not process.runtime.redis.exists(keys.WORKERS)


def test_the_living_are_fed_by_their_number(client: Client, process: WorkerProcess) -> None:
    colours = [(f"{n}.png", plain_picture(f"#{n:06x}")) for n in range(20)]
    post(client, colours)
    announce(process.runtime.redis, beat("a", time.time()))
    process.runtime.sweeper.sweep(process.celery)
    assert len(process.queued("bulk")) == 4


def test_a_sweep_outlives_an_outage_of_milvus(
    process: WorkerProcess, door: Door, filled: list[str]
) -> None:
    door.shut()
    process.runtime.sweeper.sweep(process.celery)
    assert process.runtime.catalog.calibrations("default") == {}
    door.open()

    def is_measured() -> bool:
        process.runtime.redis.delete(keys.SWEEP)
        process.runtime.sweeper.sweep(process.celery)
        return process.runtime.catalog.calibrations("default") != {}

    wait_until(is_measured, 60)


# What is gone, or broken, does not keep the rest from being looked after.


@pytest.mark.parametrize("kind", ["bulk", "embed"])
def test_a_record_that_is_gone_does_not_end_the_sweep(
    client: Client, process: WorkerProcess, at_once: None, kind: Any
) -> None:
    job = Job(id="gone", kind=kind, library="default", created_at=now(), ttl_s=60)
    job.task = None if kind == "bulk" else chunk_task("single", job.id, 0)
    process.runtime.jobs.create(job)
    # As if it had been taken back just as it was listed.
    process.runtime.redis.delete(keys.job("gone"), keys.arrival("gone"))
    lost = upload_one(client)
    process.lose("single")
    process.runtime.sweeper.sweep(process.celery)
    assert process.queued("single") == [f"{lost}.0"]
    assert not process.runtime.redis.exists(keys.ARRIVING)
    assert process.runtime.jobs.open_tasks("single", 0) == [lost]


def test_a_library_whose_model_is_gone_does_not_keep_others_from_being_measured(
    process: WorkerProcess, filled: list[str]
) -> None:
    catalog = process.runtime.catalog
    broken = new_library("a", ["gone@1"])
    catalog.ensure_library(broken)
    catalog.put(broken.name, [CatalogEntry(image=image("1" * 64), added_by="j:0:0")])
    process.runtime.sweeper.sweep(process.celery)
    assert catalog.calibrations("default") != {}
