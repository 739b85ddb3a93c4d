"""Retrying: the failed pictures of a job are queued again, as a new job."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from twinlens.shared.errors import JobConflict
from twinlens.shared.queue import RETRY, TaskMessage

if TYPE_CHECKING:
    from twinlens.api.accepting.intake import Intake
    from twinlens.api.accepting.submission import Accepted
    from twinlens.api.accepting.terms import Terms
    from twinlens.shared.redis.catalog import Catalog
    from twinlens.shared.redis.jobs import Job, Jobs


@dataclass(frozen=True, kw_only=True)
class Retrying:
    """Accepts jobs of what failed. A worker reads which pictures that are, however many."""

    jobs: Jobs
    catalog: Catalog
    intake: Intake

    def retry(self, job_id: str, terms: Terms) -> Accepted:
        """Queues the failed pictures of an upload, or of a removal of many images, again.

        Args:
            job_id: The job that took them.
            terms: Those of the caller.

        Raises:
            JobNotFound: There is no such job.
            JobExpired: It has expired.
            JobConflict: It has no pictures of its own, has not ended, or nothing of it failed.
            LibraryNotFound: Its library has been removed.
            IdempotencyConflict: The key was sent with another request.
        """
        failed = self.jobs.get(job_id)
        _check(failed)
        library = self.catalog.library(failed.library, failed.library_id)
        job = self.intake.new_job("delete" if failed.has_items else "bulk", library, terms)
        job.has_items, job.retry_of = failed.has_items, failed.id
        task = TaskMessage(RETRY, {"job_id": job.id}, job.id, "single")
        return self.intake.submit(job, task, terms, fingerprint=failed.id)


def _check(job: Job) -> None:
    if job.kind not in ("embed", "bulk") and not job.has_items:
        raise JobConflict(f"Job {job.id} has no pictures of its own: ask for it again.")
    if not job.has_ended:
        raise JobConflict(f"Job {job.id} is {job.status}; retry it when it has ended.")
    is_half_done = job.status == "failed" and job.n_chunks_done < job.n_chunks
    if not (job.failed or is_half_done):
        raise JobConflict(f"No picture of job {job.id} failed.")
