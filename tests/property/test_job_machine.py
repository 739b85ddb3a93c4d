"""Whatever happens to jobs, and in whatever order, their records say what the model says.

Each rule does one thing to the real Valkey, with a real Celery app, and to a model in plain Python;
after each, everything that can be asked is compared. A chunk may be worked on as often as it likes,
or never; a job may have ended, or never have been, when something is told of it.
"""

from __future__ import annotations

import time
from datetime import timedelta
from functools import partial
from typing import TYPE_CHECKING, Any, TypeVar, get_args

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)
from support.beats import beat
from support.job_model import FOR_EVER, Model
from support.results import stored_items, stored_result
from support.servers import running_valkey
from support.stand_in import read_task

from twinlens.shared.errors import (
    BrokenPicture,
    DeadlineExceeded,
    JobExpired,
    Problem,
    UploadBroken,
)
from twinlens.shared.messages import ChunkItems, Item, JobStatus, Outcome
from twinlens.shared.queue import TaskMessage, chunk_task, make_celery, publish
from twinlens.shared.redis import keys
from twinlens.shared.redis.client import connect
from twinlens.shared.redis.feed import Feed
from twinlens.shared.redis.jobs import Job, Jobs
from twinlens.shared.redis.presence import announce, live_workers
from twinlens.shared.redis.results import read_results
from twinlens.shared.settings import Settings

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from celery import Celery

T = TypeVar("T")

BROKEN = BrokenPicture("It is broken.").to_problem()
LOST = UploadBroken("It was lost.").to_problem()
TOO_LATE = DeadlineExceeded("It was late.").to_problem()
# Jobs whose chunks are fed in turn; a deletion is a `delete` job of many images.
CHUNKED = ("bulk", "reindex", "deletion")
LIBRARIES = ("default", "other")
LINE = keys.webhook_line("https://hooks.example")
# Under a load of other tests, a key may be looked at some seconds after it was made.
LATE_S = 30

chunks = st.lists(st.integers(1, 3), min_size=1, max_size=4)  # pictures of each
outcomes = st.lists(st.sampled_from(get_args(Outcome)), min_size=3, max_size=3)
problems = st.sampled_from([None, BROKEN])
places = st.integers(0, 11)


def items_of(outcomes: list[Any]) -> list[Item]:
    return [
        Item(name="a", image_id=None, outcome=one, error=BROKEN if one == "failed" else None)
        for one in outcomes
    ]


def picked(there: Sequence[T], place: int) -> T:
    return there[place % len(there)]


class JobMachine(RuleBasedStateMachine):
    def __init__(self, url: str, app: Celery) -> None:
        super().__init__()
        self.url, self.app, self.model = url, app, Model()
        self.clock = pytest.MonkeyPatch()
        self.clock.setattr(time, "time", lambda: self.model.now_s)
        self.connect()
        self.redis.flushall()
        self.made: list[str] = []  # ids of jobs, those too that were taken back
        self.queue: list[tuple[str, int]] = []
        self.received: list[tuple[str, int]] = []

    def connect(self) -> None:
        self.redis = connect(self.url)
        self.jobs, self.feed = Jobs(self.redis), Feed(self.redis)

    def teardown(self) -> None:
        try:
            self.everything_is_told()
        finally:
            self.redis.close()
            self.clock.undo()

    def tick(self, seconds: float = 0.25) -> None:
        self.model.now_s += seconds

    @property
    def uploads(self) -> list[str]:
        return [job_id for job_id in self.made if job_id.startswith(CHUNKED)]

    @property
    def singles(self) -> list[str]:
        return [job_id for job_id in self.made if job_id.startswith("embed")]

    # The API.

    def create(self, kind: Any, library: str, ttl_s: int) -> str:
        self.tick()
        job = Job(
            id=f"{kind}-{len(self.made)}",
            kind="delete" if kind == "deletion" else kind,
            has_items=kind == "deletion",
            library=library,
            request_id=f"asked-{len(self.made)}",
            created_at=self.model.now,
            ttl_s=ttl_s,
        )
        if library == "other":
            job.webhook, job.webhook_line = "https://hooks.example/", LINE
            job.webhook_status = "pending"
            job.deadline_at = self.model.now + timedelta(seconds=3_000)
        if kind == "embed":
            job.n_chunks = job.received = job.total = 1
        if kind != "bulk":
            queue = "search" if kind == "search" else "single"
            job.task = TaskMessage(f"do_{kind}", {"job_id": job.id}, job.id, queue)
        self.jobs.create(job)
        self.model.create(job)
        self.made.append(job.id)
        return job.id

    @initialize()
    def uploads_begin(self) -> None:
        for kind in ("bulk", "reindex"):
            for library in LIBRARIES:
                self.create(kind, library, 7_000)

    @precondition(lambda self: len(self.made) < 12)
    @rule(
        kind=st.sampled_from([*CHUNKED, "embed", "search", "delete"]),
        library=st.sampled_from(LIBRARIES),
    )
    def submit(self, kind: str, library: str) -> None:
        self.create(kind, library, 5_000 if kind == "search" else 90_000)

    @precondition(lambda self: len(self.made) < 12)
    @rule(kind=st.sampled_from(["embed", "bulk", "search"]))
    def take_back(self, kind: str) -> None:
        """What a request does that is refused in the end, or was made before."""
        job_id = self.create(kind, "default", 5_000)
        self.jobs.forget(self.model.records[job_id].job)
        self.model.forget(job_id)

    @rule(place=places, chunks=chunks, n_times=st.integers(1, 2))
    def add_chunks(self, place: int, chunks: list[int], n_times: int = 1) -> None:
        """As with an answer of Redis that was lost, after which it is asked again."""
        upload = picked(self.uploads, place)
        for n_pictures in chunks:
            record = self.model.records.get(upload)
            chunk = len(record.sizes) if record else 0
            for _ in range(n_times):
                is_taken = self.feed.add_chunk(upload, chunk, n_pictures)
                assert is_taken == self.model.add_chunk(upload, chunk, n_pictures)
        self.feed_workers()

    @rule(place=places, chunks=chunks)
    def add_more_chunks(self, place: int, chunks: list[int]) -> None:
        self.add_chunks(place, chunks)

    @rule(place=places, problem=problems)
    def seal(self, place: int, problem: Problem | None) -> None:
        upload = picked(self.uploads, place)
        self.feed.seal(upload, problem)
        self.model.seal(upload, problem)

    @rule(place=places, is_heard=st.booleans())
    def hear_of_an_upload_or_not(self, place: int, is_heard: bool) -> None:
        upload = picked(self.uploads, place)
        if is_heard:
            self.feed.still_arrives(upload)
            self.model.heard_of.add(upload)
        else:
            self.redis.expire(keys.arrival(upload), 0)  # as two minutes do
            self.model.heard_of.discard(upload)

    @rule(
        kind=st.sampled_from([None, "bulk", "search"]),
        status=st.sampled_from([None, "queued", "succeeded"]),
        limit=st.integers(1, 3),
    )
    def list_jobs(self, kind: Any, status: Any, limit: int) -> None:
        wanted = {k: v for k, v in {"kind": kind, "status": status}.items() if v is not None}
        listed, after = self.jobs.page(limit, None, wanted)
        while after is not None:
            more, after = self.jobs.page(limit, after, wanted)
            assert len(more) <= limit
            listed += more
        name = "search" if kind == "search" else "job"
        there = [job for job in self.model.listed[name] if not self.model.is_gone(job)]
        self.model.listed[name] = there
        jobs = [self.model.records[job].job for job in reversed(there)]
        assert [job.id for job in listed] == [
            job.id for job in jobs if kind in (None, job.kind) and status in (None, job.status)
        ]

    # Workers.

    def feed_workers(self) -> None:
        self.feed.top_up(self.app)
        self.queue += self.model.take()

    def receive(self) -> tuple[str, int]:
        task = read_task(str(self.redis.rpop("bulk")))
        job, chunk = self.queue.pop(0)
        assert task["id"] == f"{job}.{chunk}"
        assert task["kwargs"] == {"job_id": job, "chunk": chunk}
        assert task["request_id"] == self.model.records[job].job.request_id
        self.received.append((job, chunk))
        return job, chunk

    def run(self, message: tuple[str, int], outcomes: list[str]) -> None:
        job, chunk = message
        is_open = self.jobs.start(job)
        assert is_open == self.model.start(job)
        if is_open:
            n_pictures = self.model.records[job].sizes[chunk]
            self.count(job, chunk, items_of(outcomes[:n_pictures]))
        else:
            self.feed.forget_chunk(job, chunk)
            self.model.fed.pop(message, None)
        self.feed_workers()

    def count(self, job: str, chunk: int, items: list[Item]) -> None:
        self.tick()
        self.jobs.count_chunk(job, chunk, items, stored_items(job, chunk, items))
        self.model.count(job, chunk, items)

    @rule(n_messages=st.integers(1, 6), outcomes=outcomes)
    def work(self, n_messages: int, outcomes: list[str]) -> None:
        for _ in range(min(n_messages, len(self.queue))):
            self.run(self.receive(), outcomes)

    @rule(n_messages=st.integers(1, 6), outcomes=outcomes)
    def work_on(self, n_messages: int, outcomes: list[str]) -> None:
        self.work(n_messages, outcomes)

    @precondition(lambda self: self.queue)
    @rule()
    def begin_and_die(self) -> None:
        job, _ = self.receive()
        assert self.jobs.start(job) == self.model.start(job)

    @precondition(lambda self: self.received)
    @rule(place=places, outcomes=outcomes, is_late=st.booleans())
    def work_again(self, place: int, outcomes: list[str], is_late: bool) -> None:
        """As with a message that comes twice, or whose job ends while it is worked on."""
        job, chunk = picked(self.received, place)
        record = self.model.records[job]
        if is_late and record.job.started_at is not None:
            self.count(job, chunk, items_of(outcomes[: record.sizes[chunk]]))
        else:
            self.run((job, chunk), outcomes)

    @precondition(lambda self: self.singles)
    @rule(place=places, outcomes=outcomes)
    def work_on_a_single_picture(self, place: int, outcomes: list[str]) -> None:
        single = picked(self.singles, place)
        is_open = self.jobs.start(single)
        assert is_open == self.model.start(single)
        if is_open:
            self.count(single, 0, items_of(outcomes[:1]))

    @rule(place=places, what=st.sampled_from(["task", "begin", "end", "end of task"]))
    def try_a_part(self, place: int, what: str) -> None:
        job = picked(self.made, place)
        if what == "task":
            n_tries = self.model.begin_try(job, "task") if self.model.start(job) else 0
            assert self.jobs.begin(job) == n_tries
        elif what == "begin":
            assert self.jobs.begin_try(job, "0") == self.model.begin_try(job, "0")
        else:
            part = "0" if what == "end" else "task"
            self.jobs.end_try(job, part)
            self.model.end_try(job, part)

    @rule(place=places, how=st.sampled_from(["cancelled", "failed", "succeeded", "with a result"]))
    def end(self, place: int, how: Any) -> None:
        job = picked(self.made, place)
        if how == "cancelled":
            assert self.jobs.cancel(job) == self.model.cancel(job)
            return
        problem = BROKEN if how == "failed" else None
        result = '{"n": 1}' if how == "with a result" else None
        self.jobs.finish(job, problem, stored_result(job, result) if result else None)
        status: JobStatus = "succeeded" if how == "with a result" else how
        self.model.finish(job, status, problem, result)

    # What happens around them.

    @rule(seconds=st.sampled_from([0.0, 1.0, 40.0, 4_000.0, 100_000.0]))
    def time_passes_or_all_starts_again(self, seconds: float) -> None:
        self.tick(seconds)
        if not seconds:
            self.redis.script_flush()
            self.redis.close()
            self.connect()

    @rule(is_dead=st.booleans())
    def a_worker_comes_or_dies(self, is_dead: bool) -> None:
        self.announce(beat_at=0.0 if is_dead else 1e10)
        if not is_dead:
            self.model.n_workers += 1
        elif self.model.n_workers:
            self.model.n_workers -= 1
        assert len(live_workers(self.redis)) == self.model.n_workers

    def announce(self, beat_at: float) -> None:
        n_before = self.model.n_workers - (beat_at == 0.0)
        announce(self.redis, beat(f"bulk@here:{n_before}", beat_at))

    # The sweeper.

    @rule(min_age_s=st.sampled_from([0.0, 30.0]))
    def sweep(self, min_age_s: float) -> None:
        """As the sweeper, but a chunk that a worker holds counts as lost here: it runs twice."""
        late = self.jobs.late()
        assert late == self.model.late
        for job in late:
            assert self.jobs.cancel(job, TOO_LATE) == self.model.cancel(job, TOO_LATE)
            self.jobs.forget_deadline(job)
            self.model.timed.remove(job)
        lost = self.feed.lost_arrivals()
        assert lost == sorted(set(self.model.arriving) - self.model.heard_of)
        for job in lost:
            self.feed.seal(job, LOST)
            self.model.seal(job, LOST)
        old = self.feed.fed_chunks(min_age_s)
        assert set(old) == {
            chunk for chunk, at in self.model.fed.items() if at <= self.model.now_s - min_age_s
        }
        for job, chunk in old:
            record = self.model.records[job]
            if not record.is_open:
                self.feed.forget_chunk(job, chunk)
                del self.model.fed[job, chunk]
            elif (job, chunk) not in self.queue:
                publish(self.app, chunk_task("bulk", job, chunk), record.job.request_id)
                self.queue.append((job, chunk))
        self.feed_workers()

    # What is told at any time.

    def everything_is_told(self) -> None:
        assert self.feed.backlog() == self.model.n_waiting
        for job_id, record in self.model.records.items():
            events = self.jobs.read_events(job_id, "0-0", count=1000, block_s=0.001)
            assert [event[1:] for event in events] == record.events
            for chunk in range(record.job.n_chunks):
                assert self.feed.is_counted(job_id, chunk) == (chunk in record.items)
            items = read_results(self.redis, [f"{job_id}.{chunk}" for chunk in record.items])
            told = [ChunkItems.model_validate(one).root for one in items]
            assert told == list(record.items.values())

    @invariant()
    def records_are_right(self) -> None:
        for job_id, record in self.model.records.items():
            if self.model.is_gone(job_id):
                with pytest.raises(JobExpired):
                    self.jobs.get(job_id)
                continue
            job = self.jobs.get(job_id)
            assert job.model_copy(update={"rate": 0.0}) == record.job
            bounds = self.model.speed_bounds(job_id)
            if bounds is None:
                assert job.pictures_per_s is None
            else:
                assert job.pictures_per_s is not None
                least, most = bounds
                assert least * 0.999 <= job.pictures_per_s <= most * 1.001

    @invariant()
    def nothing_is_in_the_wrong_place(self) -> None:
        with self.redis.pipeline(transaction=False) as read:
            for name in ("bulk", keys.RING, *(f"{keys.RING}:{one}" for one in LIBRARIES)):
                read.lrange(name, 0, -1)
            for name in (keys.JOBS, keys.SEARCHES, *map(keys.open_uploads, LIBRARIES)):
                read.zrange(name, 0, -1, withscores=True)
            for name in (keys.FED, keys.TASKS, LINE):
                read.zrange(name, 0, -1, withscores=True)
            read.smembers(keys.ARRIVING)
            read.get(keys.BACKLOG)
            queue, ring, *turns, jobs, searches, default, other, fed, tasks, owed, arriving, n = (
                read.execute()
            )
        model = self.model
        ids = [read_task(text)["id"] for text in reversed(queue)]
        assert ids == [f"{job}.{chunk}" for job, chunk in self.queue]
        assert ring == list(model.turns)
        assert turns == [model.turns.get(library, []) for library in LIBRARIES]
        assert jobs == model.timeline(model.listed["job"])
        assert searches == model.timeline(model.listed["search"])
        uploads = model.open_ids("bulk", "embed")
        for library, timeline in zip(LIBRARIES, (default, other), strict=True):
            mine = [job for job in uploads if model.records[job].job.library == library]
            assert timeline == model.timeline(mine)
        assert dict(fed) == {f"{job}.{chunk}": at for (job, chunk), at in model.fed.items()}
        assert arriving == set(model.arriving)
        assert dict(tasks) == model.tasks
        assert dict(owed) == model.owed
        assert int(n or 0) == model.n_waiting

    @invariant()
    def nothing_stays_for_ever(self) -> None:
        names = [*self.redis.keys("tl:job:*"), *self.redis.keys("celery-task-meta-*")]
        expected = self.model.lives()
        assert set(names) == expected.keys()
        with self.redis.pipeline(transaction=False) as read:
            for name in names:
                read.ttl(name)
            lives = dict(zip(names, read.execute(), strict=True))
        for key, ttl_s in expected.items():
            least = FOR_EVER if ttl_s == FOR_EVER else ttl_s - LATE_S
            assert least <= lives[key] <= ttl_s, key

    @invariant()
    def time_goes_on(self) -> None:
        self.tick()


@pytest.fixture(scope="session")
def redis_url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with running_valkey(tmp_path_factory.mktemp("valkey")) as url:
        yield url


@pytest.mark.timeout(900)  # to make an example small takes Hypothesis up to five minutes
def test_jobs_are_what_the_model_says(redis_url: str) -> None:
    app = make_celery(Settings(redis_url=redis_url))
    made: Any = partial(JobMachine, redis_url, app)  # what makes one will do
    run_state_machine_as_test(
        made,
        settings=settings(
            # Each of some 30 steps of a dozen round trips to the server.
            max_examples=settings().max_examples // 2,
            stateful_step_count=30,
            deadline=None,
            report_multiple_bugs=False,
            suppress_health_check=[HealthCheck.too_slow, HealthCheck.filter_too_much],
        ),
    )
