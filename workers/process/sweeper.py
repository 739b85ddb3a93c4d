"""Finds what was lost (chunks without a message, uploads without an API process), and tidies up.

A chunk that was not lost after all runs twice, which does no harm.
"""

from __future__ import annotations

import json
import logging
from dataclasses import dataclass
from typing import TYPE_CHECKING

from twinlens.shared.errors import JobExpired, JobNotFound, Unavailable, UploadBroken
from twinlens.shared.messages import now
from twinlens.shared.queue import chunk_task_id, publish_chunk
from twinlens.shared.redis import keys
from twinlens.shared.redis.presence import live_workers

if TYPE_CHECKING:
    from celery import Celery

    from twinlens.shared.redis.client import Redis
    from twinlens.shared.redis.feed import Feed
    from twinlens.shared.redis.jobs import Jobs
    from twinlens.workers.library.calibrations import Calibrations
    from twinlens.workers.library.damages import Damages
    from twinlens.workers.library.editions import Editions
    from twinlens.workers.library.removals import Removals

log = logging.getLogger(__name__)

SWEEP_S = 10.0
# What is younger may still be on its way into the queue.
MIN_AGE_S = 30.0


@dataclass(frozen=True, kw_only=True)
class Sweeper:
    """Looks after what nobody else does. Only one worker does so at a time."""

    name: str
    redis: Redis
    jobs: Jobs
    feed: Feed
    editions: Editions
    calibrations: Calibrations
    damages: Damages
    removals: Removals

    def sweep(self, app: Celery) -> None:
        """Sweeps, unless another process has done so within SWEEP_S."""
        if not self.redis.set(keys.SWEEP, self.name, nx=True, ex=int(SWEEP_S)):
            return
        live_workers(self.redis)  # forgets the dead: chunks are fed by the number of live ones
        self._seal_lost_uploads()
        self._requeue_lost_chunks(app)
        self._requeue_lost_singles(app)
        self.feed.top_up(app)
        for look_after in (
            self.damages.look,
            self.editions.tend,
            self.calibrations.keep,
            self.removals.tend,
        ):
            try:
                look_after()
            except Unavailable as error:
                log.warning("libraries will be looked after later: %s", error)

    def _seal_lost_uploads(self) -> None:
        for job_id in self.feed.lost_arrivals():
            log.warning("the upload of job %s was lost", job_id)
            reason = UploadBroken("The upload ended before all of it had arrived; post it again.")
            self.feed.seal(job_id, reason.to_problem())

    def _requeue_lost_chunks(self, app: Celery) -> None:
        fed = self.feed.fed_chunks(MIN_AGE_S)
        present = self._queued_ids("bulk") | self._held_ids() if fed else set()
        for job_id, chunk in fed:
            if chunk_task_id(job_id, chunk) in present:
                continue
            try:
                job = self.jobs.get(job_id)
            except (JobNotFound, JobExpired):
                job = None
            if job is None or job.has_ended or self.feed.is_counted(job_id, chunk):
                self.feed.forget_chunk(job_id, chunk)
            else:
                log.warning("chunk %d of job %s was lost; it is queued again", chunk, job_id)
                publish_chunk(app, "bulk", job_id, chunk, job.request_id)

    def _requeue_lost_singles(self, app: Celery) -> None:
        """Looks only while none is queued: then whatever is open and not held is lost."""
        if self.redis.llen("single"):
            return
        old = [
            job
            for job in self.jobs.open_singles()
            if (now() - job.created_at).total_seconds() >= MIN_AGE_S
        ]
        held = self._held_ids() if old else set()
        for job in old:
            if chunk_task_id(job.id, 0) not in held:
                log.warning("the picture of job %s was lost; it is queued again", job.id)
                publish_chunk(app, "single", job.id, 0, job.request_id)

    def _queued_ids(self, queue: str) -> set[str]:
        messages = self.redis.lrange(queue, 0, -1)
        return {json.loads(text)["headers"]["id"] for text in messages}

    def _held_ids(self) -> set[str]:
        # Kombu keeps [message, exchange, routing key] of what workers hold.
        return {json.loads(text)[0]["headers"]["id"] for text in self.redis.hvals(keys.UNACKED)}
