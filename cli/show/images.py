"""What `twinlens images …` does: lists, shows and deletes the images of a library."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from twinlens.cli.errors import CommandFailed
from twinlens.cli.output import confirm, say, show
from twinlens.cli.show.jobs import show_ended
from twinlens.cli.show.tables import Column, print_table
from twinlens.cli.upload.tracking import watch
from twinlens.cli.words import counted
from twinlens.client.errors import NotThere
from twinlens.shared.answers import Deletion, ImageCount, ImagePage
from twinlens.shared.messages import MAX_PAGE

if TYPE_CHECKING:
    from collections.abc import Sequence

    from twinlens.client.client import Client
    from twinlens.shared.messages import Image

# Beside names that can be read, in 60 columns.
HALF_ID_CHARS, NAME_CHARS = 32, 20
# Names that are shown where the user is asked.
MAX_NAMES = 8


def list_images(
    client: Client,
    library: str,
    limit: int,
    cursor: str | None,
    where: str | None,
    sort: str | None,
) -> None:
    """Lists images of a library: a page, filled up where a filter is true of few of them."""
    page = client.images(library, limit, cursor, where, sort)
    while where is not None and page.next_cursor and len(page.items) < limit:
        n_left = limit - len(page.items)
        more = client.images(library, n_left, page.next_cursor, where, sort)
        page = ImagePage(items=[*page.items, *more.items], next_cursor=more.next_cursor)
    show(page, lambda: _print_page(page))


def count_images(client: Client, library: str, where: str | None) -> None:
    """Tells how many images a library has, or of how many a filter is true."""
    counted_as = ImageCount(count=client.count_images(library, where))
    show(counted_as, lambda: say(str(counted_as.count)))


def show_image(client: Client, image_id: str, library: str) -> None:
    """Shows what is known of an image."""
    image = client.image(image_id, library)
    show(image, lambda: _print_image(image))


def delete_images(client: Client, ids: Sequence[str], library: str, *, is_asked: bool) -> None:
    """Deletes images, waits until the jobs have ended, and tells what is really gone.

    Args:
        client: The service.
        ids: Which images; those that are not there are told.
        library: Where they are.
        is_asked: Whether the user is asked first.

    Raises:
        RequestFailed: There is no such library.
        Abort: The user says no.
        Exit: One was not there, or is still there.
    """
    client.library(library)
    images = {one: _find(client, one, library) for one in dict.fromkeys(ids)}
    names = [image.name for image in images.values() if image is not None]
    if names and is_asked:
        first, n_more = ", ".join(names[:MAX_NAMES]), len(names[MAX_NAMES:])
        more = f" and {n_more} more" if n_more else ""
        confirm(f"Delete {first}{more} of library {library} at {client.url}?")
    jobs = [client.remove_image(one, library) for one, image in images.items() if image is not None]
    for job in jobs:
        client.wait(job)
    outcomes = [
        {"id": one, "name": image.name if image else None, "outcome": _outcome(client, one, image)}
        for one, image in images.items()
    ]
    show({"items": outcomes}, lambda: _print_outcomes(outcomes))
    if any(one["outcome"] != "deleted" for one in outcomes):
        raise click.exceptions.Exit(1)


def delete_matching(
    client: Client, library: str, where: str, *, is_all: bool, is_asked: bool
) -> None:
    """Deletes the images that a filter is true of, and waits until they are gone.

    Args:
        client: The service.
        library: Where they are.
        where: The filter.
        is_all: Whether there may be more than 1,000.
        is_asked: Whether the user is asked first.

    Raises:
        RequestFailed: There is no such library, or the filter cannot be read.
        CommandFailed: There are more.
        Abort: The user says no.
        Exit: Some are still there.
    """
    n_images = client.count_images(library, where)
    if n_images > MAX_PAGE and not is_all:
        raise CommandFailed(f"the filter is true of {n_images:,} images; --all deletes them all")
    if is_asked:
        confirm(f"Delete {counted(n_images, 'image')} of library {library} at {client.url}?")
    job = watch(client, client.remove_images(library, Deletion(filter=where, all=is_all)))
    show_ended(job)
    if job.status != "succeeded" or job.progress.failed:
        raise click.exceptions.Exit(1)


def _find(client: Client, image_id: str, library: str) -> Image | None:
    try:
        return client.image(image_id, library)
    except NotThere:
        return None


def _outcome(client: Client, image_id: str, before: Image | None) -> str:
    if before is None:
        return "not there"
    return "still there" if _find(client, image_id, before.library) else "deleted"


def _print_page(page: ImagePage) -> None:
    columns = (
        Column("id", HALF_ID_CHARS),
        Column("name", NAME_CHARS),
        Column("size", leave_out=1),
        Column("added", leave_out=2),
    )
    rows = [
        (one.id, one.name, f"{one.width} x {one.height}", f"{one.added_at:%Y-%m-%d %H:%M:%S}Z")
        for one in page.items
    ]
    print_table(columns, rows)
    if page.next_cursor:
        say(f"there are more: --cursor {page.next_cursor}", is_error=True)


def _print_image(image: Image) -> None:
    facts = {
        "id": image.id,
        "name": image.name,
        "library": image.library,
        "size": f"{image.width} x {image.height}, {image.format}, {counted(image.bytes, 'byte')}",
        "models": ", ".join(image.models),
        "added": f"{image.added_at:%Y-%m-%d %H:%M:%S}Z",
    }
    for name, value in facts.items():
        say(f"{name:<8} {value}")
    for name, meant in image.metadata.items():
        say(f"  {name}: {', '.join(meant) if isinstance(meant, list) else meant}")


def _print_outcomes(outcomes: Sequence[dict[str, str | None]]) -> None:
    for one in outcomes:
        name = f" ({one['name']})" if one["name"] else ""
        say(f"{one['outcome']}: {one['id']}{name}")
