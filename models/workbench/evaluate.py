"""Measures how well models, alone and combined, find pictures of one label and copies of one.

Each picture of a label with MIN_PICTURES or more is looked for among all others (leave one out);
pictures of rarer labels stay among those others. What is measured:

- precision@1 and @5: how many of the first one, or five, have the label of the query;
- mAP: the mean over queries of average precision, which is the mean of the precisions at the
  places of the pictures of its label (Manning, Raghavan, Schütze, Introduction to Information
  Retrieval, 2008, section 8.4);
- near-duplicate recall@1: how many edited pictures find their original first.

Intervals are bootstrap percentiles over queries (Efron and Tibshirani, An Introduction to the
Bootstrap, 1993, chapter 13), with the same drawn queries for all, so that differences are paired.

Weights are not judged on what they were chosen by: labels are dealt into folds, weights are chosen
on all folds but one, and the queries of that one are measured with them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from twinlens.models.calibration import Calibration
from twinlens.models.distances import pairwise_distances
from twinlens.models.errors import BadInput
from twinlens.models.workbench.edits import Edits
from twinlens.models.workbench.embeddings import Embedded, sort_by_id
from twinlens.models.workbench.labels import MIN_PICTURES, Labelled
from twinlens.models.workbench.scores import (
    TUNED,
    Method,
    Recipe,
    View,
    blocks_of,
    calibrate_all,
    fuse_scores,
    list_recipes,
    measure_rankings,
    rare_shares,
    rerank_scores,
    view_of,
)

N_FOLDS = 5

# What a library's weights can say, under the default fusion.
_USABLE = (Method.SINGLE, Method.CALIBRATED)


@dataclass(frozen=True)
class Estimate:
    """A mean over queries, and its bootstrap interval of 95 %."""

    value: float
    low: float
    high: float


@dataclass(frozen=True)
class Contender:
    """What one recipe achieves. `gain` is its mAP minus that of the best single model.

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
class Evaluation:
    """Everything that was measured. In `contenders` the best comes first.

    `tried` are the weights that were tried, with the mAP on the very queries that they were
    chosen by: for the curious, not for comparison. `rare_shares` has by model the share of pairs of
    different labels whose calibrated score is RARE_SCORE or more: near 0.01 where scores can be
    taken at their word. It is empty where all pictures have one label.
    """

    contenders: tuple[Contender, ...]
    recommendation: Recommendation
    tried: tuple[tuple[Recipe, float], ...]
    rare_shares: Mapping[str, float]
    n_pictures: int
    n_labels: int
    n_queries: int
    n_query_labels: int
    n_edits: int
    n_folds: int
    n_bootstrap: int


def evaluate(
    embedded: Embedded,
    pictures: Sequence[Labelled],
    edits: Edits | None = None,
    *,
    seed: int = 0,
    n_bootstrap: int = 1000,
) -> Evaluation:
    """Measures every model and every fusion, and recommends one.

    Args:
        embedded: The pictures, from `embed_all`.
        pictures: Their labels, from `read_labels`.
        edits: Their edits, from `embed_edits`; without them near duplicates are not measured.
        seed: Seed of the folds and of the bootstrap.
        n_bootstrap: How many times queries are drawn, 1 or more.

    Raises:
        BadInput: No label has MIN_PICTURES pictures that could be embedded.
    """
    gallery = sort_by_id(embedded)
    codes = label_codes(gallery, pictures)
    queries = np.flatnonzero(np.bincount(codes)[codes] >= MIN_PICTURES)
    if not queries.size:
        raise BadInput(
            f"no label has {MIN_PICTURES} pictures that could be embedded; "
            f"{len(embedded.left_out)} files were left out. Check those files, or label more"
        )
    recipes = list_recipes(gallery.models)
    calibrations = calibrate_all(gallery)
    measured = _measure_queries(gallery, calibrations, recipes, codes, queries)
    recalled = None
    if edits and edits.originals:
        recalled = _measure_edits(gallery, calibrations, recipes, edits)
    folds = _deal_folds(codes[queries], seed)
    rows = _rows(recipes, measured, recalled, folds)
    sources = _sources([gallery.files[place] for place in queries], pictures)
    rng = np.random.default_rng(seed)
    contenders, recommendation = _compare(rows, sources, rng, n_bootstrap)
    return Evaluation(
        contenders=contenders,
        recommendation=recommendation,
        tried=tuple(
            (recipe, float(values[0].mean()))
            for recipe, values in zip(recipes, measured, strict=True)
            if recipe.method in TUNED
        ),
        rare_shares=rare_shares(gallery, calibrations, codes),
        n_pictures=len(gallery.files),
        n_labels=len({picture.label for picture in pictures} - {""}),
        n_queries=len(queries),
        n_query_labels=len(np.unique(codes[queries])),
        n_edits=len(edits.originals) if edits else 0,
        n_folds=int(folds.max()) + 1,
        n_bootstrap=n_bootstrap,
    )


@dataclass(frozen=True)
class _Row:
    """A recipe's measures by query, [3, q] and [e]."""

    recipe: Recipe
    measured: NDArray[np.float64]
    recalled: NDArray[np.float64] | None
    is_tuned: bool = False

    @property
    def complexity(self) -> tuple[int, bool]:
        return len(self.recipe.models), self.is_tuned


def label_codes(embedded: Embedded, pictures: Sequence[Labelled]) -> NDArray[np.intp]:
    """Returns a number for each label; a picture without a label gets one of its own."""
    by_path = {picture.path: picture.label for picture in pictures}
    labels = np.array([by_path[path] for path in embedded.files])
    codes = np.unique(labels, return_inverse=True)[1]
    is_bare = labels == ""
    codes[is_bare] = len(labels) + np.arange(is_bare.sum())
    return codes


def _measure_queries(
    gallery: Embedded,
    calibrations: Mapping[str, Calibration],
    recipes: Sequence[Recipe],
    codes: NDArray[np.intp],
    queries: NDArray[np.intp],
) -> NDArray[np.float64]:
    """Measures of every recipe, [r, 3, q], each query against all other pictures."""
    measured = []
    for own in blocks_of(queries, len(codes)):
        views = {name: view_of(gallery, name, own, calibrations[name]) for name in calibrations}
        is_relevant = codes[own][:, np.newaxis] == codes
        is_relevant[np.arange(len(own)), own] = False
        scores = (_scores_of(recipe, views, gallery, own) for recipe in recipes)
        measured.append([measure_rankings(each, is_relevant) for each in scores])
    return np.concatenate(measured, axis=2)


def _scores_of(
    recipe: Recipe, views: Mapping[str, View], gallery: Embedded, own: NDArray[np.intp]
) -> NDArray[np.float64]:
    scores = fuse_scores(recipe, views)
    if recipe.method is Method.NEIGHBOURS:
        return rerank_scores(scores, recipe, gallery, own)
    return scores


def _measure_edits(
    gallery: Embedded,
    calibrations: Mapping[str, Calibration],
    recipes: Sequence[Recipe],
    edits: Edits,
) -> NDArray[np.float64]:
    """Whether each edited picture finds its original first, [r, e] of 0 and 1."""
    views = {
        name: View(
            model,
            pairwise_distances(edits.rows[name], gallery.rows[name], model),
            calibration=calibrations[name],
        )
        for name, model in gallery.models.items()
    }
    places = {image_id: place for place, image_id in enumerate(gallery.image_ids)}
    originals = np.array([places[image_id] for image_id in edits.originals])
    firsts = np.array([fuse_scores(recipe, views).argmax(axis=1) for recipe in recipes])
    return np.where(firsts == originals, 1.0, 0.0)


def _sources(files: Sequence[Path], pictures: Sequence[Labelled]) -> dict[str, NDArray[np.bool_]]:
    """Which queries are of each source, [q]; none where all are of one, or of none that is said."""
    by_path = {picture.path: picture.source for picture in pictures}
    sources = np.array([by_path[path] for path in files])
    names = sorted(set(sources.tolist()) - {""})
    return {name: sources == name for name in names} if len(names) > 1 else {}


def _deal_folds(codes: NDArray[np.intp], seed: int) -> NDArray[np.intp]:
    """The fold of each query; all queries of a label are in one."""
    labels = np.random.default_rng(seed).permutation(np.unique(codes))
    fold_by_label = {label: place % N_FOLDS for place, label in enumerate(labels.tolist())}
    return np.array([fold_by_label[code] for code in codes.tolist()])


def _rows(
    recipes: Sequence[Recipe],
    measured: NDArray[np.float64],
    recalled: NDArray[np.float64] | None,
    folds: NDArray[np.intp],
) -> list[_Row]:
    """What is compared: recipes without chosen weights, and of each grid the chosen weights."""
    rows = []
    grids: dict[tuple[tuple[str, ...], Method], list[int]] = {}
    for place, recipe in enumerate(recipes):
        if recipe.method in TUNED:
            grids.setdefault((recipe.models, recipe.method), []).append(place)
        if recipe.is_equal:
            rows.append(
                _Row(recipe, measured[place], None if recalled is None else recalled[place])
            )
    for grid in grids.values():
        best, by_query = _choose_weights(measured[grid, 0], folds)
        if not recipes[grid[best]].is_equal:
            judged = measured[np.array(grid)[by_query], :, np.arange(len(folds))].T
            tuned = None if recalled is None else recalled[grid[best]]
            rows.append(_Row(recipes[grid[best]], judged, tuned, is_tuned=True))
    return rows


def _choose_weights(
    precisions: NDArray[np.float64], folds: NDArray[np.intp]
) -> tuple[int, NDArray[np.intp]]:
    """Chooses among weights by mAP, [w, q]: on all queries, and for each query on other folds."""
    if not folds.any():
        # One label: nothing is left to judge by, so equal weights stay.
        return 0, np.zeros_like(folds)
    by_query = np.empty_like(folds)
    for fold in np.unique(folds):
        by_query[folds == fold] = precisions[:, folds != fold].mean(axis=1).argmax()
    return int(precisions.mean(axis=1).argmax()), by_query


def _compare(
    rows: Sequence[_Row],
    sources: Mapping[str, NDArray[np.bool_]],
    rng: np.random.Generator,
    n_bootstrap: int,
) -> tuple[tuple[Contender, ...], Recommendation]:
    values = np.array([row.measured for row in rows])
    precisions = values[:, 0]
    singles = [i for i, row in enumerate(rows) if row.recipe.method is Method.SINGLE]
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
    recommendation = _recommend(contenders, chosen, best, gap, best_single)
    best_first = sorted(contenders, key=lambda one: -one.mean_average_precision.value)
    return tuple(best_first), recommendation


def _estimate_recall(
    rows: Sequence[_Row], rng: np.random.Generator, n_bootstrap: int
) -> Sequence[Estimate | None]:
    recalled = [row.recalled for row in rows if row.recalled is not None]
    if not recalled:
        return [None] * len(rows)
    return _estimate(np.array(recalled), _draw(rng, len(recalled[0]), n_bootstrap))


def _choose(rows: Sequence[_Row], counts: NDArray[np.int64]) -> tuple[int, int, Estimate]:
    """The row to recommend, the best one, and by how much that is better.

    Recommended is the simplest that the best is not clearly better than: fewer models first, then
    equal weights. The fusions that are not the default are for comparison: which one, and whether
    to re-rank, is the query's to say and not the library's.
    """
    usable = [i for i, row in enumerate(rows) if row.recipe.method in _USABLE]
    precisions = np.array([rows[i].measured[0] for i in usable])
    best = int(precisions.mean(axis=1).argmax())
    gaps = _estimate(precisions[best] - precisions, counts)
    order = sorted(range(len(usable)), key=lambda i: (rows[usable[i]].complexity, gaps[i].value))
    chosen = next(i for i in order if gaps[i].low <= 0.0)
    return usable[chosen], usable[best], gaps[chosen]


def _recommend(
    contenders: Sequence[Contender], chosen: int, best: int, gap: Estimate, best_single: int
) -> Recommendation:
    recipe = contenders[chosen].recipe
    reached = f"mAP {_show(contenders[chosen].mean_average_precision)}"
    if recipe.method is Method.CALIBRATED:
        gain, single = contenders[chosen].gain, contenders[best_single].recipe.title
        sentence = f"Combine {recipe.title}: {reached}, {_show(gain)} above {single} alone."
    elif len(contenders) == 1:
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
