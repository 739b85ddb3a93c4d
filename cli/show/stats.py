"""`twinlens stats`: the workers, their speed, what is waiting, and how many workers it takes."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from twinlens.cli.show.tables import print_table
from twinlens.client.client import Client

if TYPE_CHECKING:
    from twinlens.shared.answers import Stats
    from twinlens.shared.messages import WorkerStatus


def show_stats(url: str) -> None:
    """Prints the workers, the backlog and the libraries."""
    with Client(url) as client:
        stats = client.stats()
    columns = ("worker", "lanes", "pictures", "pictures/s", "tasks/s", "Milvus")
    print_table(columns, [_worker_row(worker) for worker in stats.workers])
    print_table(("library", "images"), [(n, str(o.images)) for n, o in stats.libraries.items()])
    for line in _backlog_lines(stats):
        click.echo(line)


def _worker_row(worker: WorkerStatus) -> tuple[str, ...]:
    return (
        worker.name,
        ", ".join(worker.lanes),
        str(worker.n_pictures),
        f"{worker.pictures_per_s:.1f}",
        f"{worker.tasks_per_s:.1f}",
        worker.milvus,
    )


def _backlog_lines(stats: Stats) -> list[str]:
    waiting = ", ".join(f"{n} in {name}" for name, n in stats.queues.items())
    backlog = stats.backlog
    lines = [
        f"queued tasks: {waiting}",
        f"backlog: {backlog.pictures} pictures, at {backlog.pictures_per_s:.1f} a second",
    ]
    if backlog.process_pictures_per_s:
        lines.append(
            f"one process embeds {backlog.process_pictures_per_s:.1f} a second:"
            f" {backlog.processes_for_an_hour} would empty the backlog in an hour"
        )
    return lines
