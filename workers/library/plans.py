"""What a job is about, found by a worker, becomes chunks as those of an upload."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import islice
from typing import TYPE_CHECKING

from twinlens.shared.chunking import chunk_items
from twinlens.shared.manifests import write_manifest
from twinlens.shared.messages import ManifestItem

if TYPE_CHECKING:
    from collections.abc import Iterable

    from celery import Celery

    from twinlens.shared.blobs import BlobStore
    from twinlens.shared.messages import CatalogEntry, JobKind
    from twinlens.shared.redis.catalog import Catalog
    from twinlens.shared.redis.feed import Feed
    from twinlens.shared.redis.jobs import Job, Jobs
    from twinlens.shared.settings import Settings


def item_of(entry: CatalogEntry) -> ManifestItem:
    """Returns a stored image as an item of a job."""
    image = entry.image
    return ManifestItem(name=image.name, image_id=image.id, n_bytes=image.bytes)


@dataclass(frozen=True, kw_only=True)
class Plans:
    """Queues the chunks of jobs whose first task makes them."""

    settings: Settings
    jobs: Jobs
    feed: Feed
    catalog: Catalog
    blobs: BlobStore

    def begin(self, job_id: str) -> Job | None:
        """Returns the job, running; None where all of its chunks are made, or no longer wanted."""
        if not self.jobs.start(job_id):
            return None
        job = self.jobs.get(job_id)
        return job if job.total is None else None

    def queue(
        self, app: Celery, job: Job, items: Iterable[ManifestItem], *, are_decoded: bool = True
    ) -> None:
        """Queues pictures in chunks, after those that the job has.

        Args:
            app: The queue.
            job: The job. It may be cancelled meanwhile.
            items: Its pictures; after an interruption, those that are not in its chunks.
            are_decoded: See `chunk_items`.
        """
        self.add(app, job, items, are_decoded=are_decoded)
        self.feed.seal(job.id)

    def add(
        self,
        app: Celery,
        job: Job,
        items: Iterable[ManifestItem],
        kind: JobKind | None = None,
        *,
        are_decoded: bool = True,
    ) -> None:
        """Queues pictures as `queue` does; more may follow.

        Args:
            app: The queue.
            job: The job.
            items: Its next pictures.
            kind: What becomes of them, if that is not what the job's kind says.
            are_decoded: See `chunk_items`.
        """
        told = job.model_copy(update={"kind": kind or job.kind})
        cost_s = self.catalog.cost_s(job.library_id)
        size = chunk_items(self.settings, cost_s, are_decoded=are_decoded)
        left = iter(items)
        with self.blobs.batch() as batch:
            while some := list(islice(left, size)):
                write_manifest(batch, told, job.n_chunks, some, is_last=False)
                if not self.feed.add_chunk(job.id, job.n_chunks, len(some)):
                    return
                self.feed.top_up(app)
                job.n_chunks += 1
