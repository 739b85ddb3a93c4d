"""Compares two libraries' models and weights on the same labelled pictures."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from twinlens.models.workbench.embeddings import Embedded, sort_by_id
from twinlens.models.workbench.evaluate import (
    N_QUERIES,
    choose_queries,
    decisive_measure,
    measure_recipes,
    relations_of,
)
from twinlens.models.workbench.intervals import (
    Estimate,
    PairedDifference,
    draw_queries,
    estimate_means,
    measure_difference,
    round_up,
)
from twinlens.models.workbench.labels import Labelled
from twinlens.models.workbench.recipes import Recipe
from twinlens.models.workbench.scores import Measure, calibrate_all


@dataclass(frozen=True)
class Rival:
    """One of two libraries, and what it achieves."""

    name: str
    recipe: Recipe
    mean_average_precision: Estimate
    precision_at_1: Estimate
    precision_at_5: Estimate
    ndcg_at_10: Estimate


@dataclass(frozen=True)
class PairedComparison:
    """Two libraries on the same queries. `difference` is the second less the first."""

    libraries: tuple[Rival, Rival]
    difference: PairedDifference
    decided_by: Measure
    n_pictures: int
    n_queries: int
    n_query_labels: int
    sentence: str


def compare_libraries(  # noqa: PLR0913 - the last three are options, and passed by name
    embedded: Embedded,
    pictures: Sequence[Labelled],
    recipes: Mapping[str, Recipe],
    on_progress: Callable[[int], None] = lambda _: None,
    *,
    seed: int = 0,
    n_bootstrap: int = 1000,
    max_queries: int = N_QUERIES,
) -> PairedComparison:
    """Measures two libraries' models and weights, re-ranked as searches are.

    Args:
        embedded: The pictures, by the models of both.
        pictures: Their labels.
        recipes: Of two libraries, by name.
        on_progress: Called after each block with the number of pictures that are done.
        seed: Seed of the choice of queries, and of the bootstrap.
        n_bootstrap: How many times queries are drawn.
        max_queries: How many pictures are looked for at most.

    Raises:
        BadInput: No label has enough pictures that could be embedded.
    """
    gallery = sort_by_id(embedded)
    relations = relations_of(gallery, pictures)
    queries = choose_queries(gallery, relations, seed, max_queries)
    measured = measure_recipes(
        gallery, calibrate_all(gallery), [*recipes.values()], relations, queries, on_progress
    )
    counts = draw_queries(np.random.default_rng(seed), len(queries), n_bootstrap)
    first, second = (
        Rival(name, recipe, *estimate_means(own, counts))
        for (name, recipe), own in zip(recipes.items(), measured, strict=True)
    )
    measure = decisive_measure(relations)
    before, after = measured[:, measure.place]
    difference = measure_difference(after, before, counts)
    return PairedComparison(
        libraries=(first, second),
        difference=difference,
        decided_by=measure,
        n_pictures=len(gallery.files),
        n_queries=len(queries),
        n_query_labels=relations.count_labels(queries),
        sentence=_sentence(first.name, second.name, difference, measure),
    )


def _sentence(first: str, second: str, difference: PairedDifference, measure: Measure) -> str:
    """Which is better, or what it would take to see that."""
    change = f"{second} less {first}: {measure} {difference.estimate:+}"
    if difference.n_needed is None or not difference.is_seen:
        return f"{change}, which may be chance: {difference.needs}."
    better, other = (second, first) if difference.estimate.value > 0.0 else (first, second)
    return (
        f"{better} is better than {other}. {change}; some {round_up(difference.n_needed):,} queries"
        " would show a difference of this size four times of five."
    )
