"""Tables in the terminal: jobs, one job, models."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click
from rich.box import SIMPLE
from rich.console import Console
from rich.table import Table
from rich.text import Text

from twinlens.client.client import Client

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Sequence

    from twinlens.shared.answers import JobAnswer, Progress

# Narrower, a name cannot be read.
MIN_FOLDED_CHARS = 12


def print_table(
    columns: Sequence[str],
    rows: Iterable[Sequence[str]],
    title: str | None = None,
    folded: Collection[str] = (),
) -> None:
    """Prints a table. Nothing is cut off in a narrow terminal, so that ids can be copied.

    Args:
        columns: Their headings.
        rows: A text for each column.
        title: Above the table.
        folded: Columns that go on in the next line where a terminal is narrower than the table,
            as do all headings then.
    """
    cells = [[Text(cell) for cell in row] for row in rows]
    console = Console()
    table = _table(columns, cells, title)
    # As wide as it may be, so that it is measured and not squeezed.
    width = Console(width=10_000).measure(table).maximum
    if width > console.width and folded and console.is_terminal:
        table = _folded_table(columns, cells, title, folded, console.width)
        width = Console(width=10_000).measure(table).maximum
    console.width = max(console.width, width)
    console.print(table)


def _table(
    columns: Sequence[str],
    rows: Sequence[Sequence[Text]],
    title: str | None,
    widths: Sequence[int | None] | None = None,
) -> Table:
    table = Table(title=title, box=SIMPLE, padding=(0, 1) if widths is None else (0, 1, 0, 0))
    for column, width in zip(columns, widths or [None] * len(columns), strict=True):
        table.add_column(column, width=width, no_wrap=width is None, overflow="fold")
    for row in rows:
        table.add_row(*row)
    return table


def _folded_table(
    columns: Sequence[str],
    rows: Sequence[Sequence[Text]],
    title: str | None,
    folded: Collection[str],
    max_width: int,
) -> Table:
    """Gives each column the width of its cells, and shares what is left among the folded ones."""
    of_cells = [
        max((row[place].cell_len for row in rows), default=1) for place in range(len(columns))
    ]
    bare = Console(width=10_000).measure(_table(columns, [], None, [0] * len(columns))).maximum
    left = max_width - bare
    left -= sum(n for name, n in zip(columns, of_cells, strict=True) if name not in folded)
    share = max(MIN_FOLDED_CHARS, left // len(folded))
    widths = [
        min(n, share) if name in folded else n for name, n in zip(columns, of_cells, strict=True)
    ]
    return _table(columns, rows, title, widths)


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
    return facts
