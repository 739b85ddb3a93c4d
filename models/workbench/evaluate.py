"""Measures how well models, alone and combined, find related pictures and copies of one.

Pictures that share a label are related; where they have several, the more the more labels they
share. Each picture of a label with MIN_PICTURES or more is looked for among all others (leave one
out), of many pictures some that are drawn at random. Pictures of rarer labels stay among those
others. What is measured:

- precision@1 and @5: how many of the first one, or five, are related to the query;
- mAP: the mean over queries of average precision, which is the mean of the precisions at the
  places of the related pictures (Manning, Raghavan, Schütze, Introduction to Information
  Retrieval, 2008, section 8.4);
- nDCG@10: how much is shared by the first ten, as a part of what could be;
- near-duplicate recall@1: how many edited pictures find their original first.

mAP decides what is better where pictures have one label each. Where they have several, nDCG@10
does: half of all pictures may have one label in common, such as "person", and mAP then measures
down to the last of them, and takes the one that shares it alone for as right as any.

Rankings are re-ranked by neighbours, as those of searches are by default.

Weights are not judged on what they were chosen by: labels are dealt into folds (pictures with the
same labels into one), weights are chosen on all folds but one, and the queries of that one are
measured with them.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from twinlens.models.calibration import Calibration
from twinlens.models.distances import pairwise_distances
from twinlens.models.errors import BadInput
from twinlens.models.workbench.edits import Edits
from twinlens.models.workbench.embeddings import Embedded, sort_by_id
from twinlens.models.workbench.labels import MIN_PICTURES, Labelled, Relations
from twinlens.models.workbench.recipes import Method, Recipe, list_recipes
from twinlens.models.workbench.recommend import Contender, Recommendation, compare_rows
from twinlens.models.workbench.scores import (
    Measure,
    Neighbourhoods,
    Row,
    View,
    blocks_of,
    calibrate_all,
    fuse_scores,
    measure_rankings,
    rare_shares,
    view_of,
)

N_FOLDS = 5
# Queries of a large set: the interval of their mean is ± 0.02 at most, and three models take some
# minutes.
N_QUERIES = 2_000


@dataclass(frozen=True)
class Evaluation:
    """Everything that was measured. In `contenders` the best comes first.

    `tried` are the weights that were tried, with what decides on the very queries that they were
    chosen by: for the curious, not for comparison. `rare_shares` has by model the share of pairs of
    different labels whose calibrated score is RARE_SCORE or more: near 0.01 where scores can be
    taken at their word. It is empty where all pictures have one label. `decided_by` is what makes
    one better than another.

    `is_of_words` where the names of labels were looked for, and not pictures: then there are no
    edits and no rare shares, and nothing is re-ranked.
    """

    contenders: tuple[Contender, ...]
    recommendation: Recommendation
    tried: tuple[tuple[Recipe, float], ...]
    rare_shares: Mapping[str, float]
    decided_by: Measure
    n_pictures: int
    n_labels: int
    n_queries: int
    n_query_labels: int
    n_edits: int
    n_folds: int
    n_bootstrap: int
    is_of_words: bool = False


class Measurements(NamedTuple):
    """What was measured of each recipe, by query.

    `measured` is float64 [r, 4, q], `recalled` [r, e], `codes` [q] a number for each query's
    labels, and `sources` [q] by name which queries are of a source. `measure` is what decides.
    """

    recipes: Sequence[Recipe]
    measured: NDArray[np.float64]
    codes: NDArray[np.intp]
    measure: Measure
    n_pictures: int
    n_labels: int
    n_query_labels: int
    recalled: NDArray[np.float64] | None = None
    sources: Mapping[str, NDArray[np.bool_]] | None = None


def evaluate(  # noqa: PLR0913 - the last four are options, and passed by name
    embedded: Embedded,
    pictures: Sequence[Labelled],
    edits: Edits | None = None,
    *,
    on_progress: Callable[[int], None] = lambda _: None,
    seed: int = 0,
    n_bootstrap: int = 1000,
    max_queries: int = N_QUERIES,
) -> Evaluation:
    """Measures every model and every fusion, and recommends one.

    Args:
        embedded: The pictures, from `embed_all`.
        pictures: Their labels, from `read_labels`.
        edits: Their edits, from `embed_edits`; without them near duplicates are not measured.
        on_progress: Called after each block with the number of pictures that are done.
        seed: Seed of the folds, of the bootstrap and of the choice of queries.
        n_bootstrap: How many times queries are drawn, 1 or more.
        max_queries: How many pictures are looked for at most.

    Raises:
        BadInput: No label has MIN_PICTURES pictures that could be embedded.
    """
    gallery = sort_by_id(embedded)
    relations = relations_of(gallery, pictures)
    queries = choose_queries(gallery, relations, seed, max_queries)
    sample = draw_places(np.arange(len(gallery.files)), seed, max_queries)
    recipes = list_recipes(gallery.models)
    calibrations = calibrate_all(gallery)
    measured = measure_recipes(gallery, calibrations, recipes, relations, queries, on_progress)
    recalled = None
    if edits and edits.originals:
        recalled = _measure_edits(gallery, calibrations, recipes, edits)
    given = Measurements(
        recipes,
        measured,
        label_codes(gallery, pictures)[queries],
        decisive_measure(relations),
        n_pictures=len(gallery.files),
        n_labels=count_labels(pictures),
        n_query_labels=relations.count_labels(queries),
        recalled=recalled,
        sources=_sources([gallery.files[place] for place in queries], pictures),
    )
    judged = judge(given, "re-ranked by neighbours as searches are", seed, n_bootstrap)
    shares = rare_shares(gallery, calibrations, relations, sample)
    return replace(judged, rare_shares=shares)


def count_labels(pictures: Sequence[Labelled]) -> int:
    """Counts the labels, whether or not enough pictures have them."""
    return len(frozenset().union(*(picture.labels for picture in pictures)))


def judge(given: Measurements, how: str, seed: int, n_bootstrap: int) -> Evaluation:
    """Compares recipes by what was measured of them, and recommends one.

    Args:
        given: What was measured.
        how: How it was searched, for people.
        seed: Seed of the folds and of the bootstrap.
        n_bootstrap: How many times queries are drawn, 1 or more.
    """
    recipes, measured, codes, measure, *_ = given
    folds = _deal_folds(codes, seed)
    rows = _rows(recipes, measured, given.recalled, folds, measure)
    rng = np.random.default_rng(seed)
    sources = given.sources or {}
    contenders, recommendation = compare_rows(rows, sources, rng, n_bootstrap, measure, how)
    return Evaluation(
        contenders=contenders,
        recommendation=recommendation,
        tried=tuple(
            (recipes[place], float(measured[place, measure.place].mean()))
            for grid in _grids(recipes)
            for place in grid
        ),
        rare_shares={},
        decided_by=measure,
        n_pictures=given.n_pictures,
        n_labels=given.n_labels,
        n_queries=len(codes),
        n_query_labels=given.n_query_labels,
        n_edits=0 if given.recalled is None else given.recalled.shape[1],
        n_folds=int(folds.max()) + 1,
        n_bootstrap=n_bootstrap,
    )


def relations_of(embedded: Embedded, pictures: Sequence[Labelled]) -> Relations:
    """Returns how closely the pictures that were embedded are related, in their order."""
    by_path = {picture.path: picture.labels for picture in pictures}
    return Relations([by_path[path] for path in embedded.files])


def choose_queries(
    gallery: Embedded, relations: Relations, seed: int, max_queries: int
) -> NDArray[np.intp]:
    """Returns the places of the pictures that are looked for, of many some at random.

    Raises:
        BadInput: There are none.
    """
    queries = relations.queries()
    if not queries.size:
        raise BadInput(
            f"no label has {MIN_PICTURES} pictures that could be embedded; "
            f"{len(gallery.left_out)} files were left out. Check those files, or label more"
        )
    return draw_places(queries, seed, max_queries)


def draw_places(places: NDArray[np.intp], seed: int, n_most: int) -> NDArray[np.intp]:
    """Returns the places, of more than so many some at random."""
    if len(places) <= n_most:
        return places
    return np.sort(np.random.default_rng(seed).choice(places, n_most, replace=False))


def decisive_measure(relations: Relations) -> Measure:
    """Returns what decides which is better."""
    return Measure.NDCG_AT_10 if relations.is_graded else Measure.AVERAGE_PRECISION


def label_codes(embedded: Embedded, pictures: Sequence[Labelled]) -> NDArray[np.intp]:
    """Returns a number for each set of labels; a picture without a label gets one of its own."""
    by_path = {picture.path: "\0".join(sorted(picture.labels)) for picture in pictures}
    labels = np.array([by_path[path] for path in embedded.files])
    codes = np.unique(labels, return_inverse=True)[1]
    is_bare = labels == ""
    codes[is_bare] = len(labels) + np.arange(is_bare.sum())
    return codes


def measure_recipes(  # noqa: PLR0913, PLR0917 - what `evaluate` has by then
    gallery: Embedded,
    calibrations: Mapping[str, Calibration],
    recipes: Sequence[Recipe],
    relations: Relations,
    queries: NDArray[np.intp],
    on_progress: Callable[[int], None] = lambda _: None,
) -> NDArray[np.float64]:
    """Measures every recipe, each query against all other pictures.

    Args:
        gallery: The pictures.
        calibrations: By model.
        recipes: What is measured.
        relations: How closely the pictures are related.
        queries: [q] places among the pictures, each with another that is related to it.
        on_progress: Called after each block with the number of pictures that are done.

    Returns:
        float64 [r, 4, q], in the order of `Measure`.
    """
    n_pictures = len(gallery.files)
    blocks: list[NDArray[np.float64]] = []
    for own in blocks_of(queries, n_pictures):
        views = {name: view_of(gallery, name, own, calibrations[name]) for name in calibrations}
        near = Neighbourhoods(gallery, views, own)
        grades = relations.grades(own)
        scores = (_scores_of(recipe, views, near) for recipe in recipes)
        blocks.append(np.array([measure_rankings(each, grades) for each in scores]))
        on_progress(int(own[-1]) + 1)
    on_progress(n_pictures)
    return np.concatenate(blocks, axis=2)


def _scores_of(
    recipe: Recipe, views: Mapping[str, View], near: Neighbourhoods
) -> NDArray[np.float64]:
    scores = fuse_scores(recipe, views)
    return near.rerank(scores, recipe) if recipe.is_reranked else scores


def _measure_edits(
    gallery: Embedded,
    calibrations: Mapping[str, Calibration],
    recipes: Sequence[Recipe],
    edits: Edits,
) -> NDArray[np.float64]:
    """Whether each edited picture finds its original first, [r, e] of 0 and 1."""
    places = {image_id: place for place, image_id in enumerate(gallery.image_ids)}
    originals = np.array([places[image_id] for image_id in edits.originals])
    firsts: list[NDArray[np.intp]] = []
    for some in blocks_of(np.arange(len(originals)), len(places)):
        views = {
            name: View(
                model,
                pairwise_distances(edits.rows[name][some], gallery.rows[name], model),
                calibration=calibrations[name],
            )
            for name, model in gallery.models.items()
        }
        firsts.append(np.array([fuse_scores(one, views).argmax(axis=1) for one in recipes]))
    return np.where(np.concatenate(firsts, axis=1) == originals, 1.0, 0.0)


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
    measure: Measure,
) -> list[Row]:
    """What is compared: recipes without chosen weights, and of each grid the chosen weights."""
    rows = [
        Row(recipe, measured[place], None if recalled is None else recalled[place])
        for place, recipe in enumerate(recipes)
        if recipe.is_equal
    ]
    for grid in _grids(recipes):
        best, by_query = _choose_weights(measured[grid, measure.place], folds)
        if not recipes[grid[best]].is_equal:
            judged = measured[np.array(grid)[by_query], :, np.arange(len(folds))].T
            tuned = None if recalled is None else recalled[grid[best]]
            rows.append(Row(recipes[grid[best]], judged, tuned, is_tuned=True))
    return rows


def _grids(recipes: Sequence[Recipe]) -> list[list[int]]:
    """Places of the recipes whose weights are to be chosen, by the models that they combine."""
    grids: dict[tuple[str, ...], list[int]] = {}
    for place, recipe in enumerate(recipes):
        if recipe.method is Method.CALIBRATED and recipe.is_reranked:
            grids.setdefault(recipe.models, []).append(place)
    return [*grids.values()]


def _choose_weights(
    judged: NDArray[np.float64], folds: NDArray[np.intp]
) -> tuple[int, NDArray[np.intp]]:
    """Chooses among weights, [w, q]: on all queries, and for each query on other folds."""
    if not folds.any():
        # One label: nothing is left to judge by, so equal weights stay.
        return 0, np.zeros_like(folds)
    by_query = np.empty_like(folds)
    for fold in np.unique(folds):
        by_query[folds == fold] = judged[:, folds != fold].mean(axis=1).argmax()
    return int(judged.mean(axis=1).argmax()), by_query
