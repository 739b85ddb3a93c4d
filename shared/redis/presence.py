"""Which worker processes are alive, and what each can reach: written by them, read by the API."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from twinlens.shared.messages import WorkerStatus
from twinlens.shared.redis import keys

if TYPE_CHECKING:
    from twinlens.shared.redis.client import Redis

BEAT_S = 2.0
# Three beats missed: the process is gone or hangs.
SILENCE_S = 3 * BEAT_S
# A process that had no task for so long queues a probe, if nothing else waits in its lane.
PROBE_S = 10.0
# A lane in which no task has ended for so long, and none is running, takes none.
PROOF_S = 30.0


def announce(redis: Redis, status: WorkerStatus) -> None:
    redis.hset(keys.WORKERS, status.name, status.model_dump_json())


def live_workers(redis: Redis) -> list[WorkerStatus]:
    """Returns the processes heard of lately, and forgets the others."""
    stored = {
        name: WorkerStatus.model_validate_json(text)
        for name, text in redis.hgetall(keys.WORKERS).items()
    }
    silent = [name for name, worker in stored.items() if worker.beat_at < time.time() - SILENCE_S]
    if silent:
        redis.hdel(keys.WORKERS, *silent)
    return [worker for name, worker in sorted(stored.items()) if name not in silent]
