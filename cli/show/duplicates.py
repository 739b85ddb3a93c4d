"""`twinlens duplicates` and `twinlens compare`: pictures of a library, or two, side by side."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from twinlens.cli.errors import CommandFailed
from twinlens.cli.files import read_file
from twinlens.cli.output import say, show
from twinlens.cli.parameters import read_as
from twinlens.cli.show.tables import named, print_table
from twinlens.client.client import Client
from twinlens.shared.queries import CompareQuery

if TYPE_CHECKING:
    from collections.abc import Sequence

    from twinlens.shared.queries import Comparison, Duplicates, DuplicatesQuery

# Names of one group's duplicates that are shown.
MAX_NAMES = 8


def run_duplicates(query: DuplicatesQuery, url: str, limit: int, save: Path | None) -> None:
    """Finds a library's near-duplicates, and shows the largest groups.

    Args:
        query: What is asked.
        url: The service.
        limit: How many groups are shown.
        save: Where the whole answer goes, if anywhere.

    Raises:
        CommandFailed: The service cannot look for them, or the file cannot be written.
    """
    with Client(url) as client:
        duplicates = client.find_duplicates(query)
        show(duplicates, lambda: _print_groups(client, duplicates, query.library, limit))
    if save is not None:
        try:
            save.write_text(duplicates.model_dump_json(indent=2), encoding="utf-8")
        except OSError as error:
            raise CommandFailed(f"cannot write {save}: {error.strerror}") from error
        say(f"saved {save}")


def run_compare(
    pair: Sequence[Path | str], url: str, library: str, models: list[str] | None
) -> None:
    """Shows how near two pictures are under each model, and under all together.

    Args:
        pair: Files, or ids of stored images.
        url: The service.
        library: Whose models are asked, and whose images they are.
        models: Which of them; None for all.

    Raises:
        CommandFailed: A file cannot be read, or the service refuses it, or is not there.
    """
    pictures = [read_file(one) for one in pair if isinstance(one, Path)]
    ids = [one for one in pair if isinstance(one, str)]
    query = read_as(CompareQuery, library=library, models=models, image_ids=ids)
    with Client(url) as client:
        compared = client.compare(query, pictures)
    show(compared, lambda: _print_compared(compared))


def _print_compared(compared: Comparison) -> None:
    rows = [
        (name, f"{one.distance:.3f}", f"{one.score:.3f}") for name, one in compared.models.items()
    ]
    rows.append(("combined", "", f"{compared.score:.3f}"))
    print_table((named("model"), "distance", "score"), rows)


def _print_groups(client: Client, duplicates: Duplicates, library: str, limit: int) -> None:
    rows = [
        (str(place), *_names(client, group, library, duplicates))
        for place, group in enumerate(duplicates.groups[:limit], start=1)
    ]
    if rows:
        print_table(("#", named("picture"), named("duplicates of it")), rows)
    by = f", confirmed by {duplicates.confirmed_by}" if duplicates.confirmed_by else ""
    say(f"{duplicates.n_groups} groups among {duplicates.n_images} pictures{by}")
    if duplicates.n_unverified:
        say(f"{duplicates.n_unverified} pairs, the least alike, were too many to be compared")


def _names(
    client: Client, group: Sequence[str], library: str, duplicates: Duplicates
) -> tuple[str, str]:
    """Returns the name of the first, and those of the others, with what they are of it."""
    first, *others = group[: MAX_NAMES + 1]
    told = [_told(client.image(one, library).name, duplicates.kinds.get(one, [])) for one in others]
    n_more = len(group) - 1 - len(others)
    more = f" and {n_more} more" if n_more else ""
    return client.image(first, library).name, ", ".join(told) + more


def _told(name: str, kinds: Sequence[str]) -> str:
    return f"{name} ({', '.join(kinds)})" if kinds else name
