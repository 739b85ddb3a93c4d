"""Compares what recipes achieve, and recommends one for a library.

Intervals are bootstrap percentiles over queries (Efron and Tibshirani, An Introduction to the
Bootstrap, 1993, chapter 13), with the same drawn queries for all, so that differences are paired.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from twinlens.models.workbench.recipes import Method, Recipe


@dataclass(frozen=True)
class Estimate:
    """A mean over queries, and its bootstrap interval of 95 %."""

    value: float
    low: float
    high: float


@dataclass(frozen=True)
class Contender:
    """What one recipe achieves. `gain` is its mAP minus that of the best model alone, re-ranked.

    Where `is_tuned`, the recipe's weights were chosen on all queries, and each query was measured
    with weights chosen on other labels. `near_duplicates` is None where there were no edits.
    `by_source` is the mAP of each source's queries, where the list names two sources or more.
    """

    recipe: Recipe
    mean_average_precision: Estimate
    precision_at_1: Estimate
    precision_at_5: Estimate
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
    """What to use. `weights` are by model, of those that are used."""

    recipe: Recipe
    weights: Mapping[str, float]
    sentence: str


@dataclass(frozen=True)
class Row:
    """A recipe's measures by query, [3, q] and [e]."""

    recipe: Recipe
    measured: NDArray[np.float64]
    recalled: NDArray[np.float64] | None
    is_tuned: bool = False

    @property
    def is_usable(self) -> bool:
        """Whether a library's models and weights can say it, under a search's defaults."""
        return self.recipe.is_reranked and self.recipe.method in (Method.SINGLE, Method.CALIBRATED)

    @property
    def complexity(self) -> tuple[int, bool]:
        """What is less for the simpler: fewer models, then equal weights."""
        return len(self.recipe.models), self.is_tuned


def compare_rows(
    rows: Sequence[Row],
    sources: Mapping[str, NDArray[np.bool_]],
    rng: np.random.Generator,
    n_bootstrap: int,
    how: str,
) -> tuple[tuple[Contender, ...], Recommendation]:
    """Compares recipes, and recommends the simplest that the best is not clearly better than.

    Args:
        rows: What each achieved.
        sources: Which queries are of each source, [q].
        rng: Draws queries.
        n_bootstrap: How many times queries are drawn.
        how: How it was searched, for people.

    Returns:
        The contenders, the best first, and the recommendation.
    """
    values = np.array([row.measured for row in rows])
    precisions = values[:, 0]
    singles = [i for i, row in enumerate(rows) if row.recipe.is_baseline]
    best_single = max(singles, key=lambda i: precisions[i].mean())
    counts = _draw(rng, precisions.shape[1], n_bootstrap)
    means, firsts, fives = (_estimate(values[:, measure], counts) for measure in range(3))
    gains = _estimate(precisions - precisions[best_single], counts)
    near = _estimate_recall(rows, rng, n_bootstrap)
    by_source = {
        name: _estimate(precisions[:, is_own], _draw(rng, int(is_own.sum()), n_bootstrap))
        for name, is_own in sources.items()
    }
    contenders = [
        Contender(
            row.recipe,
            means[i],
            firsts[i],
            fives[i],
            gains[i],
            near[i],
            row.is_tuned,
            {name: estimates[i] for name, estimates in by_source.items()},
        )
        for i, row in enumerate(rows)
    ]
    chosen, best, gap = _choose(rows, counts)
    recommendation = _recommend(contenders, (chosen, best, best_single), gap, how)
    best_first = sorted(contenders, key=lambda one: -one.mean_average_precision.value)
    return tuple(best_first), recommendation


def _estimate_recall(
    rows: Sequence[Row], rng: np.random.Generator, n_bootstrap: int
) -> Sequence[Estimate | None]:
    recalled = [row.recalled for row in rows if row.recalled is not None]
    if not recalled:
        return [None] * len(rows)
    return _estimate(np.array(recalled), _draw(rng, len(recalled[0]), n_bootstrap))


def _choose(rows: Sequence[Row], counts: NDArray[np.int64]) -> tuple[int, int, Estimate]:
    """The row to recommend, the best one, and by how much that is better.

    Recommended is the simplest that the best is not clearly better than: fewer models first, then
    equal weights. The fusions that are not the default are for comparison, and so is what is not
    re-ranked: that is the query's to say and not the library's.
    """
    usable = [i for i, row in enumerate(rows) if row.is_usable]
    precisions = np.array([rows[i].measured[0] for i in usable])
    best = int(precisions.mean(axis=1).argmax())
    gaps = _estimate(precisions[best] - precisions, counts)
    order = sorted(range(len(usable)), key=lambda i: (rows[usable[i]].complexity, gaps[i].value))
    chosen = next(i for i in order if gaps[i].low <= 0.0)
    return usable[chosen], usable[best], gaps[chosen]


def _recommend(
    contenders: Sequence[Contender],
    places: tuple[int, int, int],
    gap: Estimate,
    how: str,
) -> Recommendation:
    chosen, best, best_single = places
    recipe = contenders[chosen].recipe
    reached = f"mAP {_show(contenders[chosen].mean_average_precision)}, {how}"
    if recipe.method is Method.CALIBRATED:
        gain, single = contenders[chosen].gain, contenders[best_single].recipe.title
        sentence = f"Combine {recipe.title}: {reached}, and {_show(gain)} above {single} alone."
    elif not any(one.recipe.method is Method.CALIBRATED for one in contenders):
        sentence = f"{recipe.title} reaches {reached}; give more models to compare it with."
    elif chosen == best:
        sentence = f"Use {recipe.title} alone: {reached}; no weighted combination is better."
    else:
        sentence = (
            f"Use {recipe.title} alone: {reached}; the best combination, "
            f"{contenders[best].recipe.title}, is {_show(gap)} above it, which may be chance."
        )
    weights = dict(zip(recipe.models, recipe.weights or (1.0,), strict=True))
    return Recommendation(recipe, weights, sentence)


def _show(estimate: Estimate) -> str:
    return f"{estimate.value:.3f} ({estimate.low:.3f} to {estimate.high:.3f})"


def _draw(rng: np.random.Generator, n_queries: int, n_bootstrap: int) -> NDArray[np.int64]:
    """How often each query is drawn, [b, q]: each time as many as there are, with repetition."""
    return rng.multinomial(n_queries, np.full(n_queries, 1.0 / n_queries), size=n_bootstrap)


def _estimate(values: NDArray[np.float64], counts: NDArray[np.int64]) -> list[Estimate]:
    """Means of [r, q] with intervals. The mean may leave a narrow one by rounding: not here."""
    means = values.mean(axis=1)
    drawn = values @ counts.T / values.shape[1]
    lows, highs = np.quantile(drawn, [0.025, 0.975], axis=1)
    lows, highs = np.minimum(lows, means), np.maximum(highs, means)
    return [Estimate(*row) for row in np.stack([means, lows, highs], axis=1).tolist()]
