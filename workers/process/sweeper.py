"""Finds what was lost (tasks without a message, uploads without an API process) or is late.

A task that was not lost after all runs twice, which does no harm.
"""

from __future__ import annotations

import json
import logging
from dataclasses import dataclass
from typing import TYPE_CHECKING

from twinlens.shared.errors import DeadlineExceeded, Unavailable, UploadBroken
from twinlens.shared.queue import chunk_task, chunk_task_id, publish
from twinlens.shared.redis import keys
from twinlens.shared.redis.presence import live_workers

if TYPE_CHECKING:
    from celery import Celery

    from twinlens.shared.redis.catalog import Catalog
    from twinlens.shared.redis.client import Redis
    from twinlens.shared.redis.feed import Feed
    from twinlens.shared.redis.jobs import Job, Jobs
    from twinlens.workers.library.calibrations import Calibrations
    from twinlens.workers.library.damages import Damages
    from twinlens.workers.library.editions import Editions
    from twinlens.workers.library.expiry import Expiry
    from twinlens.workers.library.removals import Removals
    from twinlens.workers.reconcile.folding import Folding

log = logging.getLogger(__name__)

SWEEP_S = 10.0
# What is younger may still be on its way into the queue.
MIN_AGE_S = 20.0
# A queue that is longer is not read: what was lost is found once it is shorter.
MAX_READ = 5_000


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
    expiry: Expiry
    folding: Folding
    catalog: Catalog

    def sweep(self, app: Celery) -> None:
        """Sweeps, unless another process has done so within SWEEP_S."""
        if not self.redis.set(keys.SWEEP, self.name, nx=True, ex=int(SWEEP_S)):
            return
        live_workers(self.redis)  # forgets the dead: chunks are fed by the number of live ones
        self._end_late_jobs()
        self._seal_lost_uploads()
        self._requeue_lost_chunks(app)
        for queue in ("search", "single"):
            self._rescue_lost_tasks(app, queue)
        self.feed.top_up(app)
        for look_after in (
            self.damages.look,
            self.editions.tend,
            self.calibrations.keep,
            self.removals.tend,
            self.expiry.tend,
            self.folding.tend,
            self.catalog.keep_libraries,
        ):
            try:
                look_after()
            except (Unavailable, OSError) as error:
                log.warning("libraries will be looked after later: %s", error)

    def _end_late_jobs(self) -> None:
        for job_id in self.jobs.late():
            job = self.jobs.find(job_id)
            if job is not None and not job.has_ended:
                self._end_late(job)
            self.jobs.forget_deadline(job_id)

    def _end_late(self, job: Job) -> None:
        if job.kind == "reindex" and not self.editions.give_up(job) and job.is_counted:
            self.jobs.finish(job.id)  # its edition is searched
            return
        reason = DeadlineExceeded("The deadline has passed; what was done by then is kept.")
        self.jobs.cancel(job.id, reason.to_problem())

    def _seal_lost_uploads(self) -> None:
        for job_id in self.feed.lost_arrivals():
            log.warning("the upload of job %s was lost", job_id)
            reason = UploadBroken("The upload ended before all of it had arrived; post it again.")
            self.feed.seal(job_id, reason.to_problem())
            self.jobs.count_rescue("bulk")

    def _requeue_lost_chunks(self, app: Celery) -> None:
        fed = self.feed.fed_chunks(MIN_AGE_S)
        present = self._queued_ids("bulk") | self._held_ids() if fed else set()
        for job_id, chunk in fed:
            if chunk_task_id(job_id, chunk) in present:
                continue
            job = self.jobs.find(job_id)
            if job is None or job.has_ended or self.feed.is_counted(job_id, chunk):
                self.feed.forget_chunk(job_id, chunk)
            else:
                log.warning("chunk %d of job %s was lost; it is queued again", chunk, job_id)
                publish(app, chunk_task("bulk", job_id, chunk), job.request_id)
                self.jobs.count_rescue(job.kind)

    def _rescue_lost_tasks(self, app: Celery, queue: str) -> None:
        old = self.jobs.open_tasks(queue, MIN_AGE_S)
        if not old or self.redis.llen(queue) > MAX_READ:
            return
        there = self._queued_ids(queue) | self._held_ids()
        present = {task_id.partition(".")[0] for task_id in there}
        for job_id in old:
            if job_id not in present:
                self._rescue(app, queue, job_id)

    def _rescue(self, app: Celery, queue: str, job_id: str) -> None:
        job = self.jobs.find(job_id)
        if job is None:
            self.jobs.forget_task(queue, job_id)
            return
        if job.kind == "search":
            # Whoever asked has waited for longer than a search takes.
            log.warning("the search %s was lost", job_id)
            reason = Unavailable("The search was lost on its way; search again.")
            self.jobs.finish(job_id, reason.to_problem())
        elif job.task is not None:
            log.warning("the task of job %s was lost; it is queued again", job_id)
            publish(app, job.task, job.request_id)
        self.jobs.count_rescue(job.kind)

    def _queued_ids(self, queue: str) -> set[str]:
        messages = self.redis.lrange(queue, 0, -1)
        return {json.loads(text)["headers"]["id"] for text in messages}

    def _held_ids(self) -> set[str]:
        # Kombu keeps [message, exchange, routing key] of what workers hold.
        return {json.loads(text)[0]["headers"]["id"] for text in self.redis.hvals(keys.UNACKED)}
