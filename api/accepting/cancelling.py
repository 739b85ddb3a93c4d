"""Cancelling: what of a job has not begun never begins; what is done stays."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from twinlens.api.access.checks import check_scope
from twinlens.shared.blobs import cancelled_key
from twinlens.shared.errors import JobConflict, LibraryNotFound

if TYPE_CHECKING:
    from twinlens.shared.blobs import BlobStore
    from twinlens.shared.redis.catalog import Catalog
    from twinlens.shared.redis.jobs import Job, Jobs


@dataclass(frozen=True, kw_only=True)
class Cancelling:
    """Cancels jobs. Its record says so; whoever works on a job, or feeds it, looks there."""

    jobs: Jobs
    catalog: Catalog
    blobs: BlobStore

    def cancel(self, job_id: str) -> Job:
        """Cancels a job; one that is cancelled already stays so.

        Returns:
            The job, cancelled.

        Raises:
            JobNotFound: There is no such job.
            JobExpired: It has expired.
            JobConflict: It has ended otherwise, or cannot be stopped any more.
            NotAllowed: It changes a library, which the caller's key does not allow.
        """
        job = self.jobs.get(job_id)
        if job.kind == "reindex":
            check_scope("admin")
        if not (job.has_ended or self._can_stop(job)) or not self.jobs.cancel(job_id):
            status = self.jobs.get(job_id).status
            raise JobConflict(f"Job {job_id} can no longer be cancelled: it is {status}.")
        if job.has_manifests:  # else they would count, were Redis emptied
            self.blobs.put(cancelled_key(job_id), b"")
        return self.jobs.get(job_id)

    def _can_stop(self, job: Job) -> bool:
        """Decides what the record alone does not; gives up the edition that a job is building.

        That comes before the record: whoever switches the edition on looks in the library.
        """
        try:
            if job.kind == "reindex":
                return self.catalog.give_up_plan(job.library, job.id, job.library_id)
            self.catalog.library(job.library, job.library_id)
        except LibraryNotFound:
            # A library is forgotten before its removal begins.
            return job.kind != "delete"
        return True
