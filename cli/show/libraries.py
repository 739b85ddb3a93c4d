"""What `twinlens libraries …` does: lists, changes and removes the libraries of a service."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from twinlens.cli.errors import CommandFailed
from twinlens.cli.output import confirm, say, show
from twinlens.cli.show.tables import MIN_NAME_CHARS, Column, named, print_table
from twinlens.cli.upload.tracking import Totals, follow
from twinlens.cli.words import name_missing
from twinlens.shared.libraries import Index, Library

if TYPE_CHECKING:
    from collections.abc import Sequence

    from twinlens.client.client import Client
    from twinlens.shared.answers import JobAnswer, LibraryPlan, Stats


def show_libraries(client: Client) -> None:
    """Lists the libraries, and the changes that are under way."""
    stats, libraries = client.stats(), client.libraries()
    items = [one.model_dump(mode="json") | {"images": _n_images(stats, one)} for one in libraries]
    show({"items": items}, lambda: _print_libraries(stats, libraries))
    for line in name_missing({one.name: one.missing_models for one in libraries}):
        say(line, is_error=True)


def change_library(
    client: Client, name: str, plan: LibraryPlan, *, is_followed: bool = True
) -> Library | JobAnswer:
    """Creates or changes a library, and waits until the plan holds.

    Args:
        client: The service.
        name: The library's.
        plan: What it is to be.
        is_followed: Whether to wait.

    Returns:
        The library; or the job that is not waited for, if there is one.

    Raises:
        CommandFailed: The service refuses the plan, or is not there.
        Exit: The library stays as it was.
        KeyboardInterrupt: The user interrupted; its notes say what goes on.
    """
    made = client.put_library(name, plan)
    if isinstance(made, Library) or not is_followed:
        return made
    _follow(client, made)
    return client.library(name)


def show_plan(client: Client, made: Library | JobAnswer) -> None:
    """Shows what a library has now, or the id of the job that changes it."""
    if isinstance(made, Library):
        show(made, lambda: say(told_models(client, made)))
    else:
        show(made, lambda: say(made.id))


def roll_back(client: Client, name: str) -> None:
    """Makes a library what it was before.

    Raises:
        CommandFailed: There is nothing to go back to, or no such library.
    """
    show_plan(client, client.roll_back(name))


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
        confirm(f"Remove {name} at {client.url} with its {n_images} images?")
    job = client.wait(client.remove_library(name))
    if job.status != "succeeded":
        reason = job.error.detail if job.error else "no reason is known"
        raise CommandFailed(f"the removal of {name} {job.status}: {reason}")
    show(job, lambda: say(f"removed {name}"))


def _follow(client: Client, job: JobAnswer) -> None:
    totals = Totals()
    try:
        follow(client, job, totals)
    except KeyboardInterrupt as error:
        error.add_note(f"`twinlens libraries rollback {job.library}` cancels the change")
        raise
    if totals.failures:
        say(f"library {job.library} stays as it was", is_error=True)
        for line in totals.failures:
            say(f"  {line}", is_error=True)
        raise click.exceptions.Exit(1)


def told_models(client: Client, library: Library) -> str:
    """Says which models a library has."""
    return f"library {library.name} at {client.url} now has {', '.join(library.models)}"


def _print_libraries(stats: Stats, libraries: Sequence[Library]) -> None:
    columns = (
        named("library"),
        "images",
        named("models"),
        Column("metric", leave_out=2),
        Column("index", leave_out=3),
        Column("being built", MIN_NAME_CHARS, leave_out=1),
    )
    rows = [
        (
            library.name,
            str(_n_images(stats, library)),
            ", ".join(library.models),
            library.metric or "of the models",
            _index_text(library.index),
            _next_text(library),
        )
        for library in libraries
    ]
    print_table(columns, rows)


def _n_images(stats: Stats, library: Library) -> int:
    # One that was made a moment ago is not counted.
    counted = stats.libraries.get(library.name)
    return counted.images if counted else 0


def _index_text(index: Index) -> str:
    params = (f"{name}={value:g}" for name, value in index.params.items())
    return " ".join((index.type, *params, index.vector))


def _next_text(library: Library) -> str:
    if library.next is None:
        return ""
    return f"{', '.join(library.next.models)}, by job {library.next.job_id}"
