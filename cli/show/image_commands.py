"""`twinlens images …`: the options. The work is done in `images.py`, imported when used."""

# ruff: noqa: PLC0415 (imports wait until they are used, so that --help takes 60 ms)
from __future__ import annotations

import click

from twinlens.cli.output import json_option
from twinlens.cli.parameters import ImageIdParameter, library_option, url_option

filter_option = click.option(
    "--filter", "where", metavar="FILTER", help='Only images that it is true of: city == "Paris".'
)


@click.group()
def images() -> None:
    """List, count, show and delete the images of a library."""


@images.command("list")
@click.option(
    "--limit",
    default=20,
    show_default=True,
    type=click.IntRange(1, 1000),
    help="Number of images to list.",
)
@click.option("--cursor", help="Where to go on: what the page before named.")
@filter_option
@click.option(
    "--sort",
    type=click.Choice(["-added_at", "added_at"]),
    help="The newest first, or the oldest.  [default: -added_at]",
)
@json_option
@url_option
@library_option
def list_(
    limit: int, cursor: str | None, where: str | None, sort: str | None, url: str, library: str
) -> None:
    """List a library's images, newest first."""
    from twinlens.cli.show.images import list_images
    from twinlens.client.client import Client

    with Client(url) as client:
        list_images(client, library, limit, cursor, where, sort)


@images.command()
@filter_option
@json_option
@url_option
@library_option
def count(where: str | None, url: str, library: str) -> None:
    """Count a library's images."""
    from twinlens.cli.show.images import count_images
    from twinlens.client.client import Client

    with Client(url) as client:
        count_images(client, library, where)


@images.command()
@click.argument("image_id", type=ImageIdParameter(), metavar="ID")
@json_option
@url_option
@library_option
def show(image_id: str, url: str, library: str) -> None:
    """Show what is known of an image."""
    from twinlens.cli.show.images import show_image
    from twinlens.client.client import Client

    with Client(url) as client:
        show_image(client, image_id, library)


@images.command()
@click.argument("ids", nargs=-1, type=ImageIdParameter(), metavar="[ID]…")
@filter_option
@click.option("--all", "is_all", is_flag=True, help="Also if the filter takes more than 1,000.")
@click.option("--yes", is_flag=True, help="Do not ask for confirmation.")
@json_option
@url_option
@library_option
def delete(
    ids: tuple[str, ...], where: str | None, is_all: bool, yes: bool, url: str, library: str
) -> None:
    """Delete images, by id or by a filter, and wait until they are gone."""
    from twinlens.cli.show.images import delete_images, delete_matching
    from twinlens.client.client import Client

    if bool(ids) == (where is not None):
        raise click.UsageError("give either ID or --filter")
    with Client(url) as client:
        if where is None:
            delete_images(client, ids, library, is_asked=not yes)
        else:
            delete_matching(client, library, where, is_all=is_all, is_asked=not yes)
