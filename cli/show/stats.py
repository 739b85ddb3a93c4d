"""`twinlens stats`: the workers, their speed, what is waiting, and how many workers it takes."""

from __future__ import annotations

from typing import TYPE_CHECKING

from twinlens.cli.output import say, show
from twinlens.cli.show.tables import Column, named, print_table
from twinlens.client.client import Client
from twinlens.shared.messages import OK

if TYPE_CHECKING:
    from twinlens.shared.answers import Stats
    from twinlens.shared.messages import WorkerStatus


def show_stats(url: str) -> None:
    """Prints the workers, the backlog and the libraries."""
    with Client(url) as client:
        stats = client.stats()
    show(stats, lambda: _print_stats(stats))


def _print_stats(stats: Stats) -> None:
    columns = (
        named("worker"),
        Column("lanes", leave_out=3),
        Column("pictures", leave_out=2),
        "pictures/s",
        Column("tasks/s", leave_out=4),
        Column("state", leave_out=1),
    )
    print_table(columns, [_worker_row(worker) for worker in stats.workers])
    say()
    libraries = [(name, str(one.images)) for name, one in stats.libraries.items()]
    print_table((named("library"), "images"), libraries)
    for line in _backlog_lines(stats):
        say(line)


def _worker_row(worker: WorkerStatus) -> tuple[str, ...]:
    return (
        worker.name,
        ", ".join(worker.lanes),
        str(worker.n_pictures),
        f"{worker.pictures_per_s:.1f}",
        f"{worker.tasks_per_s:.1f}",
        worker.fault or OK,
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
    if stats.rescues:
        rescued = ", ".join(f"{n} of {kind}" for kind, n in stats.rescues.items())
        lines.append(f"brought back after it was lost: {rescued}")
    told = ", ".join(f"{n} {name}" for name, n in stats.webhooks if n)
    return [*lines, f"webhooks: {told}"] if told else lines
