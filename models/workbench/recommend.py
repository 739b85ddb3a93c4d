"""Compares what recipes achieve, and recommends one for a library."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from twinlens.models.workbench.findings import Finding, list_findings
from twinlens.models.workbench.intervals import (
    Estimate,
    PairedDifference,
    draw_queries,
    estimate_means,
    measure_difference,
)
from twinlens.models.workbench.recipes import Method, Recipe
from twinlens.models.workbench.scores import Measure, Row


@dataclass(frozen=True)
class Contender:
    """What one recipe achieves.

    `gain` is that of the decisive measure, over the best model alone, re-ranked.

    Where `is_tuned`, the recipe's weights were chosen on all queries, and each query was measured
    with weights chosen on other labels. `near_duplicates` is None where there were no edits.
    `by_source` is the mAP of each source's queries, where the list names two sources or more.
    """

    recipe: Recipe
    mean_average_precision: Estimate
    precision_at_1: Estimate
    precision_at_5: Estimate
    ndcg_at_10: Estimate
    gain: Estimate
    near_duplicates: Estimate | None = None
    is_tuned: bool = False
    by_source: Mapping[str, Estimate] = field(default_factory=dict)

    @property
    def title(self) -> str:
        """For people: `a + b, calibrated, 1 : 0.5 (chosen)`."""
        return f"{self.recipe.title} (chosen)" if self.is_tuned else self.recipe.title


@dataclass(frozen=True)
class Recommendation:
    """What to use. `weights` are by model, of those that are used.

    `findings` say which model and which fusion is best, and what re-ranking does.
    """

    recipe: Recipe
    weights: Mapping[str, float]
    sentence: str
    findings: tuple[Finding, ...]


def compare_rows(  # noqa: PLR0913, PLR0917 - what is compared, and how it is told
    rows: Sequence[Row],
    sources: Mapping[str, NDArray[np.bool_]],
    rng: np.random.Generator,
    n_bootstrap: int,
    measure: Measure,
    how: str,
) -> tuple[tuple[Contender, ...], Recommendation]:
    """Compares recipes, and recommends the simplest that the best is not clearly better than.

    Args:
        rows: What each achieved.
        sources: Which queries are of each source, [q].
        rng: Draws queries.
        n_bootstrap: How many times queries are drawn.
        measure: What decides.
        how: How it was searched, for people.

    Returns:
        The contenders, the best first, and the recommendation.
    """
    values = np.array([row.measured for row in rows])
    judged, precisions = values[:, measure.place], values[:, 0]
    singles = [i for i, row in enumerate(rows) if row.recipe.is_baseline]
    best_single = max(singles, key=lambda i: judged[i].mean())
    counts = draw_queries(rng, values.shape[2], n_bootstrap)
    estimates = [estimate_means(values[:, each.place], counts) for each in Measure]
    means, firsts, fives, ndcgs = estimates
    reached = estimates[measure.place]
    gains = estimate_means(judged - judged[best_single], counts)
    near = _estimate_recall(rows, rng, n_bootstrap)
    by_source = {
        name: estimate_means(
            precisions[:, is_own], draw_queries(rng, int(is_own.sum()), n_bootstrap)
        )
        for name, is_own in sources.items()
    }
    contenders = [
        Contender(
            row.recipe,
            means[i],
            firsts[i],
            fives[i],
            ndcgs[i],
            gains[i],
            near[i],
            row.is_tuned,
            {name: of_source[i] for name, of_source in by_source.items()},
        )
        for i, row in enumerate(rows)
    ]
    chosen, best, gap = _choose(rows, counts, measure)
    recommended = contenders[chosen].recipe
    recommendation = Recommendation(
        recommended,
        dict(zip(recommended.models, recommended.weights or (1.0,), strict=True)),
        _sentence(
            contenders, chosen, best, gap, best_single, f"{measure} {reached[chosen]}, {how}"
        ),
        list_findings(rows, reached, recommended, counts, measure),
    )
    best_first = sorted(range(len(rows)), key=lambda i: -reached[i].value)
    return tuple(contenders[i] for i in best_first), recommendation


def _estimate_recall(
    rows: Sequence[Row], rng: np.random.Generator, n_bootstrap: int
) -> Sequence[Estimate | None]:
    recalled = [row.recalled for row in rows if row.recalled is not None]
    if not recalled:
        return [None] * len(rows)
    return estimate_means(np.array(recalled), draw_queries(rng, len(recalled[0]), n_bootstrap))


def _choose(
    rows: Sequence[Row], counts: NDArray[np.int64], measure: Measure
) -> tuple[int, int, PairedDifference]:
    """The row to recommend, the best one, and by how much that is better.

    Recommended is the simplest that the best is not clearly better than: fewer models first, then
    equal weights. The fusions that are not the default are for comparison, and so is what is not
    re-ranked: that is the query's to say and not the library's.
    """
    usable = [i for i, row in enumerate(rows) if row.is_usable]
    best = max(usable, key=lambda i: rows[i].judged(measure).mean())
    gaps = {
        i: measure_difference(rows[best].judged(measure), rows[i].judged(measure), counts)
        for i in usable
    }
    order = sorted(usable, key=lambda i: (rows[i].complexity, gaps[i].estimate.value))
    chosen = next(i for i in order if gaps[i].estimate.low <= 0.0)
    return chosen, best, gaps[chosen]


def _sentence(  # noqa: PLR0913, PLR0917 - all that it may say
    contenders: Sequence[Contender],
    chosen: int,
    best: int,
    gap: PairedDifference,
    best_single: int,
    reached: str,
) -> str:
    recipe = contenders[chosen].recipe
    if recipe.method is Method.CALIBRATED:
        gain, single = contenders[chosen].gain, contenders[best_single].recipe.title
        return f"Combine {recipe.title}: {reached}, and {gain} above {single} alone."
    if not any(one.recipe.method is Method.CALIBRATED for one in contenders):
        return f"{recipe.title} reaches {reached}; give more models to compare it with."
    if chosen == best:
        return f"Use {recipe.title} alone: {reached}; no weighted combination is better."
    return (
        f"Use {recipe.title} alone: {reached}; the best combination,"
        f" {contenders[best].recipe.title}, is {gap.estimate} above it, which may be chance:"
        f" {gap.needs}."
    )
