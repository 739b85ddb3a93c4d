"""Finds what was lost: chunks without a message, uploads without an API process, and tidies up.

A chunk that was not lost after all runs twice, which does no harm.
"""

from __future__ import annotations

import json
import logging
from typing import TYPE_CHECKING, Any

from twinlens.shared.errors import JobExpired, JobNotFound, Unavailable, UploadBroken
from twinlens.shared.messages import now
from twinlens.shared.queue import chunk_task_id, publish_chunk
from twinlens.shared.redis import keys
from twinlens.shared.redis.presence import live_workers
from twinlens.workers.library.calibrate import calibrate_libraries
from twinlens.workers.library.reindex import tend_libraries

if TYPE_CHECKING:
    from celery import Celery
    from redis import Redis

    from twinlens.workers.process.runtime import Runtime

log = logging.getLogger(__name__)

SWEEP_S = 10.0
# What is younger may still be on its way into the queue.
MIN_AGE_S = 30.0


def sweep(runtime: Runtime, app: Celery) -> None:
    """Looks after what nobody else does. One worker of all does it at a time."""
    if not runtime.redis.set(keys.SWEEP, runtime.name, nx=True, ex=int(SWEEP_S)):
        return
    live_workers(runtime.redis)  # forgets the dead: chunks are fed by the number of the living
    _seal_lost_uploads(runtime)
    _requeue_lost_chunks(runtime, app)
    _requeue_lost_singles(runtime, app)
    runtime.feed.top_up(app)
    try:
        tend_libraries(runtime)
        calibrate_libraries(runtime)
    except Unavailable as error:
        log.warning("libraries are looked after later: %s", error)


def _seal_lost_uploads(runtime: Runtime) -> None:
    for job_id in runtime.feed.lost_arrivals():
        log.warning("the upload of job %s was lost", job_id)
        reason = UploadBroken("The upload ended before all of it had arrived; post it again.")
        runtime.feed.seal(job_id, reason.to_problem())


def _requeue_lost_chunks(runtime: Runtime, app: Celery) -> None:
    fed = runtime.feed.fed_chunks(MIN_AGE_S)
    present = _queued_ids(runtime.redis, "bulk") | _held_ids(runtime.redis) if fed else set()
    for job_id, chunk in fed:
        if chunk_task_id(job_id, chunk) in present:
            continue
        try:
            job = runtime.jobs.get(job_id)
        except (JobNotFound, JobExpired):
            job = None
        if job is None or job.has_ended or runtime.feed.is_counted(job_id, chunk):
            runtime.feed.forget_chunk(job_id, chunk)
        else:
            log.warning("chunk %d of job %s was lost; it is queued again", chunk, job_id)
            publish_chunk(app, "bulk", job_id, chunk, job.request_id)


def _requeue_lost_singles(runtime: Runtime, app: Celery) -> None:
    """Looks only while none waits: then whatever is open and not held is lost."""
    if runtime.redis.llen("single"):
        return
    old = [
        job
        for job in runtime.jobs.open_singles()
        if (now() - job.created_at).total_seconds() >= MIN_AGE_S
    ]
    held = _held_ids(runtime.redis) if old else set()
    for job in old:
        if chunk_task_id(job.id, 0) not in held:
            log.warning("the picture of job %s was lost; it is queued again", job.id)
            publish_chunk(app, "single", job.id, 0, job.request_id)


def _queued_ids(redis: Redis, queue: str) -> set[str]:
    messages: list[Any] = redis.lrange(queue, 0, -1)
    return {json.loads(text)["headers"]["id"] for text in messages}


def _held_ids(redis: Redis) -> set[str]:
    # Kombu keeps [message, exchange, routing key] of what workers hold.
    held: list[Any] = redis.hvals(keys.UNACKED)
    return {json.loads(text)[0]["headers"]["id"] for text in held}
