"""`twinlens jobs`: what the service works on, and what became of it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from twinlens.cli.output import say, show
from twinlens.cli.show.tables import Column, print_table
from twinlens.cli.upload.tracking import watch
from twinlens.client.client import Client

if TYPE_CHECKING:
    from collections.abc import Sequence

    from twinlens.shared.answers import JobAnswer, Progress, WebhookAnswer
    from twinlens.shared.messages import Item

ID_CHARS = 32


def show_jobs(url: str, limit: int) -> None:
    """Lists the newest jobs."""
    with Client(url) as client:
        jobs = client.jobs(limit)
    columns = (
        Column("id", ID_CHARS),
        "kind",
        "status",
        Column("done", leave_out=1),
        Column("failed", leave_out=2),
        Column("created", leave_out=4),
        Column("library", leave_out=3),
    )
    show({"items": jobs}, lambda: print_table(columns, [_job_row(job) for job in jobs]))


def show_job(url: str, job_id: str, limit: int, *, is_watched: bool = False) -> None:
    """Shows a job, and its first failed pictures.

    Args:
        url: The service.
        job_id: Which job.
        limit: How many failed pictures are shown.
        is_watched: Whether to wait until it has ended, with a bar meanwhile.
    """
    with Client(url) as client:
        job = client.job(job_id)
        if is_watched:
            job = watch(client, job)
        failed = client.failed_items(job.id, limit) if job.progress.failed else []
    shown = {**job.model_dump(mode="json"), "failed_items": failed}
    show(shown, lambda: _print_job(job, failed))


def cancel_job(url: str, job_id: str) -> None:
    """Cancels a job, and shows it as it is then."""
    with Client(url) as client:
        show_ended(client.cancel(job_id))


def retry_job(url: str, job_id: str, *, is_watched: bool) -> None:
    """Queues a job's failed pictures again, and shows the job that has them now."""
    with Client(url) as client:
        job = client.retry(job_id)
        if is_watched:
            job = watch(client, job)
    show_ended(job)


def show_ended(job: JobAnswer) -> None:
    """Shows what became of a job, without its pictures."""
    show(job, lambda: _print_job(job, []))


def _print_job(job: JobAnswer, failed: Sequence[Item]) -> None:
    for name, value in _facts(job):
        say(f"{name:<9} {value}")
    for item in failed:
        say(f"  {item.name}: {item.error.detail if item.error else 'no reason is known'}")


def _job_row(job: JobAnswer) -> tuple[str, ...]:
    seen = job.progress
    return (
        job.id,
        job.kind,
        job.status,
        f"{_n_taken(seen)} of {_total(seen)}",
        str(seen.failed),
        f"{job.created_at:%Y-%m-%d %H:%M:%S}Z",
        job.library,
    )


def _n_taken(seen: Progress) -> int:
    return seen.succeeded + seen.updated + seen.skipped


def _total(seen: Progress) -> str:
    return f"{seen.received}+" if seen.total is None else str(seen.total)


def _facts(job: JobAnswer) -> list[tuple[str, str]]:
    seen = job.progress
    passed_over = f", {seen.passed_over} other files passed over" if seen.passed_over else ""
    facts = [
        ("job", job.id),
        ("kind", job.kind),
        ("library", job.library),
        ("status", job.status),
        ("pictures", f"{_n_taken(seen)} of {_total(seen)}, {seen.failed} failed{passed_over}"),
    ]
    if seen.pictures_per_s is not None:
        facts.append(("rate", f"{seen.pictures_per_s:.1f} pictures/s"))
    if seen.eta is not None:
        facts.append(("ready", f"about {seen.eta:%Y-%m-%d %H:%M:%S}Z"))
    if job.finished_at and job.started_at:
        took = job.finished_at - job.started_at
        facts.append(("took", f"{took.total_seconds():.1f} s"))
    if job.error:
        facts.append(("error", job.error.detail))
    if job.deadline_at and not job.finished_at:
        facts.append(("deadline", f"{job.deadline_at:%Y-%m-%d %H:%M:%S}Z"))
    if job.webhook:
        facts.append(("webhook", _told(job.webhook)))
    return facts


def _told(webhook: WebhookAnswer) -> str:
    said = f"{webhook.status} {webhook.url}"
    if webhook.next_attempt_at:
        said += f", next about {webhook.next_attempt_at:%Y-%m-%d %H:%M:%S}Z"
    return said if webhook.last_error is None else f"{said}: {webhook.last_error}"
