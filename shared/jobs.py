"""Job records in Redis: the one place that says what state a job is in.

    queued ──▶ running ──▶ succeeded | failed | cancelled
       └──────────────────▶ failed | cancelled

The guards run inside Redis, as scripts, so that two workers cannot disagree. Every change
raises the record's `revision` (the ETag) and appends to the job's event stream, on which
waiting callers block.
"""

from __future__ import annotations

import json
import time
from typing import TYPE_CHECKING, Any, Literal

from pydantic import BaseModel

from twinlens.shared.errors import IdempotencyConflict, JobExpired, JobNotFound, Problem
from twinlens.shared.messages import Cursor, Item, Moment, now
from twinlens.shared.timeline import page_of

if TYPE_CHECKING:
    from collections.abc import Iterable

    from redis import Redis

JobKind = Literal["embed", "bulk", "search", "reindex", "delete"]
JobStatus = Literal["queued", "running", "succeeded", "failed", "cancelled"]
ENDED: frozenset[JobStatus] = frozenset({"succeeded", "failed", "cancelled"})

# Searches have a list of their own: they come by the thousand, and are kept for an hour.
JOBS = "tl:jobs"
SEARCHES = "tl:jobs:search"
# Uploads that have not ended: what the sweeper looks through.
OPEN_UPLOADS = "tl:jobs:open"
# An expired job still answers 410 for this long, before its id is forgotten (404).
TOMBSTONE_S = 30 * 86_400
# A search is not worth keeping as long as an upload: its result is in the answer.
SEARCH_TTL_S = 3_600
IDEMPOTENCY_TTL_S = 86_400
# A waiting caller wakes up this often to see that it is still wanted.
WAIT_SLICE_S = 2.0


def _record(job_id: str) -> str:
    return f"tl:job:{job_id}"


def _done(job_id: str) -> str:
    return f"tl:job:{job_id}:done"


def _tries(job_id: str) -> str:
    return f"tl:job:{job_id}:tries"


def _events(job_id: str) -> str:
    return f"tl:job:{job_id}:events"


class Job(BaseModel):
    """One piece of queued work, as stored."""

    id: str
    kind: JobKind
    library: str
    status: JobStatus = "queued"
    request_id: str = ""
    n_chunks: int = 0
    n_chunks_done: int = 0
    total: int = 0
    succeeded: int = 0
    skipped: int = 0
    failed: int = 0
    created_at: Moment
    started_at: Moment | None = None
    finished_at: Moment | None = None
    expires_at: Moment | None = None
    error: Problem | None = None
    ttl_s: int
    revision: int = 0

    @property
    def has_ended(self) -> bool:
        return self.status in ENDED


# Shared by the scripts below. KEYS: record, events, done bits, open uploads. `finish` keeps the
# record as a tombstone past its life, so that an expired job is told from one that never was.
_LUA = """
local function finish(status, moment, problem)
  local ttl = tonumber(redis.call('HGET', KEYS[1], 'ttl_s'))
  redis.call('HSET', KEYS[1], 'status', status, 'finished_at', moment,
             'expires_at', tostring(tonumber(moment) + ttl))
  if problem ~= '' then redis.call('HSET', KEYS[1], 'error', problem) end
  redis.call('EXPIRE', KEYS[1], ttl + TOMBSTONE_S)
  redis.call('EXPIRE', KEYS[2], ttl)
  redis.call('EXPIRE', KEYS[3], ttl)
  redis.call('SREM', KEYS[4], redis.call('HGET', KEYS[1], 'id'))
end
local function announce()
  redis.call('HINCRBY', KEYS[1], 'revision', 1)
  redis.call('XADD', KEYS[2], 'MAXLEN', '~', 1000, '*',
             'status', redis.call('HGET', KEYS[1], 'status'))
end
local status = redis.call('HGET', KEYS[1], 'status')
if status ~= 'queued' and status ~= 'running' then return 0 end
""".replace("TOMBSTONE_S", str(TOMBSTONE_S))

_START = (
    _LUA
    + """
if status == 'queued' then
  redis.call('HSET', KEYS[1], 'status', 'running', 'started_at', ARGV[1])
  announce()
end
return 1
"""
)

_COUNT = (
    _LUA
    + """
if redis.call('SETBIT', KEYS[3], ARGV[1], 1) == 1 then return 0 end
redis.call('HINCRBY', KEYS[1], 'succeeded', ARGV[2])
redis.call('HINCRBY', KEYS[1], 'skipped', ARGV[3])
redis.call('HINCRBY', KEYS[1], 'failed', ARGV[4])
local n_done = redis.call('HINCRBY', KEYS[1], 'n_chunks_done', 1)
if n_done == tonumber(redis.call('HGET', KEYS[1], 'n_chunks')) then
  finish(ARGV[6] == '' and 'succeeded' or 'failed', ARGV[5], ARGV[6])
end
announce()
return 1
"""
)

_FINISH = (
    _LUA
    + """
finish(ARGV[1], ARGV[2], ARGV[3])
announce()
return 1
"""
)


class Jobs:
    """Creates, changes, reads and awaits job records."""

    def __init__(self, redis: Redis) -> None:
        self._redis = redis
        self._start = redis.register_script(_START)
        self._count = redis.register_script(_COUNT)
        self._finish = redis.register_script(_FINISH)

    def create(self, job: Job) -> None:
        fields: dict[Any, Any] = {
            name: _to_field(value)
            for name, value in job.model_dump(mode="json").items()
            if value is not None
        }
        fields["created_at"] = repr(job.created_at.timestamp())
        with self._redis.pipeline() as pipeline:
            pipeline.hset(_record(job.id), mapping=fields)
            pipeline.zadd(_list_of(job.kind), {job.id: job.created_at.timestamp()})
            if job.n_chunks:
                pipeline.sadd(OPEN_UPLOADS, job.id)
            pipeline.zremrangebyscore(SEARCHES, "-inf", time.time() - SEARCH_TTL_S)
            pipeline.execute()

    def forget(self, job_id: str) -> None:
        """Takes back a job that could not be queued."""
        with self._redis.pipeline() as pipeline:
            pipeline.delete(_record(job_id), _events(job_id), _done(job_id))
            pipeline.zrem(JOBS, job_id)
            pipeline.zrem(SEARCHES, job_id)
            pipeline.srem(OPEN_UPLOADS, job_id)
            pipeline.execute()

    def start(self, job_id: str) -> bool:
        """Marks a job as running. Returns False if there is nothing (more) to do for it."""
        return bool(self._start(keys=self._keys(job_id), args=[repr(time.time())]))

    def count_chunk(self, job_id: str, chunk: int, items: Iterable[Item]) -> None:
        """Adds a chunk's outcomes to the progress, once however often it is called.

        The job ends with its last chunk. A job of one picture (`embed`) ends as failed if that
        picture failed; in a bulk job a failed picture is an outcome like another.
        """
        items = list(items)
        problem = ""
        if self.get(job_id).kind == "embed" and items[0].error is not None:
            problem = items[0].error.model_dump_json()
        tally = [
            sum(item.outcome == outcome for item in items)
            for outcome in ("succeeded", "skipped", "failed")
        ]
        self._count(keys=self._keys(job_id), args=[chunk, *tally, repr(time.time()), problem])

    def finish(self, job_id: str, error: Problem | None = None) -> None:
        """Ends a job that is not counted in chunks; once ended it stays as it is."""
        status = "succeeded" if error is None else "failed"
        problem = "" if error is None else error.model_dump_json()
        self._finish(keys=self._keys(job_id), args=[status, repr(time.time()), problem])

    def begin_try(self, job_id: str, part: str) -> int:
        """Notes that a part of a job is begun. Returns how often that was not followed by an end.

        A count above 1 means that the earlier tries took their worker process with them.
        """
        with self._redis.pipeline() as pipeline:
            pipeline.hincrby(_tries(job_id), part, 1)
            pipeline.expire(_tries(job_id), SEARCH_TTL_S)
            return int(pipeline.execute()[0])

    def end_try(self, job_id: str, part: str) -> None:
        """Notes that a part of a job came to an end that left its worker alive."""
        self._redis.hdel(_tries(job_id), part)

    def open_uploads(self) -> list[Job]:
        """Returns the uploads that have not ended."""
        ids: Any = self._redis.smembers(OPEN_UPLOADS)
        return [self.get(job_id) for job_id in ids]

    def undone_chunks(self, job: Job) -> list[int]:
        """Returns the chunks of a job that have not been counted."""
        with self._redis.pipeline() as pipeline:
            for chunk in range(job.n_chunks):
                pipeline.getbit(_done(job.id), chunk)
            return [chunk for chunk, is_done in enumerate(pipeline.execute()) if not is_done]

    def get(self, job_id: str) -> Job:
        """Reads a job.

        Raises:
            JobNotFound: There never was one of this id, or long ago.
            JobExpired: It ended more than its life ago.
        """
        fields: dict[str, Any] = self._redis.hgetall(_record(job_id))  # type: ignore[assignment]
        if not fields:
            raise JobNotFound(f"There is no job {job_id!r}.")
        if "error" in fields:
            fields["error"] = json.loads(fields["error"])
        job = Job.model_validate(fields)
        if job.expires_at is not None and job.expires_at < now():
            raise JobExpired(f"Job {job_id!r} ended at {fields['finished_at']} and has expired.")
        return job

    def wait(self, job_id: str, timeout_s: float) -> Job:
        """Returns the job as soon as it has ended, or as it is when the time is up."""
        deadline = time.monotonic() + timeout_s
        while True:
            # The stream's end is read before the record, so no event falls between the two.
            last: Any = self._redis.xrevrange(_events(job_id), count=1)
            job = self.get(job_id)
            left_s = deadline - time.monotonic()
            if job.has_ended or left_s <= 0:
                return job
            self._redis.xread(
                {_events(job_id): last[0][0] if last else "0-0"},
                block=max(1, int(min(left_s, WAIT_SLICE_S) * 1000)),
            )

    def page(
        self, limit: int, after: Cursor | None, wanted: dict[str, Any]
    ) -> tuple[list[Job], Cursor | None]:
        """Lists jobs, newest first, whose fields equal those wanted.

        Searches are listed only where the kind `search` is wanted.

        Returns:
            At most `limit` jobs, and where the next page begins.
        """
        found: list[Job] = []
        key = _list_of(wanted.get("kind"))
        while True:
            ids, after = page_of(self._redis, key, limit - len(found), after)
            for job_id in ids:
                try:
                    job = self.get(job_id)
                except (JobNotFound, JobExpired):
                    self._redis.zrem(key, job_id)
                    continue
                if all(getattr(job, name) == value for name, value in wanted.items()):
                    found.append(job)
            if after is None or len(found) == limit:
                return found, after

    def claim_idempotency_key(self, key: str, fingerprint: str, job_id: str) -> str:
        """Binds a caller's key to a request and its job, for a day.

        Returns:
            The id of the job that the key stands for: this one, or an earlier one.

        Raises:
            IdempotencyConflict: The key stands for another request.
        """
        name = f"tl:idempotency:{key}"
        mine = f"{fingerprint}:{job_id}"
        if self._redis.set(name, mine, nx=True, ex=IDEMPOTENCY_TTL_S):
            return job_id
        stored = str(self._redis.get(name) or mine)
        earlier, _, earlier_job = stored.partition(":")
        if earlier != fingerprint:
            raise IdempotencyConflict(
                "This Idempotency-Key was sent with another request; use a new key for a new one."
            )
        return earlier_job

    def release_idempotency_key(self, key: str) -> None:
        self._redis.delete(f"tl:idempotency:{key}")

    @staticmethod
    def _keys(job_id: str) -> list[str]:
        return [_record(job_id), _events(job_id), _done(job_id), OPEN_UPLOADS]


def _list_of(kind: JobKind | None) -> str:
    return SEARCHES if kind == "search" else JOBS


def _to_field(value: object) -> str:
    return value if isinstance(value, str) else json.dumps(value)
