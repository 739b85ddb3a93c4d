"""Which worker processes live, and what each can reach: written by them, read by the API."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from pydantic import BaseModel, Field

from twinlens.shared.queue import Lane
from twinlens.shared.scripts import WORKERS

if TYPE_CHECKING:
    from redis import Redis

BEAT_S = 2.0
# Three beats missed: the process is gone or hangs.
SILENCE_S = 3 * BEAT_S


class WorkerStatus(BaseModel):
    """One worker process, as of its last heartbeat."""

    name: str = Field(description="lanes@host:pid")
    lanes: list[Lane]
    beat_at: float = Field(description="Unix time of the heartbeat, in seconds")
    milvus: str = Field(description="`ok`, or why it does not answer")
    n_pictures: int = Field(description="pictures embedded since the process started")
    pictures_per_s: float = Field(description="over the last minute")
    tasks_per_s: float = Field(description="over the last minute")
    busy_s: float = Field(description="spent on bulk tasks since the process started")


def announce(redis: Redis, status: WorkerStatus) -> None:
    redis.hset(WORKERS, status.name, status.model_dump_json())


def live_workers(redis: Redis) -> list[WorkerStatus]:
    """Returns the processes heard of lately, and forgets the others."""
    stored = {
        name: WorkerStatus.model_validate_json(text)
        for name, text in redis.hgetall(WORKERS).items()
    }
    silent = [name for name, worker in stored.items() if worker.beat_at < time.time() - SILENCE_S]
    if silent:
        redis.hdel(WORKERS, *silent)
    return [worker for name, worker in sorted(stored.items()) if name not in silent]
