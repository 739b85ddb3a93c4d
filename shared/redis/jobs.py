"""Job records in Redis: the one place that says what state a job is in.

    queued ──▶ running ──▶ succeeded | failed | cancelled
       └──────────────────▶ failed | cancelled

The guards run inside Redis (shared/redis/lua). Every change raises the record's `revision` (the
ETag) and appends to the job's event stream, on which waiting callers block. A bulk job is
queued chunk by chunk as its upload arrives; its `total` is not known until that is sealed.
"""

from __future__ import annotations

import json
import math
import time
from collections import Counter
from typing import TYPE_CHECKING, Any, NamedTuple, get_args

from pydantic import BaseModel, Field

from twinlens.shared.errors import JobExpired, JobNotFound, Problem
from twinlens.shared.messages import (
    MAX_PAGE,
    Cursor,
    Item,
    JobKind,
    JobStatus,
    Moment,
    Outcome,
    WebhookStatus,
    now,
)
from twinlens.shared.queue import TaskMessage
from twinlens.shared.redis import keys, scripts
from twinlens.shared.redis.scripts import Changes
from twinlens.shared.redis.timeline import page_of

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from twinlens.shared.redis.client import Redis

ENDED: frozenset[JobStatus] = frozenset({"succeeded", "failed", "cancelled"})

# A search is not worth keeping as long as an upload: its result is in the answer.
SEARCH_TTL_S = 3_600
# A waiting caller wakes up this often to see whether it is still wanted.
WAIT_SLICE_S = 1.0
WAIT_EVENTS = 1000
# For one page of the list: a filter that few jobs pass must not read a million of them.
MAX_READ = MAX_PAGE
_N_FAILED_AS = "n_failed_as:"


class Job(BaseModel):
    """One piece of queued work, as stored."""

    id: str
    kind: JobKind
    library: str
    library_id: str = Field(default_factory=lambda fields: fields["library"])
    status: JobStatus = "queued"
    request_id: str = ""
    # Of a job that begins with one: kept until that has ended, to be queued again if it is lost.
    task: TaskMessage | None = None
    has_items: bool = False  # counted in pictures, of a kind that else is one step
    retry_of: str = ""  # the job whose failed pictures these are
    webhook: str | None = None  # the URL that is told of its end
    webhook_line: str | None = None  # where it waits for that: shared/redis/webhooks.py
    webhook_status: WebhookStatus | None = None
    webhook_error: str | None = None  # of the last try that failed
    webhook_at: Moment | None = None  # the next try
    n_webhook_tries: int = 0
    n_chunks: int = 0
    n_chunks_done: int = 0
    received: int = 0  # pictures stored so far
    compared: int = 0  # images that a job has compared, which looks for differences
    total: int | None = None  # all of them, once that is known
    succeeded: int = 0
    updated: int = 0
    skipped: int = 0
    failed: int = 0
    passed_over: int = 0  # files of the upload that are no pictures by their names
    rate: float = 0.0  # see `pictures_per_s`
    created_at: Moment
    started_at: Moment | None = None
    counted_at: Moment | None = None
    finished_at: Moment | None = None
    expires_at: Moment | None = None
    deadline_at: Moment | None = None  # if it is not done by then, it fails
    error: Problem | None = None
    ttl_s: int
    revision: int = 0
    # The result of a job of one task, as Celery's result backend keeps it; only read, never set.
    result: str | None = Field(None, exclude=True)

    @property
    def has_ended(self) -> bool:
        return self.status in ENDED

    @property
    def has_manifests(self) -> bool:
        """Whether its pictures are named on the disk, chunk by chunk."""
        return self.kind in ("embed", "bulk", "reindex", "reconcile") or self.has_items

    @property
    def n_counted(self) -> int:
        return self.succeeded + self.updated + self.skipped + self.failed

    @property
    def is_counted(self) -> bool:
        """Whether all of its chunks are counted."""
        return self.total is not None and self.n_chunks_done == self.n_chunks

    @property
    def pictures_per_s(self) -> float | None:
        """Pictures a second: recently while the job runs, over all of it once it has ended.

        Source:
            The moving average begins at 0, so it is divided by the weight that it has gathered
            since (the bias correction of Adam: Kingma and Ba, 2015).
        """
        if self.started_at is None or self.counted_at is None:
            return None
        took_s = max((self.counted_at - self.started_at).total_seconds(), 0.001)
        if self.has_ended:
            return self.n_counted / took_s
        return self.rate / (1 - math.exp(-took_s / scripts.RATE_WINDOW_S))


class StoredResult(NamedTuple):
    """The result of a task, as Celery's result backend keeps it."""

    key: str
    text: str


class Event(NamedTuple):
    """An entry of a job's stream."""

    id: str
    status: JobStatus
    chunk: int  # the one that was counted; -1 for another change
    n_failed: int


class Jobs:
    """Creates, changes, reads and awaits job records."""

    def __init__(self, redis: Redis) -> None:
        self._redis = redis
        self._changes = Changes(redis)

    def create(self, job: Job, keep: Mapping[str, tuple[bytes, int]] | None = None) -> None:
        """Records a new job.

        Args:
            job: The job.
            keep: Values to keep with it until it ends: by key, the value and its longest life in
                seconds.
        """
        fields: dict[Any, Any] = {
            name: _to_field(value)
            for name, value in job.model_dump(mode="json").items()
            if value is not None
        }
        fields["created_at"] = repr(job.created_at.timestamp())
        if keep:
            fields["kept"] = " ".join(keep)
        if job.deadline_at is not None:
            fields["deadline_at"] = repr(job.deadline_at.timestamp())
        with self._redis.pipeline() as pipeline:
            for key, (content, ttl_s) in (keep or {}).items():
                pipeline.set(key, content, ex=ttl_s)
            pipeline.hset(keys.job(job.id), mapping=fields)
            pipeline.zadd(_list_of(job.kind), {job.id: job.created_at.timestamp()})
            if job.kind in ("embed", "bulk"):
                uploads = keys.open_uploads(job.library_id)
                pipeline.zadd(uploads, {job.id: job.created_at.timestamp()})
            if job.task is not None:
                pipeline.zadd(keys.TASKS, {_task_of(job): job.created_at.timestamp()})
            if job.deadline_at is not None:
                pipeline.zadd(keys.DEADLINES, {job.id: job.deadline_at.timestamp()})
            if job.has_manifests:
                pipeline.zadd(keys.MANIFESTS, {job.id: job.created_at.timestamp() + job.ttl_s})
            if job.kind == "bulk" and job.task is None:
                pipeline.sadd(keys.ARRIVING, job.id)
                pipeline.set(keys.arrival(job.id), 1, ex=scripts.ARRIVAL_TTL_S)
            # `page` removes only what somebody looks at.
            is_search = job.kind == "search"
            life_s = SEARCH_TTL_S if is_search else job.ttl_s + scripts.TOMBSTONE_S
            pipeline.zremrangebyscore(_list_of(job.kind), "-inf", time.time() - life_s)
            pipeline.execute()

    def forget(self, job: Job, kept: Sequence[str] = ()) -> None:
        """Takes back a job of which nothing was queued, and what was kept with it."""
        job_id = job.id
        with self._redis.pipeline() as pipeline:
            pipeline.delete(keys.job(job_id), keys.events(job_id), keys.done_chunks(job_id))
            pipeline.delete(keys.arrival(job_id), keys.tries(job_id), *kept)
            pipeline.zrem(keys.open_uploads(job.library_id), job_id)
            pipeline.zrem(keys.JOBS, job_id)
            pipeline.zrem(keys.SEARCHES, job_id)
            pipeline.zrem(keys.MANIFESTS, job_id)
            if job.task is not None:
                pipeline.zrem(keys.TASKS, _task_of(job))
            pipeline.srem(keys.ARRIVING, job_id)
            pipeline.zrem(keys.DEADLINES, job_id)
            pipeline.execute()

    def open_tasks(self, queue: str, min_age_s: float) -> list[str]:
        """Returns the jobs of one task that has not ended, the oldest first.

        Args:
            queue: Where the task was queued.
            min_age_s: Only jobs that were created so many seconds ago.
        """
        members = self._redis.zrangebyscore(keys.TASKS, "-inf", time.time() - min_age_s)
        places = (member.split(":") for member in members)
        return [job_id for place, job_id in places if place == queue]

    def forget_task(self, queue: str, job_id: str) -> None:
        """Forgets the task of a job that has no record."""
        self._redis.zrem(keys.TASKS, f"{queue}:{job_id}")

    def late(self) -> list[str]:
        """Returns the jobs whose deadline has passed, the first first; they may have ended."""
        return self._redis.zrangebyscore(keys.DEADLINES, "-inf", time.time())

    def forget_deadline(self, job_id: str) -> None:
        """Forgets that a job is to end at some time."""
        self._redis.zrem(keys.DEADLINES, job_id)

    def with_old_manifests(self, n_most: int) -> list[str]:
        """Returns jobs whose manifests may be of no use any more, the oldest first."""
        return self._redis.zrangebyscore(keys.MANIFESTS, "-inf", time.time(), start=0, num=n_most)

    def keep_manifests(self, job_id: str, until: float) -> None:
        """Notes that a job's manifests are of use until then, in Unix time."""
        self._redis.zadd(keys.MANIFESTS, {job_id: until})

    def forget_manifests(self, job_id: str) -> None:
        """Notes that a job has no manifests any more."""
        self._redis.zrem(keys.MANIFESTS, job_id)

    def past(self, job_id: str) -> Job | None:
        """Reads a job, though its life may be over; None where nothing is known of it any more."""
        fields = self._redis.hgetall(keys.job(job_id))
        return _job_of(fields, None) if fields else None

    # For workers.

    def start(self, job_id: str) -> bool:
        """Marks a job as running.

        Returns:
            False if there is nothing (more) to do for it, or its deadline has passed.
        """
        return bool(self._changes.make("begin", job_id, _now(), ""))

    def begin(self, job_id: str) -> int:
        """Marks a job of one task as running, and notes that the task has begun.

        Returns:
            0 if there is nothing (more) to do for it, or its deadline has passed; else the number
            of this try, as of `begin_try`.
        """
        return self._changes.make("begin", job_id, _now(), "task")

    def count_chunk(
        self, job_id: str, chunk: int, items: Sequence[Item], stored: StoredResult
    ) -> bool:
        """Stores a chunk's outcomes and adds them to the progress; repeating it changes nothing.

        The job ends with its last chunk; as failed if all of its pictures failed, with the
        commonest reason. As long as one did not, a failed picture is an outcome like any other.

        Args:
            job_id: The job.
            chunk: Its number.
            items: The outcomes, in the order of the manifest.
            stored: The same, as Celery's result backend keeps them.

        Returns:
            Whether this was the last chunk to be counted, and more is to be done with the library:
            of a `reindex` job, whose edition is to be switched on, or a `reconcile` job.
        """
        n_by_outcome = Counter(item.outcome for item in items)
        tally = [n_by_outcome[outcome] for outcome in get_args(Outcome)]
        error = items[0].error if len(items) == 1 else None
        told = (_now(), _to_json(error), stored.text)
        reasons = _reasons(items) if n_by_outcome["failed"] == len(items) else []
        args = (chunk, *tally, *told, *reasons)
        return self._changes.make("count", job_id, *args, keys_too=[stored.key]) == 2

    def note_compared(self, job_id: str, n_images: int) -> bool:
        """Notes how many images a job has compared so far. Returns whether it goes on."""
        return bool(self._changes.make("compare", job_id, n_images))

    def keep_result(self, job: Job, stored: StoredResult) -> None:
        """Keeps the result of a job that goes on, for when it has ended."""
        self._redis.set(stored.key, stored.text, ex=job.ttl_s)

    def finish(
        self, job_id: str, error: Problem | None = None, stored: StoredResult | None = None
    ) -> None:
        """Ends a job that is not counted in chunks; once ended it stays as it is.

        Args:
            job_id: The job.
            error: Why it failed.
            stored: Its result, stored in one step with the end, which a caller waits for.
        """
        status = "succeeded" if error is None else "failed"
        args, keys_too = [status, _now(), _to_json(error)], []
        if stored is not None:
            args.append(stored.text)
            keys_too.append(stored.key)
        self._changes.make("finish", job_id, *args, keys_too=keys_too)

    def cancel(self, job_id: str, error: Problem | None = None) -> bool:
        """Ends a job without the rest of its work; once ended it stays as it is.

        Args:
            job_id: The job.
            error: Why it fails, where nobody has cancelled it.

        Returns:
            Whether it has ended so, or was cancelled before. It has not where it has ended
            otherwise, or is a removal of one step that has begun.
        """
        return bool(self._changes.make("cancel", job_id, _now(), _to_json(error)))

    def begin_try(self, job_id: str, part: str) -> int:
        """Notes that a part of a job has begun. Returns how often it did so without an end.

        A count above 1 means that the earlier tries ended their worker process.
        """
        return self._changes.make("try", job_id, part)

    def end_try(self, job_id: str, part: str) -> None:
        """Notes that a part of a job came to an end that left its worker alive."""
        self._redis.hdel(keys.tries(job_id), part)

    def count_rescue(self, kind: JobKind) -> None:
        """Counts that lost work of a job was brought back, or ended with a reason."""
        self._redis.hincrby(keys.RESCUES, kind, 1)

    # For callers.

    def rescues(self) -> dict[str, int]:
        """Returns how often work was brought back after it was lost, by kind of job."""
        return {kind: int(n) for kind, n in sorted(self._redis.hgetall(keys.RESCUES).items())}

    def get(self, job_id: str) -> Job:
        """Reads a job.

        Raises:
            JobNotFound: There never was a job of this id, or only long ago.
            JobExpired: It ended longer ago than it is kept.
        """
        # In one round trip: a search waits for it.
        with self._redis.pipeline(transaction=False) as pipeline:
            pipeline.hgetall(keys.job(job_id))
            pipeline.get(keys.result(job_id))
            return _read(job_id, *pipeline.execute())

    def status(self, job_id: str) -> str | None:
        """Reads a job's status alone; None where there is no job of this id."""
        return self._redis.hget(keys.job(job_id), "status")

    def library(self, job_id: str) -> str | None:
        """Reads the name of a job's library alone; None where there is no job of this id."""
        return self._redis.hget(keys.job(job_id), "library")

    def find(self, job_id: str) -> Job | None:
        """Reads a job; None where there is none, or its life is over and its result gone."""
        try:
            return self.get(job_id)
        except (JobNotFound, JobExpired):
            return None

    def wait(
        self, job_id: str, timeout_s: float, is_wanted: Callable[[], bool] = lambda: True
    ) -> Job:
        """Returns the job as soon as it has ended, or as it is when the time is up.

        Args:
            job_id: The job.
            timeout_s: The time.
            is_wanted: Tells if somebody still waits for it: else it is over at once.
        """
        deadline = time.monotonic() + timeout_s
        # The stream's end is read before the record, so no event falls between the two.
        with self._redis.pipeline(transaction=False) as pipeline:
            pipeline.xrevrange(keys.events(job_id), count=1)
            pipeline.hgetall(keys.job(job_id))
            pipeline.get(keys.result(job_id))
            last, *stored = pipeline.execute()
        job, seen = _read(job_id, *stored), last[0][0] if last else "0-0"
        while not job.has_ended and (left_s := deadline - time.monotonic()) > 0 and is_wanted():
            block_s = min(left_s, WAIT_SLICE_S)
            new = self.read_events(job_id, seen, count=WAIT_EVENTS, block_s=block_s)
            if new:
                seen = new[-1].id
            if not new or new[-1].status in ENDED:
                job = self.get(job_id)
        return self.get(job_id) if not job.has_ended else job

    def page(
        self,
        limit: int,
        after: Cursor | None,
        wanted: dict[str, Any],
        sees_library: Callable[[str], bool] = lambda _: True,
    ) -> tuple[list[Job], Cursor | None]:
        """Lists jobs, newest first, whose fields equal those wanted, of libraries that are seen.

        Searches are listed only where the kind `search` is wanted.

        Returns:
            At most `limit` jobs, and where the next page begins. There may be fewer, and none, with
            more to come: no more than MAX_READ are looked at.
        """
        jobs: list[Job] = []
        key, n_left = _list_of(wanted.get("kind")), MAX_READ
        while True:
            ids, after = page_of(self._redis, key, min(n_left, limit - len(jobs)), after)
            n_left -= len(ids)
            for job_id in ids:
                job = self.find(job_id)
                if job is None:
                    self._redis.zrem(key, job_id)
                elif sees_library(job.library) and all(
                    getattr(job, name) == value for name, value in wanted.items()
                ):
                    jobs.append(job)
            if after is None or len(jobs) == limit or n_left == 0:
                return jobs, after

    def read_events(self, job_id: str, after: str, *, count: int, block_s: float) -> list[Event]:
        """Reads a job's events after one of them (`0-0`: from the first), oldest first.

        Args:
            job_id: The job.
            after: An event's id.
            count: How many at most.
            block_s: How long to wait for one, if there is none yet.
        """
        streams = self._redis.xread(
            {keys.events(job_id): after}, count=count, block=max(1, int(block_s * 1000))
        )
        return [_event(*row) for _, rows in streams for row in rows]

    def read_event(self, job_id: str, event_id: str) -> Event | None:
        """Reads one event again."""
        rows = self._redis.xrange(keys.events(job_id), event_id, event_id)
        return _event(*rows[0]) if rows else None


def no_such_job(job_id: str) -> JobNotFound:
    """Returns the error for a job that is not there, or not for whoever asks."""
    return JobNotFound(f"There is no job {job_id!r}.")


def _read(job_id: str, fields: dict[str, Any], result: str | None) -> Job:
    if not fields:
        raise no_such_job(job_id)
    job = _job_of(fields, result)
    if job.expires_at is not None and job.expires_at < now():
        raise JobExpired(f"Job {job_id!r} ended at {fields['finished_at']} and has expired.")
    return job


def _job_of(fields: dict[str, Any], result: str | None) -> Job:
    if "task" in fields:
        fields["task"] = json.loads(fields["task"])
    if "error" in fields:
        fields["error"] = json.loads(fields["error"])
    elif fields["status"] == "failed":
        fields["error"] = _commonest_error(fields)
    return Job.model_validate(fields | {"result": result})


def _reasons(items: Sequence[Item]) -> list[str | int]:
    """Returns why pictures failed, as the script that counts them takes it."""
    problems = [item.error for item in items if item.error is not None]
    first = {problem.type: problem for problem in reversed(problems)}
    n_by_type = Counter(problem.type for problem in problems)
    rows = [(kind, n, first[kind].model_dump_json()) for kind, n in n_by_type.items()]
    return [value for row in rows for value in row]


def _commonest_error(fields: Mapping[str, Any]) -> Problem | None:
    """Returns why all pictures of a job failed."""
    n_by_type = {
        name.removeprefix(_N_FAILED_AS): int(n)
        for name, n in fields.items()
        if name.startswith(_N_FAILED_AS)
    }
    if not n_by_type:
        return None
    commonest = max(n_by_type, key=lambda kind: n_by_type[kind])
    problem = Problem.model_validate_json(fields[f"failed_as:{commonest}"])
    n_failed, n_so = int(fields["failed"]), n_by_type[commonest]
    if n_failed > 1:
        so = "" if n_so == n_failed else f", {n_so} of them like this"
        problem.detail = f"All {n_failed} pictures failed{so}: {problem.detail}"
    return problem


def _event(event_id: str, fields: dict[str, Any]) -> Event:
    return Event(event_id, fields["status"], int(fields["chunk"]), int(fields["n_failed"]))


def _task_of(job: Job) -> str:
    assert job.task is not None
    return f"{job.task.queue}:{job.id}"


def _list_of(kind: JobKind | None) -> str:
    return keys.SEARCHES if kind == "search" else keys.JOBS


def _now() -> str:
    return repr(time.time())


def _to_json(problem: Problem | None) -> str:
    return "" if problem is None else problem.model_dump_json()


def _to_field(value: object) -> str:
    return value if isinstance(value, str) else json.dumps(value)
