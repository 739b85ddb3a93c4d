"""What is told of a job: by the API to who asks, and by a worker to who wants to know its end."""

from __future__ import annotations

from datetime import timedelta
from typing import TYPE_CHECKING

from twinlens.shared.answers import JobAnswer, Progress, WebhookAnswer

if TYPE_CHECKING:
    from twinlens.shared.answers import Reconciliation
    from twinlens.shared.messages import Image, Moment
    from twinlens.shared.queries import Duplicates, SearchResult
    from twinlens.shared.redis.jobs import Job

_COPIED = {
    "id",
    "kind",
    "library",
    "status",
    "created_at",
    "started_at",
    "finished_at",
    "expires_at",
    "deadline_at",
}


def answer_of(
    job: Job, result: SearchResult | Duplicates | Reconciliation | Image | None = None
) -> JobAnswer:
    """Returns a job as clients see it, with its result if that is given."""
    return JobAnswer(
        **job.model_dump(include=_COPIED),
        progress=progress_of(job),
        result=result,
        error=job.error,
        webhook=_webhook_of(job),
        links=job_links(job.id) | _retry_link(job),
    )


def progress_of(job: Job) -> Progress:
    """Returns a job's progress. A job that is not counted in pictures counts as one."""
    if not job.has_manifests:
        return Progress(
            total=1,
            received=1,
            succeeded=int(job.status == "succeeded"),
            skipped=0,
            failed=int(job.status == "failed"),
        )
    rate = job.pictures_per_s
    return Progress(
        compared=job.compared,
        total=job.total,
        received=job.received,
        succeeded=job.succeeded,
        updated=job.updated,
        skipped=job.skipped,
        failed=job.failed,
        passed_over=job.passed_over,
        pictures_per_s=rate and round(rate, 2),
        eta=_eta_of(job, rate),
    )


def _eta_of(job: Job, rate: float | None) -> Moment | None:
    """Uses only what the record says: an entity tag stands for one answer."""
    if job.total is None or job.counted_at is None or job.has_ended or not rate:
        return None
    return job.counted_at + timedelta(seconds=(job.total - job.n_counted) / rate)


def job_links(job_id: str) -> dict[str, str]:
    """Returns where a job and its outcomes are."""
    path = f"/v1/jobs/{job_id}"
    return {"self": path, "items": f"{path}/items", "events": f"{path}/events"}


def _retry_link(job: Job) -> dict[str, str]:
    return {"retry_of": job_links(job.retry_of)["self"]} if job.retry_of else {}


def _webhook_of(job: Job) -> WebhookAnswer | None:
    if job.webhook is None or job.webhook_status is None:
        return None
    return WebhookAnswer(
        url=job.webhook,
        status=job.webhook_status,
        attempts=job.n_webhook_tries,
        last_error=job.webhook_error,
        next_attempt_at=job.webhook_at,
    )
