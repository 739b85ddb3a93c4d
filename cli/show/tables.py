"""Tables in the terminal: jobs, one job, models."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click
from rich.box import SIMPLE
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from twinlens.client.client import Client

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from twinlens.shared.answers import JobAnswer, Progress


def print_table(
    columns: Sequence[str], rows: Iterable[Sequence[str]], title: str | None = None
) -> None:
    """Prints a table. Nothing is cut off in a narrow terminal, so that ids can be copied."""
    table = Table(title=title, box=SIMPLE)
    for column in columns:
        table.add_column(column, no_wrap=True)
    for row in rows:
        table.add_row(*map(escape, row))
    # As wide as it may be, so that it is measured and not squeezed.
    width = Console(width=10_000).measure(table).maximum
    console = Console()
    console.width = max(console.width, width)
    console.print(table)


def show_jobs(url: str, limit: int) -> None:
    """Lists the newest jobs."""
    with Client(url) as client:
        jobs = client.jobs(limit)
    columns = ("id", "kind", "status", "done", "failed", "created", "library")
    print_table(columns, [_job_row(job) for job in jobs])


def show_job(url: str, job_id: str, limit: int) -> None:
    """Shows a job, and its first failed pictures."""
    with Client(url) as client:
        job = client.job(job_id)
        failed = client.failed_items(job.id, limit) if job.progress.failed else []
    for name, value in _facts(job):
        click.echo(f"{name:<9} {value}")
    for item in failed:
        click.echo(f"  {item.name}: {item.error.detail if item.error else 'no reason is known'}")


def show_served_models(url: str) -> None:
    """Lists the models that are served."""
    with Client(url) as client:
        models = client.models()
    columns = ("model", "version", "dimension", "metric", "weight", "licence", "title")
    rows = [
        (
            model.name,
            model.version,
            str(model.dimension),
            model.metric,
            f"{model.weight:g}",
            model.licence,
            model.title,
        )
        for model in models
    ]
    print_table(columns, rows)


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
    facts = [
        ("job", job.id),
        ("kind", job.kind),
        ("library", job.library),
        ("status", job.status),
        ("pictures", f"{_n_taken(seen)} of {_total(seen)}, {seen.failed} failed"),
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
    return facts
