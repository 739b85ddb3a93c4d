"""The feed: whose chunk is next, how many are on their way, and what becomes of lost uploads."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

import pytest
from support.results import stored_items

from twinlens.api.services import Services, build_services
from twinlens.shared.errors import UploadBroken
from twinlens.shared.messages import Item, now
from twinlens.shared.queue import make_celery
from twinlens.shared.redis import keys
from twinlens.shared.redis.feed import Feed
from twinlens.shared.redis.jobs import Job, Jobs
from twinlens.shared.redis.scripts import ARRIVAL_TTL_S
from twinlens.workers.process.sweeper import MIN_AGE_S, SWEEP_S

if TYPE_CHECKING:
    from support.stand_in import StandIn

    from twinlens.shared.messages import JobKind
    from twinlens.shared.redis.client import Redis
    from twinlens.shared.settings import Settings
    from twinlens.workers.process.runtime import Runtime

LOST = UploadBroken("It was lost.").to_problem()


@pytest.fixture
def jobs(redis: Redis) -> Jobs:
    return Jobs(redis)


@pytest.fixture
def feed(redis: Redis) -> Feed:
    return Feed(redis)


@pytest.fixture
def services(settings: Settings, redis: Redis) -> Services:
    return build_services(settings)


def create(
    jobs: Jobs, feed: Feed, job_id: str, n_chunks: int, library: str = "default", **fields: Any
) -> None:
    """Makes a bulk job of chunks of two pictures."""
    kind: JobKind = fields.pop("kind", "bulk")
    job = Job(id=job_id, kind=kind, library=library, created_at=now(), ttl_s=5_000, **fields)
    jobs.create(job)
    for chunk in range(n_chunks):
        assert feed.add_chunk(job_id, chunk, 2)


def count(redis: Redis, job_id: str, chunk: int, outcome: Any = "succeeded") -> None:
    jobs = Jobs(redis)
    jobs.start(job_id)
    items = [Item(name="a", image_id=None, outcome=outcome)] * 2
    jobs.count_chunk(job_id, chunk, items, stored_items(job_id, chunk, items))


def queued(worker: StandIn) -> list[str]:
    return [task["id"] for task in worker.queued() if task["queue"] == "bulk"]


def expire_arrival(redis: Redis, job_id: str) -> None:
    """Lets the time pass in which nothing is heard of an upload."""
    assert 0 < int(redis.ttl(keys.arrival(job_id))) <= ARRIVAL_TTL_S
    redis.expire(keys.arrival(job_id), 0)


class Sweeper:
    """Sweeps, each time as if half a minute had gone by."""

    def __init__(self, runtime: Runtime, monkeypatch: pytest.MonkeyPatch) -> None:
        self._runtime, self._patch = runtime, monkeypatch
        self._app = make_celery(runtime.settings)
        self._late_s = 0.0
        self._time = time.time

    def __call__(self) -> None:
        self._late_s += MIN_AGE_S + 1
        self._patch.setattr(time, "time", lambda: self._time() + self._late_s)
        self._runtime.redis.delete(keys.SWEEP)  # which is held for SWEEP_S
        self._runtime.sweeper.sweep(self._app)


@pytest.fixture
def sweep_later(runtime: Runtime, monkeypatch: pytest.MonkeyPatch) -> Sweeper:
    return Sweeper(runtime, monkeypatch)


# Uploads that arrive, and those that do not any more.


def test_an_upload_of_which_nothing_is_heard_is_lost_in_time(
    redis: Redis, jobs: Jobs, feed: Feed
) -> None:
    create(jobs, feed, "j", 1)
    assert ARRIVAL_TTL_S - 10 < int(redis.ttl(keys.arrival("j"))) <= ARRIVAL_TTL_S
    assert feed.lost_arrivals() == []
    expire_arrival(redis, "j")
    assert feed.lost_arrivals() == ["j"]
    feed.still_arrives("j")
    assert ARRIVAL_TTL_S - 10 < int(redis.ttl(keys.arrival("j"))) <= ARRIVAL_TTL_S
    assert feed.lost_arrivals() == []


@pytest.mark.parametrize("kind", ["embed", "search", "delete", "duplicates", "reindex"])
def test_what_does_not_arrive_in_parts_is_never_a_lost_upload(
    redis: Redis, jobs: Jobs, feed: Feed, kind: JobKind
) -> None:
    create(jobs, feed, "j", 0, kind=kind)
    assert feed.lost_arrivals() == []


def test_an_upload_that_ended_may_wait_for_its_turn_as_long_as_it_must(
    redis: Redis, jobs: Jobs, feed: Feed, sweep_later: Sweeper
) -> None:
    create(jobs, feed, "j", 1)
    feed.seal("j")
    expire_arrival(redis, "j")
    assert feed.lost_arrivals() == []
    sweep_later()
    count(redis, "j", 0)
    assert (jobs.get("j").status, jobs.get("j").error) == ("succeeded", None)


def test_an_upload_that_ends_just_as_the_sweeper_finds_it_lost_is_whole(
    redis: Redis, jobs: Jobs, feed: Feed
) -> None:
    create(jobs, feed, "j", 1)
    expire_arrival(redis, "j")
    [lost] = feed.lost_arrivals()
    feed.seal("j")
    feed.seal(lost, LOST)
    count(redis, "j", 0)
    assert (jobs.get("j").status, jobs.get("j").error) == ("succeeded", None)


def test_a_lost_upload_takes_no_more_and_ends_as_failed(
    redis: Redis, jobs: Jobs, feed: Feed, sweep_later: Sweeper
) -> None:
    create(jobs, feed, "j", 1)
    expire_arrival(redis, "j")
    sweep_later()
    assert not feed.add_chunk("j", 1, 2)
    assert feed.lost_arrivals() == []
    count(redis, "j", 0)
    error = jobs.get("j").error
    assert (jobs.get("j").status, jobs.get("j").received) == ("failed", 2)
    assert error is not None
    assert error.type.endswith(":upload-broken")


def test_the_sweep_is_over_before_the_next() -> None:
    assert SWEEP_S < MIN_AGE_S <= ARRIVAL_TTL_S


def test_a_job_is_counted_once_all_its_chunks_are_there_and_counted(
    redis: Redis, jobs: Jobs, feed: Feed
) -> None:
    create(jobs, feed, "j", 2, kind="reindex")
    for chunk in range(2):
        count(redis, "j", chunk)
    assert not jobs.get("j").is_counted, "more may come"
    feed.add_chunk("j", 2, 2)
    feed.seal("j")
    assert not jobs.get("j").is_counted
    count(redis, "j", 2)
    assert jobs.get("j").is_counted
    assert jobs.get("j").status == "running", "its edition is switched on first"


# How many are on their way.


@pytest.mark.parametrize("n_workers", [0, 1, 3])
def test_each_worker_has_a_chunk_in_hand_and_one_that_waits_and_two_more_are_ready(
    services: Services, redis: Redis, worker: StandIn, n_workers: int
) -> None:
    for n in range(n_workers):
        redis.hset("tl:workers", f"w{n}", "{}")
    create(services.jobs, services.feed, "j", 12)
    services.publisher.feed_workers()
    assert queued(worker) == [f"j.{chunk}" for chunk in range(2 * n_workers + 2)]
    services.publisher.feed_workers()
    assert len(queued(worker)) == 2 * n_workers + 2


def test_a_counted_chunk_makes_room_for_one(
    services: Services, redis: Redis, worker: StandIn
) -> None:
    create(services.jobs, services.feed, "j", 4)
    services.publisher.feed_workers()
    assert services.feed.backlog() == 8
    count(redis, "j", 1)
    assert services.feed.backlog() == 6
    assert [services.feed.is_counted("j", chunk) for chunk in range(3)] == [False, True, False]
    services.publisher.feed_workers()
    assert queued(worker) == ["j.0", "j.1", "j.2"]


@pytest.mark.parametrize("kind", ["embed", "search", "delete"])
@pytest.mark.parametrize("is_done", [True, False])
def test_only_pictures_of_uploads_of_many_are_in_the_backlog(
    redis: Redis, jobs: Jobs, feed: Feed, kind: JobKind, is_done: bool
) -> None:
    create(jobs, feed, "upload", 2)
    job = Job(id="j", kind=kind, library="default", created_at=now(), ttl_s=5_000)
    job.n_chunks, job.received = 1, 2
    jobs.create(job)
    if is_done:
        count(redis, "j", 0)
    jobs.cancel("j")
    assert feed.backlog() == 4


@pytest.mark.parametrize("kind", ["bulk", "reindex"])
def test_what_is_left_of_a_cancelled_job_is_in_the_backlog_no_more(
    redis: Redis, jobs: Jobs, feed: Feed, kind: JobKind
) -> None:
    create(jobs, feed, "other", 1)
    create(jobs, feed, "j", 5, kind=kind)
    n_left = 12
    for chunk, outcome in enumerate(["succeeded", "skipped", "failed"]):
        count(redis, "j", chunk, outcome)
        n_left -= 2
        assert feed.backlog() == n_left
    jobs.cancel("j")
    assert feed.backlog() == 2
    count(redis, "j", 3)
    assert feed.backlog() == 2


def test_a_chunk_that_is_done_with_makes_room_for_one(
    services: Services, redis: Redis, worker: StandIn
) -> None:
    create(services.jobs, services.feed, "j", 4)
    services.publisher.feed_workers()
    services.feed.forget_chunk("j", 0)
    services.publisher.feed_workers()
    assert queued(worker) == ["j.0", "j.1", "j.2"]
    assert set(redis.zrange(keys.FED, 0, -1)) == {"j.1", "j.2"}


def test_chunks_of_cancelled_jobs_do_not_hold_up_others(
    services: Services, redis: Redis, worker: StandIn, sweep_later: Sweeper
) -> None:
    create(services.jobs, services.feed, "cancelled", 9)
    services.publisher.feed_workers()
    services.jobs.cancel("cancelled")
    assert services.feed.backlog() == 0
    redis.delete("bulk")  # their messages are lost with a worker
    create(services.jobs, services.feed, "next", 1)
    sweep_later()
    sweep_later()
    assert queued(worker) == ["next.0"]
    assert redis.zrange(keys.FED, 0, -1) == ["next.0"]


def test_only_what_is_on_its_way_for_some_time_may_be_lost(
    services: Services, monkeypatch: pytest.MonkeyPatch
) -> None:
    began_at = time.time()
    for n in range(2):
        monkeypatch.setattr(time, "time", lambda late_s=20 * n: began_at + late_s)
        create(services.jobs, services.feed, f"a.{n}", 1)
        services.publisher.feed_workers()
    assert services.feed.fed_chunks(0) == [("a.0", 0), ("a.1", 0)]
    assert services.feed.fed_chunks(10) == [("a.0", 0)]
    assert services.feed.fed_chunks(30) == []


# Whose chunk is next.


def drain(services: Services, redis: Redis, worker: StandIn) -> list[str]:
    """Works on one chunk after the other. Returns whose each was."""
    order: list[str] = []
    while True:
        services.publisher.feed_workers()
        waiting = queued(worker)
        if not waiting:
            return order
        redis.rpop("bulk")
        job_id, _, chunk = waiting[0].rpartition(".")
        count(redis, job_id, int(chunk))
        order.append(job_id)


def test_libraries_take_turns_and_so_do_the_jobs_of_each(
    services: Services, redis: Redis, worker: StandIn
) -> None:
    for job_id, library in {"a": "one", "b": "one", "c": "one", "z": "two"}.items():
        create(services.jobs, services.feed, job_id, 3, library)
    order = drain(services, redis, worker)
    assert "".join(order) == "azbzczabcabc"


def test_what_comes_later_takes_its_turn_at_once(
    services: Services, redis: Redis, worker: StandIn
) -> None:
    create(services.jobs, services.feed, "a", 9)
    services.publisher.feed_workers()
    create(services.jobs, services.feed, "b", 2)
    assert "".join(drain(services, redis, worker)) == "aaababaaaaa"


def test_a_job_whose_chunks_are_all_fed_comes_back_with_its_next(
    services: Services, redis: Redis, worker: StandIn
) -> None:
    create(services.jobs, services.feed, "a", 2)
    assert drain(services, redis, worker) == ["a", "a"]
    assert redis.keys("tl:feed:libraries*") == []
    for chunk in (2, 3):
        services.feed.add_chunk("a", chunk, 2)
    assert drain(services, redis, worker) == ["a", "a"]
    services.feed.seal("a")
    assert services.jobs.get("a").status == "succeeded"


def test_jobs_that_have_ended_are_passed_over(
    services: Services, redis: Redis, worker: StandIn
) -> None:
    for job_id in ("a", "b", "c", "d"):
        create(services.jobs, services.feed, job_id, 2)
    for job_id in ("a", "b", "d"):
        services.jobs.cancel(job_id)
    assert drain(services, redis, worker) == ["c", "c"]
    assert redis.keys("tl:feed:libraries*") == []


def test_a_chunk_is_queued_under_the_id_of_the_request_that_brought_it(
    services: Services, worker: StandIn
) -> None:
    create(services.jobs, services.feed, "j", 1, request_id="asked-1")
    services.publisher.feed_workers()
    [task] = worker.queued()
    assert task["request_id"] == "asked-1"
    assert task["kwargs"] == {"job_id": "j", "chunk": 0}
