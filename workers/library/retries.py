"""The failed pictures of a job, once more, as another job."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import islice, repeat
from typing import TYPE_CHECKING

from twinlens.shared.blobs import image_key
from twinlens.shared.errors import ContentMissing
from twinlens.shared.manifests import read_manifest
from twinlens.shared.messages import Item, ManifestItem
from twinlens.shared.redis.results import read_outcomes

if TYPE_CHECKING:
    from collections.abc import Iterator

    from celery import Celery

    from twinlens.shared.blobs import BlobStore
    from twinlens.shared.redis.client import Redis
    from twinlens.shared.redis.feed import Feed
    from twinlens.shared.redis.jobs import Job, Jobs
    from twinlens.workers.library.plans import Plans

# Chunks whose outcomes are read at once.
READ_CHUNKS = 50


@dataclass(frozen=True, kw_only=True)
class Retries:
    """Queues again what failed."""

    redis: Redis
    jobs: Jobs
    feed: Feed
    blobs: BlobStore
    plans: Plans

    def plan(self, app: Celery, job_id: str) -> None:
        """Queues the failed pictures of the job that this one retries, in their order.

        Raises:
            JobNotFound: There is no such job any more.
            JobExpired: It has expired.
        """
        job = self.plans.begin(job_id)
        if job is not None:
            failed = self._failed(self.jobs.get(job.retry_of))
            # After an interruption, the first are queued already: the order is always the same.
            taken_over = map(self._take_over, repeat(job.library_id), failed)
            self.plans.queue(app, job, islice(taken_over, job.received, None))

    def _take_over(self, library_id: str, item: ManifestItem) -> ManifestItem:
        # Else it would go with the job that had it first.
        if item.image_id is not None:
            self.blobs.touch(image_key(library_id, item.image_id))
        return item

    def _failed(self, job: Job) -> Iterator[ManifestItem]:
        for first in range(0, job.n_chunks, READ_CHUNKS):
            chunks = range(first, min(first + READ_CHUNKS, job.n_chunks))
            for chunk, items in zip(chunks, read_outcomes(self.redis, job.id, chunks), strict=True):
                yield from self._failed_in(job, chunk, items)

    def _failed_in(self, job: Job, chunk: int, items: list[Item]) -> Iterator[ManifestItem]:
        """Yields what failed of a chunk: all of it, where the job failed before."""
        is_undone = job.status == "failed" and not self.feed.is_counted(job.id, chunk)
        places = [n for n, item in enumerate(items) if item.outcome == "failed"]
        if not places and not is_undone:
            return
        try:
            _, entries = read_manifest(self.blobs, job.id, chunk)
        except (FileNotFoundError, ValueError):
            yield from (_lost(items[place]) for place in places)
            return
        yield from entries if is_undone else (entries[place] for place in places)


def _lost(item: Item) -> ManifestItem:
    reason = ContentMissing("What was sent is no longer known; upload it again.")
    return ManifestItem(name=item.name, image_id=item.image_id, error=reason.to_problem())
