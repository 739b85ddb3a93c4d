"""Manifests go with their jobs; what they alone have said by then goes into the journal."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

from twinlens.shared.blobs import CLOCK_TICK_S, image_key, manifest_key
from twinlens.shared.errors import LibraryNotFound
from twinlens.shared.manifests import read_manifests

if TYPE_CHECKING:
    from collections.abc import Sequence

    from twinlens.shared.blobs import BlobStore
    from twinlens.shared.messages import ManifestHead, ManifestItem
    from twinlens.shared.redis.catalog import Catalog
    from twinlens.shared.redis.jobs import Job, Jobs
    from twinlens.workers.library.journaling import Journaling

# Of one sweep, so that others who were lost are looked for in time. Each takes some milliseconds.
MAX_CHUNKS = 1_000
# Before what could not be ended yet is looked at again.
PAUSE_S = 600
# Moments are kept to the millisecond.
MOMENT_S = 0.001
ADDING = ("embed", "bulk", "reconcile")


@dataclass(frozen=True, kw_only=True)
class Expiry:
    """Ends the life of manifests, and of pictures that never became an image."""

    jobs: Jobs
    catalog: Catalog
    blobs: BlobStore
    journaling: Journaling

    def tend(self) -> None:
        """Ends what is over; a part of it, where there is much.

        Raises:
            OSError: The disk does not take it.
        """
        n_left = MAX_CHUNKS
        for job_id in self.jobs.with_old_manifests(MAX_CHUNKS):
            if n_left > 0:
                n_left -= max(1, self._end(job_id, n_left))

    def _end(self, job_id: str, n_most: int) -> int:
        """Ends some of a job's manifests. Returns how many."""
        job = self.jobs.past(job_id)
        if job is None:  # what is on the disk may be all that is known: `reconcile` reads it
            self.jobs.forget_manifests(job_id)
            return 0
        until = self._useful_until(job)
        if until > time.time():
            self.jobs.keep_manifests(job_id, until)
            return 0
        n_done, is_there = 0, self._is_there(job)
        for head, items in read_manifests(self.blobs, job_id):
            if n_done == n_most:
                return n_done
            if head.kind in ADDING and is_there:
                self._end_chunk(job, head, items)
            self.blobs.delete(manifest_key(job_id, head.chunk))
            n_done += 1
        self.blobs.delete_manifests(job_id)
        self.jobs.forget_manifests(job_id)
        return n_done

    def _useful_until(self, job: Job) -> float:
        """Returns until when a job's manifests are kept at least, in Unix time."""
        if job.finished_at is None or job.expires_at is None:
            return time.time() + PAUSE_S
        if job.expires_at.timestamp() > time.time():
            return job.expires_at.timestamp()
        # An upload that went on beside it may have been promised a picture that this job had first.
        oldest = self.catalog.oldest_open_upload(job.library_id)
        return time.time() + PAUSE_S if oldest is not None and oldest <= job.finished_at else 0

    def _is_there(self, job: Job) -> bool:
        try:
            self.catalog.library(job.library, job.library_id)
        except LibraryNotFound:
            return False
        return True

    def _end_chunk(self, job: Job, head: ManifestHead, items: Sequence[ManifestItem]) -> None:
        """Writes down what the chunk has added, and removes the pictures that came to nothing.

        What else it has changed is in the journal since.
        """
        ids = list(dict.fromkeys(item.image_id for item in items if item.image_id))
        entries = self.catalog.find(head.library_id, ids)
        added = [i for i, one in entries.items() if one.added_by.partition(":")[0] == head.job_id]
        self.journaling.note(head.library_id, dict.fromkeys(added, head.accepted_at))
        left = [image_key(head.library_id, one) for one in ids if one not in entries]
        self._delete_bytes(job, head, left)

    def _delete_bytes(self, job: Job, head: ManifestHead, left: Sequence[str]) -> None:
        """Removes what the job has stored and not catalogued, if that is what its record says.

        If there is more, it is the catalogue that has lost something.
        """
        stored = [key for key in left if self.blobs.touched_at(key) is not None]
        if len(stored) > job.failed + job.received - job.n_counted:
            return
        # It was put just before that; whoever has put it again since looks after it.
        since = head.accepted_at.timestamp() + MOMENT_S + CLOCK_TICK_S
        for key in stored:
            self.blobs.delete(key, unless_touched_since=since)
