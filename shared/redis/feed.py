"""How bulk uploads get into the queue: in chunks, in turn, a few at a time.

    stored chunk ─▶ its job's place in the rings ─▶ Celery's queue `bulk` ─▶ counted

Celery's queue holds no more than keeps the workers busy, so that a small upload waits for one
chunk of each other job and not for the million pictures that came before it.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

from twinlens.shared.queue import chunk_of, chunk_task, chunk_task_id, publish
from twinlens.shared.redis import keys
from twinlens.shared.redis.scripts import ARRIVAL_TTL_S, Changes, read_script

if TYPE_CHECKING:
    from celery import Celery

    from twinlens.shared.errors import Problem
    from twinlens.shared.redis.client import Redis


class Feed:
    """Takes chunks in as they are stored, and gives them to the workers in turn."""

    def __init__(self, redis: Redis) -> None:
        self._redis = redis
        self._changes = Changes(redis)
        self._take = redis.register_script(read_script("take"))

    def add_chunk(self, job_id: str, chunk: int, n_pictures: int) -> bool:
        """Adds a stored chunk to the work; repeating it changes nothing.

        Args:
            job_id: The job.
            chunk: Its number: that of the chunks that the job has before it.
            n_pictures: How many it has.

        Returns:
            False if the job accepts no more.
        """
        return bool(self._changes.make("add_chunk", job_id, chunk, n_pictures))

    def seal(self, job_id: str, error: Problem | None = None, n_passed_over: int = 0) -> None:
        """Records that an upload was read to its end, or that it broke.

        What arrived of a broken one is embedded all the same; then the job ends as failed.

        Args:
            job_id: The job.
            error: Why it broke.
            n_passed_over: How many files of it are no pictures by their names.
        """
        problem = "" if error is None else error.model_dump_json()
        self._changes.make("seal", job_id, repr(time.time()), problem, n_passed_over)

    def still_arrives(self, job_id: str) -> None:
        """Renews the sign that an upload is being read."""
        self._redis.set(keys.arrival(job_id), 1, ex=ARRIVAL_TTL_S)

    def lost_arrivals(self) -> list[str]:
        """Returns the jobs whose upload is no longer being read; forgets those without a record."""
        ids = sorted(self._redis.smembers(keys.ARRIVING))
        gone = {job_id for job_id in ids if not self._redis.exists(keys.job(job_id))}
        if gone:
            self._redis.srem(keys.ARRIVING, *gone)
        return [
            job_id
            for job_id in ids
            if job_id not in gone and not self._redis.exists(keys.arrival(job_id))
        ]

    def top_up(self, app: Celery) -> None:
        """Queues chunks until there are enough in Celery's queue, or none is waiting.

        Raises:
            kombu.exceptions.OperationalError: Redis does not answer. A chunk that was taken is
                found again by the sweeper.
        """
        while (taken := self._take_chunk()) is not None:
            job_id, chunk, request_id = taken
            publish(app, chunk_task("bulk", job_id, chunk), request_id)

    def _take_chunk(self) -> tuple[str, int, str] | None:
        """Returns job, chunk and request id of the next in turn, if there is room for one."""
        taken: Any = self._take(
            keys=[keys.RING, keys.FED, keys.WORKERS],
            args=[repr(time.time()), keys.jobs_in_turn("*"), keys.job("*")],
        )
        return None if taken is None else (taken[0], int(taken[1]), taken[2])

    def fed_chunks(self, min_age_s: float) -> list[tuple[str, int]]:
        """Returns the chunks that have been on their way for at least this long."""
        members = self._redis.zrangebyscore(keys.FED, "-inf", time.time() - min_age_s)
        return [chunk_of(member) for member in members]

    def forget_chunk(self, job_id: str, chunk: int) -> None:
        """Makes room for another chunk: this one is done with."""
        self._redis.zrem(keys.FED, chunk_task_id(job_id, chunk))

    def is_counted(self, job_id: str, chunk: int) -> bool:
        """Returns whether a chunk's outcomes are in the progress."""
        return bool(self._redis.getbit(keys.done_chunks(job_id), chunk))

    def backlog(self) -> int:
        """Returns how many pictures of bulk jobs are stored and not yet done."""
        return int(self._redis.get(keys.BACKLOG) or 0)
