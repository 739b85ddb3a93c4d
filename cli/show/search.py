"""`twinlens search`: a table of hits, and a contact sheet."""

from __future__ import annotations

import tempfile
from datetime import timedelta
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING

import click

from twinlens.cli.errors import CommandFailed
from twinlens.cli.files import read_file
from twinlens.cli.output import say, show
from twinlens.cli.parameters import read_as
from twinlens.cli.show.copies import describe_copy
from twinlens.cli.show.sheet import MAX_COLUMNS, Cell, draw_sheet
from twinlens.cli.show.tables import Column, named, print_table
from twinlens.client.client import Client
from twinlens.shared.errors import BadFilter
from twinlens.shared.filters.language import parse_filter
from twinlens.shared.messages import now
from twinlens.shared.queries import SearchQuery

if TYPE_CHECKING:
    from collections.abc import Sequence

    from twinlens.shared.queries import Hit, Rectangle, SearchResult

# Older than the clocks of two machines differ, and than an upload of a picture or two takes.
FRESH_S = 5
MOVED = (
    "scores do not fall from hit to hit: hits that are near each other were moved up, which"
    " --rerank none leaves out"
)
PROVEN = "scores do not fall from hit to hit: proven copies come first"


def read_query(**options: object) -> SearchQuery:
    """Makes a query from options, which have the names of its fields.

    Raises:
        click.UsageError: One is not valid.
    """
    query = read_as(SearchQuery, **options)
    if query.filter is not None:
        try:
            parse_filter(query.filter)
        except BadFilter as error:
            raise click.UsageError(f"filter: {error.detail}") from None
    return query


def run_search(
    files: Sequence[Path],
    unlike: Sequence[Path],
    query: SearchQuery,
    url: str,
    save: Path | None,
    *,
    is_opened: bool,
) -> None:
    """Searches with pictures, words or both, and shows what was found.

    Args:
        files: Pictures of what to find, beside stored ones that the query names.
        unlike: Pictures of what to avoid, likewise.
        query: What is asked.
        url: The service.
        save: Where a contact sheet goes, if anywhere. It shows the first picture as the query.
        is_opened: Whether the contact sheet is opened as well.

    Raises:
        CommandFailed: A picture cannot be read, or the service refuses one or the query, or is not
            there.
    """
    pictures, avoided = [read_file(file) for file in files], [read_file(file) for file in unlike]
    with Client(url) as client:
        result = client.search(query, pictures, avoided)
        show(result, lambda: print_result(result))
        if save is None and is_opened:
            save = Path(tempfile.mkdtemp(prefix="twinlens-")) / "found.png"
        if save is not None:
            save_sheet(client, result, _first(client, pictures, query), query.library, save)
            say(f"saved {save}")
    if is_opened:
        click.launch(str(save))


def print_result(result: SearchResult) -> None:
    """Prints the fused hits, with each model's distance and rank, and where the time went."""
    if not result.library_images:
        say("the library is empty: add pictures with `twinlens index`")
        return
    models = list(result.by_model)
    are_verified = any(hit.evidence for hit in result.hits)
    rows = []
    for hit in result.hits:
        seen = [hit.models.get(name) for name in models]
        distances = [f"{one.distance:.3f} ({one.rank})" if one else "" for one in seen]
        copies = [describe_copy(hit.evidence)] if are_verified else []
        rows.append((str(hit.rank), f"{hit.score:.3f}", hit.image.name, *copies, *distances))
    of_models = (
        Column(f"{name} (rank)", leave_out=place) for place, name in enumerate(models, start=1)
    )
    of_copies = (named("copy"),) if are_verified else ()
    print_table(("#", "score", named("picture"), *of_copies, *of_models), rows)
    if any(hit.score < later.score for hit, later in pairwise(result.hits)):
        say(PROVEN if are_verified else MOVED)
    if any("words" in parts for parts in result.asked_with.values()):
        say(asked_line(result))
    say(agreement_line(result))
    timing = result.timing_ms
    verified = f", verify {timing.verify:.1f}" if timing.verify else ""
    say(
        f"{timing.total:.0f} ms: queued {timing.queued:.1f}, decode {timing.decode:.1f},"
        f" embed {timing.embed:.1f}, search {timing.search:.1f}, fuse {timing.fuse:.1f},"
        f" re-rank {timing.rerank:.1f}{verified}"
    )
    if now() - result.indexed_through > timedelta(seconds=FRESH_S):
        say(
            f"uploads are under way: what came after {result.indexed_through:%Y-%m-%d %H:%M:%S}Z"
            " may not be found yet"
        )


def _first(client: Client, pictures: Sequence[bytes], query: SearchQuery) -> bytes | None:
    """The first example, if there is a picture among them."""
    if pictures:
        return pictures[0]
    ids = query.example_ids
    return client.thumbnail(ids[0], query.library) if ids else None


def asked_line(result: SearchResult) -> str:
    """Says which models were asked with words, and which with the pictures alone."""
    models: dict[str, list[str]] = {}
    for name, parts in result.asked_with.items():
        models.setdefault(" and ".join(parts), []).append(name)
    return "; ".join(f"asked with {parts}: {', '.join(named)}" for parts, named in models.items())


def agreement_line(result: SearchResult) -> str:
    """Says in words how far the models agree."""
    agreed = result.agreement
    if agreed.overlap_at_k is None:
        if len(result.by_model) == 1:
            return "one model was asked"
        return "no two models that count have rankings to compare"
    line = f"the models' own rankings share {agreed.overlap_at_k:.0%} of their pictures"
    if agreed.rank_correlation is not None:
        line += f"; rank correlation {agreed.rank_correlation:.2f}"
    return line


def save_sheet(
    client: Client, result: SearchResult, picture: bytes | None, library: str, path: Path
) -> None:
    """Draws the query, the fused hits and each model's own, and writes it as PNG.

    Raises:
        CommandFailed: The file cannot be written.
    """
    names = {hit.image.id: hit.image.name for hit in result.hits}
    thumbnails: dict[str, bytes] = {}

    def cell(image_id: str, caption: str, part: Rectangle | None = None) -> Cell:
        if image_id not in thumbnails:
            thumbnails[image_id] = client.thumbnail(image_id, library)
        if image_id not in names:
            names[image_id] = client.image(image_id, library).name
        return Cell(thumbnails[image_id], names[image_id], caption, part)

    rows = {
        "fused": [
            cell(hit.image.id, f"{hit.rank}. {_caption_of(hit)}", _part_of(hit))
            for hit in result.hits[:MAX_COLUMNS]
        ]
    }
    for model, ranking in result.by_model.items():
        rows[model] = [
            cell(one.image_id, f"{one.rank}. distance {one.distance:.3f}")
            for one in ranking[:MAX_COLUMNS]
        ]
    try:
        draw_sheet(picture, agreement_line(result), rows).save(path, "PNG", optimize=True)
    except OSError as error:
        raise CommandFailed(f"cannot write {path}: {error.strerror}") from error


def _caption_of(hit: Hit) -> str:
    if hit.evidence is not None and hit.evidence.verified:
        return describe_copy(hit.evidence)
    return f"score {hit.score:.3f}"


def _part_of(hit: Hit) -> Rectangle | None:
    """Returns the part of a copy that the query shows."""
    return None if hit.evidence is None else hit.evidence.region
