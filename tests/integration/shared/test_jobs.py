"""Job records: what a caller is told, how soon, and for how long."""

from __future__ import annotations

import io
import itertools
import math
import time
from datetime import timedelta
from typing import TYPE_CHECKING, Any

import pytest
from support.embedding import outcomes, set_anew
from support.requests import post
from support.results import stored_items, stored_result
from support.servers import free_port

from twinlens.api.services import build_services
from twinlens.shared.errors import BrokenPicture, EmptyPicture, Unavailable, UploadBroken
from twinlens.shared.messages import Item, now
from twinlens.shared.redis import keys
from twinlens.shared.redis.client import Redis
from twinlens.shared.redis.feed import Feed
from twinlens.shared.redis.jobs import WAIT_SLICE_S, Job, Jobs

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from support.requests import Client

    from twinlens.shared.messages import Cursor, JobKind
    from twinlens.shared.settings import Settings
    from twinlens.workers.process.runtime import Runtime

BROKEN = BrokenPicture("It is broken.").to_problem()
DAY_S = 86_400


@pytest.fixture
def jobs(redis: Redis) -> Jobs:
    return Jobs(redis)


class Clock:
    """The time, which goes on when it is told to."""

    def __init__(self) -> None:
        self.now_s = 1_800_000_000.0

    def __call__(self) -> float:
        return self.now_s


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    own_clock = Clock()
    monkeypatch.setattr(time, "time", own_clock)
    return own_clock


def create(jobs: Jobs, job_id: str = "j", kind: JobKind = "delete", **fields: Any) -> Job:
    fields = {"library": "default", "ttl_s": 5_000, "created_at": now()} | fields
    job = Job(id=job_id, kind=kind, **fields)
    jobs.create(job)
    return job


def running_bulk(redis: Redis) -> Jobs:
    """Makes the job `j`, and starts it."""
    jobs = Jobs(redis)
    create(jobs, kind="bulk")
    jobs.start("j")
    return jobs


def items(*outcomes: Any) -> list[Item]:
    return [
        Item(name="a", image_id=None, outcome=one, error=BROKEN if one == "failed" else None)
        for one in outcomes
    ]


def count(redis: Redis, chunk: int, counted: list[Item], job_id: str = "j") -> None:
    Jobs(redis).count_chunk(job_id, chunk, counted, stored_items(job_id, chunk, counted))


# Waiting.


class Meanwhile(Redis):
    """A client that does something each time just before it waits for events."""

    def do_before_waiting(self, change: Callable[[], None]) -> None:
        self._change = change
        self.asked: list[str] = []  # behind which event
        self.blocks_ms: list[int] = []

    @property
    def n_waits(self) -> int:
        return len(self.asked)

    def xread(self, streams: Any, *args: Any, **kwargs: Any) -> Any:
        self.asked += streams.values()
        self.blocks_ms.append(kwargs["block"])
        self._change()
        return super().xread(streams, *args, **kwargs)


@pytest.fixture
def waiting(redis: Redis) -> Any:
    with Meanwhile(connection_pool=redis.connection_pool) as client:
        client.do_before_waiting(lambda: None)
        yield client


def test_a_wait_for_a_job_that_has_ended_does_not_wait(jobs: Jobs, waiting: Meanwhile) -> None:
    create(jobs)
    jobs.finish("j", stored=stored_result("j", '{"n": 1}'))
    job = Jobs(waiting).wait("j", 60)
    assert (job.status, waiting.n_waits) == ("succeeded", 0)
    assert job.result is not None


@pytest.fixture
def no_second_look(monkeypatch: pytest.MonkeyPatch) -> None:
    """A caller who is not woken by an event waits for longer than the connection does."""
    monkeypatch.setattr("twinlens.shared.redis.jobs.WAIT_SLICE_S", 30.0)


@pytest.mark.usefixtures("no_second_look")
def test_a_job_that_ends_between_a_look_and_the_wait_wakes_its_caller(
    jobs: Jobs, waiting: Meanwhile
) -> None:
    create(jobs)
    jobs.start("j")
    waiting.do_before_waiting(lambda: jobs.finish("j"))
    assert Jobs(waiting).wait("j", 60).status == "succeeded"
    assert waiting.n_waits == 1


@pytest.mark.usefixtures("no_second_look")
def test_progress_does_not_end_a_wait(redis: Redis, waiting: Meanwhile) -> None:
    jobs = Jobs(redis)
    create(jobs, kind="bulk")
    steps: Iterator[Callable[[], object]] = iter(
        [
            lambda: jobs.start("j"),
            lambda: count(redis, 0, items("succeeded")),
            lambda: jobs.cancel("j"),
        ]
    )

    def go_on() -> None:
        next(steps)()

    waiting.do_before_waiting(go_on)
    assert Jobs(waiting).wait("j", 60).status == "cancelled"
    assert len(set(waiting.asked)) == waiting.n_waits == 3, "each event is read once"


def test_a_wait_in_vain_tells_the_job_as_it_is_by_then(redis: Redis, waiting: Meanwhile) -> None:
    jobs = running_bulk(redis)
    chunks = itertools.count()
    waiting.do_before_waiting(lambda: count(redis, next(chunks), items("skipped")))
    job = Jobs(waiting).wait("j", 0.05)
    assert job.n_chunks_done == waiting.n_waits > 0
    assert job == jobs.get("j")
    assert max(waiting.blocks_ms) <= 50


def test_a_wait_ends_though_the_event_of_the_end_was_lost(
    redis: Redis, waiting: Meanwhile, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("twinlens.shared.redis.jobs.WAIT_SLICE_S", 0.01)
    jobs = running_bulk(redis)

    def end_and_lose() -> None:
        jobs.cancel("j")
        redis.delete(keys.events("j"))

    waiting.do_before_waiting(end_and_lose)
    assert Jobs(waiting).wait("j", 60).status == "cancelled"
    assert waiting.n_waits == 1


def test_a_wait_of_no_time_does_not_wait(jobs: Jobs, waiting: Meanwhile) -> None:
    create(jobs)
    assert Jobs(waiting).wait("j", 0).status == "queued"
    assert waiting.n_waits == 0


def test_one_look_for_events_ends_before_the_connection_is_taken_for_dead(redis: Redis) -> None:
    assert redis.connection_pool.connection_kwargs["socket_timeout"] > 2 * WAIT_SLICE_S


# Events.


def test_events_are_read_on_from_any_of_them(redis: Redis) -> None:
    jobs = running_bulk(redis)
    for chunk in range(3):
        count(redis, chunk, items("failed", "succeeded", "failed"))
    jobs.cancel("j")
    all_of_them = jobs.read_events("j", "0-0", count=100, block_s=0)
    assert [event[1:] for event in all_of_them] == [
        ("running", -1, 0),
        *(("running", chunk, 2) for chunk in range(3)),
        ("cancelled", -1, 0),
    ]
    for n_seen, event in enumerate(all_of_them, start=1):
        rest = all_of_them[n_seen:]
        assert jobs.read_events("j", event.id, count=100, block_s=0) == rest
        assert jobs.read_events("j", event.id, count=2, block_s=0) == rest[:2]
        assert jobs.read_event("j", event.id) == event
    assert jobs.read_event("j", "1-1") is None


def test_a_look_for_events_that_may_not_wait_does_not(jobs: Jobs) -> None:
    create(jobs)
    assert jobs.read_events("j", "0-0", count=1, block_s=0) == []


# Progress.


def test_the_first_toldof_a_chunk_stay(redis: Redis, settings: Settings) -> None:
    running_bulk(redis)
    for counted in (items("succeeded", "failed"), items("skipped", "skipped")):
        count(redis, 0, counted)
    assert build_services(settings).job_views.outcomes("j", [0]) == [items("succeeded", "failed")]
    job = Jobs(redis).get("j")
    assert (job.succeeded, job.skipped, job.failed, job.n_chunks_done) == (1, 0, 1, 1)


def test_a_job_fails_only_where_all_of_its_pictures_do(redis: Redis) -> None:
    jobs = Jobs(redis)
    counted = {"single": ["failed"], "many": ["failed"] * 2, "some": ["failed", "skipped"]}
    for job_id, told in counted.items():
        n, kind = len(told), "embed" if job_id == "single" else "bulk"
        create(jobs, job_id, kind, n_chunks=1, received=n, total=n)  # type: ignore[arg-type]
        jobs.start(job_id)
        count(redis, 0, items(*told), job_id)
    assert (jobs.get("single").status, jobs.get("single").error) == ("failed", BROKEN)
    all_broken = BROKEN.model_copy(update={"detail": f"All 2 pictures failed: {BROKEN.detail}"})
    assert (jobs.get("many").status, jobs.get("many").error) == ("failed", all_broken)
    assert (jobs.get("some").status, jobs.get("some").error) == ("succeeded", None)


def test_a_job_of_which_all_failed_tells_the_commonest_reason(redis: Redis) -> None:
    jobs = Jobs(redis)
    create(jobs, "j", "bulk", n_chunks=2, received=6, total=6)
    jobs.start("j")
    empty = EmptyPicture("no bytes").to_problem()
    broken = [BrokenPicture(f"broken {n}").to_problem() for n in range(4)]
    for chunk, problems in enumerate([[empty, empty, broken[0]], broken[1:]]):
        failed = [Item(name="p", image_id=None, outcome="failed", error=one) for one in problems]
        count(redis, chunk, failed)
    job = jobs.get("j")
    assert job.status == "failed"
    assert job.error is not None
    assert job.error.type == broken[0].type
    assert job.error.detail == "All 6 pictures failed, 4 of them like this: broken 0"


def test_an_upload_that_broke_is_told_rather_than_what_is_wrong_with_its_pictures(
    redis: Redis,
) -> None:
    jobs = Jobs(redis)
    create(jobs, "j", "bulk", n_chunks=1, received=1)
    jobs.start("j")
    broke = UploadBroken("the connection ended").to_problem()
    Feed(redis).seal("j", broke)
    count(redis, 0, items("failed"))
    assert (jobs.get("j").status, jobs.get("j").error) == ("failed", broke)


def test_a_steady_rate_is_told_from_the_first_chunk_on(redis: Redis, clock: Clock) -> None:
    jobs = running_bulk(redis)
    assert jobs.get("j").pictures_per_s is None
    for chunk, n_pictures in enumerate([2, 8, 1, 40]):
        clock.now_s += n_pictures / 4
        count(redis, chunk, items(*["succeeded", "skipped", "failed"] * n_pictures)[:n_pictures])
        assert jobs.get("j").pictures_per_s == pytest.approx(4)


def test_the_rate_is_that_of_late(redis: Redis, clock: Clock) -> None:
    jobs = running_bulk(redis)
    for chunk, n_pictures in enumerate([30, 60]):
        clock.now_s += 30
        count(redis, chunk, items(*["succeeded"] * n_pictures))
    # What is half a minute old weighs less by e.
    expected = (1 / math.e + 2) / (1 / math.e + 1)
    assert jobs.get("j").pictures_per_s == pytest.approx(expected, rel=1e-6)


def test_the_rate_of_an_ended_job_is_that_of_all_of_it(redis: Redis, clock: Clock) -> None:
    jobs = running_bulk(redis)
    for chunk, n_pictures in enumerate([30, 60]):
        clock.now_s += 30
        count(redis, chunk, items(*["succeeded"] * n_pictures))
    clock.now_s += 100
    jobs.cancel("j")
    assert jobs.get("j").pictures_per_s == pytest.approx(1.5)


def test_two_chunks_at_one_moment_have_a_rate(redis: Redis, clock: Clock) -> None:
    jobs = running_bulk(redis)
    count(redis, 0, items("succeeded"))
    assert jobs.get("j").pictures_per_s == pytest.approx(1000, rel=0.01)
    jobs.cancel("j")
    assert jobs.get("j").pictures_per_s == pytest.approx(1000, rel=0.01)


# How long it is kept.


@pytest.mark.parametrize(
    ("kind", "buried_s"),
    [
        ("embed", 30 * DAY_S),
        ("bulk", 30 * DAY_S),
        ("reindex", 30 * DAY_S),
        ("delete", 30 * DAY_S),
        ("duplicates", 30 * DAY_S),
        ("search", DAY_S),
    ],
)
@pytest.mark.parametrize("has_begun", [True, False])
@pytest.mark.parametrize("is_cancelled", [True, False])
def test_nothing_of_an_ended_job_stays_for_ever(
    redis: Redis, jobs: Jobs, kind: JobKind, buried_s: int, has_begun: bool, is_cancelled: bool
) -> None:
    create(jobs, kind=kind, ttl_s=5_000)
    if has_begun:
        jobs.begin("j")
        count(redis, 0, items("succeeded"))
    if not (is_cancelled and jobs.cancel("j")):
        jobs.finish("j", stored=stored_result("j", "{}"))
    lives = {key: redis.ttl(key) for key in redis.keys("*j") + redis.keys("*j[.:]*")}
    record_s = lives.pop(keys.job("j"))
    assert 5_000 + buried_s - 60 < record_s <= 5_000 + buried_s
    assert keys.events("j") in lives
    assert all(0 < ttl_s <= 5_000 for ttl_s in lives.values()), lives
    job = jobs.get("j")
    assert job.finished_at is not None
    assert job.expires_at is not None
    assert (job.expires_at - job.finished_at).total_seconds() == pytest.approx(5_000, abs=0.01)


def test_what_is_kept_with_a_job_is_kept_for_its_time(redis: Redis, jobs: Jobs) -> None:
    job = Job(id="s", kind="search", library="default", ttl_s=5_000, created_at=now())
    jobs.create(job, {"picture": (b"bytes", 600)})
    assert redis.get("picture") == "bytes"
    assert 540 < int(redis.ttl("picture")) <= 600


def test_an_upload_that_was_posted_before_leaves_no_second_job(
    client: Client, redis: Redis
) -> None:
    before: set[Any] = set()
    ids = set()
    for _ in range(2):
        before = set(redis.keys("*"))
        files = [(io.BytesIO(b"%d" % n), f"p{n}") for n in range(3)]
        answer = client.post(
            "/v1/images/bulk", data={"files": files}, headers={"Idempotency-Key": "k"}
        )
        ids.add(answer.json["id"])
    assert len(ids) == 1
    assert set(redis.keys("*")) == before


@pytest.mark.parametrize("kind", ["embed", "bulk", "reindex", "search", "delete"])
def test_a_job_that_is_taken_back_leaves_nothing(redis: Redis, jobs: Jobs, kind: JobKind) -> None:
    before = redis.keys("*")
    job = create(jobs, kind=kind)
    assert redis.keys("*") != before
    jobs.forget(job)
    assert redis.keys("*") == before


# Tries.


def test_milvus_may_be_away_more_often_than_a_picture_may_crash(
    client: Client,
    runtime: Runtime,
    small_photos: dict[str, bytes],
) -> None:
    job_id = post(client, list(small_photos.items()))
    nowhere = f"http://127.0.0.1:{free_port()}"
    away = set_anew(runtime, milvus_uri=nowhere, milvus_timeout_s=1.0)
    for _ in range(3):
        with pytest.raises(Unavailable):
            outcomes(away, job_id)
    assert outcomes(runtime, job_id) == ["succeeded"] * len(small_photos)


def test_tries_are_counted_by_their_part_until_one_ends(redis: Redis, jobs: Jobs) -> None:
    create(jobs)
    assert [jobs.begin_try("j", part) for part in ("0", "0", "1", "0")] == [1, 2, 1, 3]
    jobs.end_try("j", "0")
    assert [jobs.begin_try("j", part) for part in ("0", "1")] == [1, 2]
    jobs.finish("j")
    assert jobs.begin_try("j", "1") == 1, "nobody counts on"
    assert not redis.exists(keys.tries("j"))


@pytest.mark.parametrize("begin", [Jobs.begin, lambda jobs, job_id: jobs.begin_try(job_id, "0")])
def test_tries_are_counted_for_as_long_as_their_job_takes(
    redis: Redis, jobs: Jobs, begin: Callable[[Jobs, str], int]
) -> None:
    create(jobs)
    assert begin(jobs, "j") == 1
    assert redis.ttl(keys.tries("j")) == -1


def test_a_task_that_has_ended_is_not_begun_again(redis: Redis, jobs: Jobs) -> None:
    create(jobs)
    assert [jobs.begin("j") for _ in range(3)] == [1, 2, 3]
    jobs.end_try("j", "task")
    assert jobs.begin("j") == 1
    jobs.finish("j")
    assert jobs.begin("j") == 0


# Lists.


def listed(jobs: Jobs, limit: int, **wanted: Any) -> list[str]:
    ids: list[str] = []
    after: Cursor | None = None
    while True:
        page, after = jobs.page(limit, after, wanted)
        assert len(page) == limit or (after is None and len(page) < limit)
        ids += [job.id for job in page]
        if after is None:
            return ids


def test_jobs_are_listed_the_newest_first_in_pages_of_any_size(jobs: Jobs) -> None:
    for n in range(6):
        kind: JobKind = "search" if n == 2 else "delete" if n % 2 else "embed"
        library = "other" if n > 3 else "default"
        create(jobs, f"j{n}", kind, library=library, created_at=now() + timedelta(seconds=n))
    jobs.finish("j3")
    for limit in range(1, 8):
        assert listed(jobs, limit) == ["j5", "j4", "j3", "j1", "j0"]
        assert listed(jobs, limit, kind="search") == ["j2"]
        assert listed(jobs, limit, kind="delete") == ["j5", "j3", "j1"]
        assert listed(jobs, limit, status="succeeded") == ["j3"]
        assert listed(jobs, limit, library="other", kind="embed") == ["j4"]


@pytest.mark.parametrize("kind", ["delete", "search"])
def test_a_job_whose_life_is_over_is_listed_no_more(
    redis: Redis, jobs: Jobs, clock: Clock, kind: JobKind
) -> None:
    for job_id in ("a", "b", "c"):
        clock.now_s += 1
        create(jobs, job_id, kind, ttl_s=60)
    jobs.finish("b")
    clock.now_s += 59
    assert listed(jobs, 1, kind=kind) == ["c", "b", "a"]
    clock.now_s += 2
    assert listed(jobs, 1, kind=kind) == ["c", "a"]
    list_key = keys.SEARCHES if kind == "search" else keys.JOBS
    assert redis.zrange(list_key, 0, -1) == ["a", "c"], "it is not looked at each time"


def test_searches_are_listed_for_an_hour_and_other_jobs_as_long_as_they_live(
    redis: Redis, jobs: Jobs, clock: Clock
) -> None:
    create(jobs, "old", "search")
    create(jobs, "removal", "delete")
    clock.now_s += 1_800
    create(jobs, "young", "search")
    clock.now_s += 1_801
    create(jobs, "new", "search")
    assert listed(jobs, 10, kind="search") == ["new", "young"]
    assert listed(jobs, 10) == ["removal"]


def test_the_tag_of_a_job_changes_with_what_has_arrived(
    client: Client, settings: Settings, redis: Redis
) -> None:
    services = build_services(settings)
    create(services.jobs, kind="bulk")
    before = client.get("/v1/jobs/j")
    services.feed.add_chunk("j", 0, 4)
    after = client.get("/v1/jobs/j", headers={"If-None-Match": before.headers["ETag"]})
    assert (after.status_code, after.json["progress"]["received"]) == (200, 4)
