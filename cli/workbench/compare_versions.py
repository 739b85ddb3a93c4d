"""`twinlens models compare`: where two models disagree, before a library changes its own."""

from __future__ import annotations

from typing import TYPE_CHECKING

from twinlens.cli.errors import CommandFailed
from twinlens.cli.output import say, show
from twinlens.cli.show.sheet import Cell, draw_sheet
from twinlens.cli.show.tables import MIN_NAME_CHARS, Column, named, print_table
from twinlens.cli.upload.files import find_pictures
from twinlens.cli.words import counted
from twinlens.cli.workbench.evaluate import embed_with_progress, show_progress
from twinlens.models.pictures import thumbnail
from twinlens.models.workbench.rankings import compare_neighbours
from twinlens.shared.names import printable

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

    from twinlens.models.registry import Registry
    from twinlens.models.workbench.rankings import ComparedModels, ComparedRankings

# What the sheet has of each model, beside the picture itself.
N_DRAWN = 3


def run_compare_versions(
    registry: Registry,
    refs: tuple[str, str],
    photos: Sequence[Path],
    cache: Path,
    save: Path | None,
) -> None:
    """Compares what two models find near each photo, and names those that they disagree on most.

    Args:
        registry: The models.
        refs: The two.
        photos: Files and folders.
        cache: Keeps embeddings.
        save: Where they are drawn.

    Raises:
        CommandFailed: There are no photos, or the drawing cannot be written.
    """
    embedders = [registry.open(ref) for ref in refs]
    embedded = embed_with_progress(embedders, find_pictures(*photos), cache)
    with show_progress("neighbours", len(embedded.files)) as on_progress:
        compared = compare_neighbours(embedded, on_progress)
    show(compared, lambda: _print(compared))
    if save is not None:
        _draw(compared, save)


def _print(compared: ComparedModels) -> None:
    columns = (
        named("picture"),
        Column("same"),
        *(Column(f"first by {model}", MIN_NAME_CHARS) for model in compared.models),
    )
    rows = [
        (
            one.query.name,
            _shared(one, compared.k),
            *(ranking[0].path.name for ranking in one.rankings.values()),
        )
        for one in compared.most_different
    ]
    print_table(columns, rows, "what they disagree on most")
    for left_out in compared.left_out[:N_DRAWN]:
        say(f"left out: {printable(left_out.path.name)}: {left_out.reason}")
    if len(compared.left_out) > N_DRAWN:
        say(f"{counted(len(compared.left_out), 'picture')} left out in all")
    say(f"rank correlation over all pictures: {compared.rank_correlation:.2f}")
    say(compared.sentence)


def _shared(one: ComparedRankings, k: int) -> str:
    return f"{one.overlap_at_k * k:.0f} of {k}"


def _draw(compared: ComparedModels, save: Path) -> None:
    rows = {
        f"{place}. {one.query.name}": [*_cells(one, compared.k)]
        for place, one in enumerate(compared.most_different, start=1)
    }
    heading = f"where {' and '.join(compared.models)} disagree most"
    try:
        draw_sheet(None, compared.sentence, rows, heading).save(save, "PNG")
    except OSError as error:
        raise CommandFailed(f"cannot write {save}: {error.strerror}") from error
    say(f"saved {save}")


def _cells(one: ComparedRankings, k: int) -> Iterator[Cell]:
    yield Cell(thumbnail(one.query.read_bytes()), one.query.name, f"{_shared(one, k)} the same")
    for model, ranking in zip(("first", "second"), one.rankings.values(), strict=True):
        for rank, hit in enumerate(ranking[:N_DRAWN], start=1):
            caption = f"{rank}. by the {model}"
            yield Cell(thumbnail(hit.path.read_bytes()), hit.path.name, caption)
