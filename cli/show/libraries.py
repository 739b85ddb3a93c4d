"""What `twinlens libraries …` does: lists, changes and removes the libraries of a service."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from twinlens.cli.errors import CommandFailed
from twinlens.cli.show.tables import print_table
from twinlens.cli.upload.index import INTERRUPTED
from twinlens.cli.upload.tracking import Totals, follow
from twinlens.shared.libraries import Index, Library

if TYPE_CHECKING:
    from twinlens.client.client import Client
    from twinlens.shared.answers import JobAnswer, LibraryPlan, Stats


def show_libraries(client: Client) -> None:
    """Lists the libraries, and the changes that are under way."""
    stats = client.stats()
    rows = [
        (
            library.name,
            _n_images(stats, library),
            ", ".join(library.models),
            library.metric or "of the models",
            _index_text(library.index),
            _next_text(library),
        )
        for library in client.libraries()
    ]
    print_table(("library", "images", "models", "metric", "index", "being built"), rows)


def change_library(
    client: Client, name: str, plan: LibraryPlan, *, is_followed: bool = True
) -> None:
    """Creates or changes a library, and waits until the plan holds.

    Args:
        client: The service.
        name: The library's.
        plan: What it is to be.
        is_followed: Whether to wait; else the id of the job is printed, if there is one.

    Raises:
        CommandFailed: The service refuses the plan, or is not there.
        Exit: The library stays as it was, or the user interrupted.
    """
    made = client.put_library(name, plan)
    if not isinstance(made, Library):
        if not is_followed:
            click.echo(made.id)
            return
        _follow(client, made)
        made = client.library(name)
    _print_models(client, made)


def roll_back(client: Client, name: str) -> None:
    """Makes a library what it was before.

    Raises:
        CommandFailed: There is nothing to go back to, or no such library.
    """
    _print_models(client, client.roll_back(name))


def remove_library(client: Client, name: str, *, is_asked: bool) -> None:
    """Removes a library, and waits until its pictures are gone.

    Args:
        client: The service.
        name: The library's.
        is_asked: Whether the user is asked first.

    Raises:
        CommandFailed: There is none, or it stays.
        Abort: The user says no.
    """
    if is_asked:
        n_images = _n_images(client.stats(), client.library(name))
        click.confirm(f"Remove {name} at {client.url} with its {n_images} images?", abort=True)
    job = client.wait(client.remove_library(name))
    if job.status != "succeeded":
        reason = job.error.detail if job.error else "no reason is known"
        raise CommandFailed(f"the removal of {name} {job.status}: {reason}")
    click.echo(f"removed {name}")


def _follow(client: Client, job: JobAnswer) -> None:
    totals = Totals()
    try:
        follow(client, job, totals)
    except KeyboardInterrupt:
        click.echo(
            f"interrupted; job {job.id} goes on. See it with `twinlens jobs {job.id}`, or cancel"
            f" it with `twinlens libraries rollback {job.library}`.",
            err=True,
        )
        raise click.exceptions.Exit(INTERRUPTED) from None
    if totals.failures:
        click.echo(f"library {job.library} stays as it was", err=True)
        for line in totals.failures:
            click.echo(f"  {line}", err=True)
        raise click.exceptions.Exit(1)


def _print_models(client: Client, library: Library) -> None:
    click.echo(f"library {library.name} at {client.url} now has {', '.join(library.models)}")


def _n_images(stats: Stats, library: Library) -> str:
    # One that was made a moment ago is not counted.
    counted = stats.libraries.get(library.name)
    return str(counted.images) if counted else "0"


def _index_text(index: Index) -> str:
    params = (f"{name}={value:g}" for name, value in index.params.items())
    return " ".join((index.type, *params, index.vector))


def _next_text(library: Library) -> str:
    if library.next is None:
        return ""
    return f"{', '.join(library.next.models)}, by job {library.next.job_id}"
