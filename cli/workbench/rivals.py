"""`twinlens evaluate --library A --library B`: which of two libraries is better."""

from __future__ import annotations

from typing import TYPE_CHECKING

from twinlens.cli.output import say, show
from twinlens.cli.show.tables import Column, named, print_table
from twinlens.cli.workbench.evaluate import embed_with_progress, interval, show_progress
from twinlens.client.client import Client
from twinlens.models.fusion import shares_of
from twinlens.models.workbench.paired import compare_libraries
from twinlens.models.workbench.recipes import Method, Recipe
from twinlens.models.workbench.scores import Measure

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from twinlens.models.registry import Registry
    from twinlens.models.workbench.labels import Labelled
    from twinlens.models.workbench.paired import PairedComparison, Rival
    from twinlens.shared.libraries import Library


def run_rivals(
    registry: Registry,
    pictures: Sequence[Labelled],
    names: Sequence[str],
    url: str,
    cache: Path,
    max_queries: int,
) -> None:
    """Measures the models and weights of two libraries of a service on the same photos.

    Args:
        registry: The models.
        pictures: The photos.
        names: The libraries.
        url: The service.
        cache: Keeps embeddings.
        max_queries: How many pictures are looked for at most.
    """
    with Client(url) as client:
        libraries = [client.library(name) for name in names]
    refs = dict.fromkeys(ref for library in libraries for ref in library.models)
    embedders = {ref: registry.open(ref) for ref in refs}
    embedded = embed_with_progress([*embedders.values()], [one.path for one in pictures], cache)
    cards = {ref: one.card for ref, one in embedders.items()}
    # Versions of one model go by their refs.
    known = {ref: card.name if card.name in embedded.models else ref for ref, card in cards.items()}
    recipes = {
        library.name: _recipe_of(library, {known[ref]: cards[ref].weight for ref in library.models})
        for library in libraries
    }
    with show_progress("rankings", len(embedded.files)) as on_progress:
        compared = compare_libraries(
            embedded, pictures, recipes, on_progress, max_queries=max_queries
        )
    show(compared, lambda: _print(compared))


def _recipe_of(library: Library, weights_of_cards: dict[str, float]) -> Recipe:
    """What a search of the library does. Models that do not count are left out."""
    weights = {
        name: library.weights.get(name.partition("@")[0], weight)
        for name, weight in weights_of_cards.items()
    }
    shares = shares_of(weights, weights)
    if len(shares) == 1:
        return Recipe(tuple(shares), Method.SINGLE)
    largest = max(shares.values())
    return Recipe(
        tuple(shares), Method.CALIBRATED, tuple(share / largest for share in shares.values())
    )


def _print(compared: PairedComparison) -> None:
    is_graded = compared.decided_by is Measure.NDCG_AT_10
    columns = (
        named("library"),
        named("models"),
        *([Column("nDCG@10"), Column("95 % of it", leave_out=3)] if is_graded else []),
        Column("mAP"),
        Column("95 %", leave_out=4),
        Column("P@1"),
        Column("P@5", leave_out=2),
    )
    print_table(
        columns,
        [_row(one, is_graded=is_graded) for one in compared.libraries],
        f"{compared.n_queries} queries of {compared.n_query_labels} labels,"
        f" {compared.n_pictures} pictures; the same for both, re-ranked as searches are",
    )
    say(compared.sentence)


def _row(one: Rival, *, is_graded: bool) -> tuple[str, ...]:
    ndcg, precision = one.ndcg_at_10, one.mean_average_precision
    return (
        one.name,
        one.recipe.title,
        *([f"{ndcg.value:.3f}", interval(ndcg)] if is_graded else []),
        f"{precision.value:.3f}",
        interval(precision),
        f"{one.precision_at_1.value:.3f}",
        f"{one.precision_at_5.value:.3f}",
    )
