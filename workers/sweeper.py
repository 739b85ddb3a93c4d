"""Queues chunks again whose message is gone: a hard time limit, say, drops it."""

from __future__ import annotations

import json
import logging
from typing import TYPE_CHECKING, Any

from twinlens.shared.messages import now
from twinlens.shared.queue import LANES, UNACKED_KEY, publish_chunk

if TYPE_CHECKING:
    from celery import Celery
    from redis import Redis

    from twinlens.workers.runtime import Runtime

log = logging.getLogger(__name__)

SWEEP_S = 10.0
# A younger job may still be on its way into the queue.
MIN_AGE_S = 30.0


def requeue_lost_chunks(runtime: Runtime, app: Celery) -> None:
    """Queues what unfinished jobs still lack, if no upload is queued or running anywhere.

    A chunk that was not lost after all runs twice, which does no harm.
    """
    redis = runtime.redis
    if not is_idle(redis) or not redis.set("tl:sweep", runtime.name, nx=True, ex=int(SWEEP_S)):
        return
    for job in runtime.jobs.open_uploads():
        if (now() - job.created_at).total_seconds() < MIN_AGE_S:
            continue
        chunks = runtime.jobs.undone_chunks(job)
        log.warning("queueing %d lost chunks of job %s again", len(chunks), job.id)
        for chunk in chunks:
            publish_chunk(app, job, chunk)


def is_idle(redis: Redis) -> bool:
    """Tells whether no chunk is queued, and none is held by a worker."""
    queues = LANES["bulk"]
    if any(redis.llen(queue) for queue in queues):
        return False
    # Kombu keeps [message, exchange, routing key] of what workers hold.
    held: list[Any] = redis.hvals(UNACKED_KEY)
    return not any(json.loads(text)[2] in queues for text in held)
