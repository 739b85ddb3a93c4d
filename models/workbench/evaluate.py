"""Measures how well models, alone and combined, find pictures of one label and copies of one.

Each picture of a label with MIN_PICTURES or more is looked for among all others (leave one out);
pictures of rarer labels stay among those others. What is measured:

- precision@1 and @5: how many of the first one, or five, have the label of the query;
- mAP: the mean over queries of average precision, which is the mean of the precisions at the
  places of the pictures of its label (Manning, Raghavan, Schütze, Introduction to Information
  Retrieval, 2008, section 8.4);
- near-duplicate recall@1: how many edited pictures find their original first.

Rankings are re-ranked by neighbours, as those of searches are by default.

Weights are not judged on what they were chosen by: labels are dealt into folds, weights are chosen
on all folds but one, and the queries of that one are measured with them.
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
from twinlens.models.workbench.labels import MIN_PICTURES, Labelled
from twinlens.models.workbench.recipes import Method, Recipe, list_recipes
from twinlens.models.workbench.recommend import Contender, Recommendation, Row, compare_rows
from twinlens.models.workbench.scores import (
    Neighbourhoods,
    View,
    blocks_of,
    calibrate_all,
    fuse_scores,
    measure_rankings,
    rare_shares,
    view_of,
)

N_FOLDS = 5


@dataclass(frozen=True)
class Evaluation:
    """Everything that was measured. In `contenders` the best comes first.

    `tried` are the weights that were tried, with the mAP on the very queries that they were
    chosen by: for the curious, not for comparison. `rare_shares` has by model the share of pairs of
    different labels whose calibrated score is RARE_SCORE or more: near 0.01 where scores can be
    taken at their word. It is empty where all pictures have one label.

    `is_of_words` where the names of labels were looked for, and not pictures: then there are no
    edits and no rare shares, and nothing is re-ranked.
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
    is_of_words: bool = False


class Measurements(NamedTuple):
    """What was measured of each recipe, by query.

    `measured` is float64 [r, 3, q], `recalled` [r, e], `codes` [q] a number for each query's label,
    and `sources` [q] by name which queries are of a source.
    """

    recipes: Sequence[Recipe]
    measured: NDArray[np.float64]
    codes: NDArray[np.intp]
    n_pictures: int
    n_labels: int
    recalled: NDArray[np.float64] | None = None
    sources: Mapping[str, NDArray[np.bool_]] | None = None


def evaluate(  # noqa: PLR0913 - the last three are options, and passed by name
    embedded: Embedded,
    pictures: Sequence[Labelled],
    edits: Edits | None = None,
    *,
    on_progress: Callable[[int], None] = lambda _: None,
    seed: int = 0,
    n_bootstrap: int = 1000,
) -> Evaluation:
    """Measures every model and every fusion, and recommends one.

    Args:
        embedded: The pictures, from `embed_all`.
        pictures: Their labels, from `read_labels`.
        edits: Their edits, from `embed_edits`; without them near duplicates are not measured.
        on_progress: Called after each block with the number of pictures that are done.
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
    blocks: list[NDArray[np.float64]] = []
    for own in blocks_of(queries, len(codes)):
        blocks.append(_measure_block(gallery, calibrations, recipes, codes, own))
        on_progress(int(own[-1]) + 1)
    on_progress(len(codes))
    measured = np.concatenate(blocks, axis=2)
    recalled = None
    if edits and edits.originals:
        recalled = _measure_edits(gallery, calibrations, recipes, edits)
    sources = _sources([gallery.files[place] for place in queries], pictures)
    n_labels = count_labels(pictures)
    given = Measurements(recipes, measured, codes[queries], len(codes), n_labels, recalled, sources)
    judged = judge(given, "re-ranked by neighbours as searches are", seed, n_bootstrap)
    return replace(judged, rare_shares=rare_shares(gallery, calibrations, codes))


def count_labels(pictures: Sequence[Labelled]) -> int:
    """Counts the labels, whether or not enough pictures have them."""
    return len({picture.label for picture in pictures} - {""})


def judge(given: Measurements, how: str, seed: int, n_bootstrap: int) -> Evaluation:
    """Compares recipes by what was measured of them, and recommends one.

    Args:
        given: What was measured.
        how: How it was searched, for people.
        seed: Seed of the folds and of the bootstrap.
        n_bootstrap: How many times queries are drawn, 1 or more.
    """
    recipes, measured, codes, *_ = given
    folds = _deal_folds(codes, seed)
    rows = _rows(recipes, measured, given.recalled, folds)
    rng = np.random.default_rng(seed)
    contenders, recommendation = compare_rows(rows, given.sources or {}, rng, n_bootstrap, how)
    return Evaluation(
        contenders=contenders,
        recommendation=recommendation,
        tried=tuple(
            (recipes[place], float(measured[place, 0].mean()))
            for grid in _grids(recipes)
            for place in grid
        ),
        rare_shares={},
        n_pictures=given.n_pictures,
        n_labels=given.n_labels,
        n_queries=len(codes),
        n_query_labels=len(np.unique(codes)),
        n_edits=0 if given.recalled is None else given.recalled.shape[1],
        n_folds=int(folds.max()) + 1,
        n_bootstrap=n_bootstrap,
    )


def label_codes(embedded: Embedded, pictures: Sequence[Labelled]) -> NDArray[np.intp]:
    """Returns a number for each label; a picture without a label gets one of its own."""
    by_path = {picture.path: picture.label for picture in pictures}
    labels = np.array([by_path[path] for path in embedded.files])
    codes = np.unique(labels, return_inverse=True)[1]
    is_bare = labels == ""
    codes[is_bare] = len(labels) + np.arange(is_bare.sum())
    return codes


def _measure_block(
    gallery: Embedded,
    calibrations: Mapping[str, Calibration],
    recipes: Sequence[Recipe],
    codes: NDArray[np.intp],
    own: NDArray[np.intp],
) -> NDArray[np.float64]:
    """Measures of every recipe, [r, 3, q], each query against all other pictures."""
    views = {name: view_of(gallery, name, own, calibrations[name]) for name in calibrations}
    near = Neighbourhoods(gallery, views, own)
    is_relevant = codes[own][:, np.newaxis] == codes
    is_relevant[np.arange(len(own)), own] = False
    scores = (_scores_of(recipe, views, near) for recipe in recipes)
    return np.array([measure_rankings(each, is_relevant) for each in scores])


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
) -> list[Row]:
    """What is compared: recipes without chosen weights, and of each grid the chosen weights."""
    rows = [
        Row(recipe, measured[place], None if recalled is None else recalled[place])
        for place, recipe in enumerate(recipes)
        if recipe.is_equal
    ]
    for grid in _grids(recipes):
        best, by_query = _choose_weights(measured[grid, 0], folds)
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
