"""Scores and ranks many pictures for many queries at once, by one model or by several combined.

Distances are as Milvus defines them, equal ones are ranked by image id: as the service does.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from twinlens.models.calibration import (
    N_SAMPLE,
    Calibration,
    Measured,
    calibrate,
    prior_of,
    score_of,
)
from twinlens.models.distances import pairwise_distances
from twinlens.models.fusion import RRF_K, line_of, shares_of
from twinlens.models.rerank import N_RERANKED, pairwise_similarity, rerank
from twinlens.models.workbench.embeddings import Embedded
from twinlens.models.workbench.labels import Relations
from twinlens.models.workbench.recipes import Method, Recipe

# A score that one unrelated pair of a hundred should have, or a higher one.
RARE_SCORE = 0.99

# Scores of a block of queries: some 8 MB each, a few of them by model. Of the neighbourhoods of a
# query there are some 400 kB a model.
_BLOCK_SCORES = 1_000_000
_BLOCK_QUERIES = 64


# What a user sees of a result without going on.
N_FIRST = 10


class Measure(StrEnum):
    """What is measured of a ranking, in the order of `measure_rankings`."""

    AVERAGE_PRECISION = "mAP"
    PRECISION_AT_1 = "precision@1"
    PRECISION_AT_5 = "precision@5"
    NDCG_AT_10 = "nDCG@10"

    @property
    def place(self) -> int:
        """Its place among them."""
        return [*Measure].index(self)


@dataclass(frozen=True)
class Row:
    """A recipe's measures by query, [4, q] and [e]."""

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

    def judged(self, measure: Measure) -> NDArray[np.float64]:
        """One of the measures, by query: [q]."""
        by_query: NDArray[np.float64] = self.measured[measure.place]
        return by_query


def similarities(distances: NDArray[np.float64], model: Measured) -> NDArray[np.float64]:
    """Turns distances into scores from 0 to 1, as `fusion.similarity` does one."""
    start, slope = line_of(model.metric, model.dimension)
    return np.clip(start + slope * distances, 0.0, 1.0)


@dataclass(frozen=True)
class View:
    """One model's view of a block of queries, the pictures by image id.

    `distances` is float64 [m, n]; `own` has the place of each query among the pictures, which is
    never found: it is the last in every order. Without a calibration, the model's prior is used.
    """

    model: Measured
    distances: NDArray[np.float64]
    own: NDArray[np.intp] | None = None
    calibration: Calibration | None = None

    @cached_property
    def nearness(self) -> NDArray[np.float64]:
        """Larger is nearer; not clipped, so that opposites keep their order."""
        return self._without_own(-self.model.metric.sign * self.distances)

    @cached_property
    def similarity(self) -> NDArray[np.float64]:
        """From 0 to 1, of the query itself less than any number."""
        return self._without_own(similarities(self.distances, self.model))

    @cached_property
    def evidence(self) -> NDArray[np.float64]:
        """As `Calibration.evidence`, of the query itself less than any number."""
        start, slope = line_of(self.model.metric, self.model.dimension)
        calibration = self.calibration or prior_of(self.model)
        return self._without_own(calibration.evidence(start + slope * self.distances))

    @cached_property
    def ranks(self) -> NDArray[np.intp]:
        """From 1; equal distances by image id, which is the pictures' order."""
        order = order_by_score(self.nearness)
        ranks = np.empty_like(order)
        np.put_along_axis(ranks, order, np.arange(1, order.shape[1] + 1)[np.newaxis], axis=1)
        return ranks

    def _without_own(self, scores: NDArray[np.float64]) -> NDArray[np.float64]:
        if self.own is None:
            return scores
        scores = scores.copy()
        scores[np.arange(len(scores)), self.own] = -np.inf
        return scores


def view_of(
    gallery: Embedded,
    name: str,
    queries: NDArray[np.intp],
    calibration: Calibration | None = None,
) -> View:
    """Measures some of the pictures, given by their places, against all."""
    rows, model = gallery.rows[name], gallery.models[name]
    return View(model, pairwise_distances(rows[queries], rows, model), queries, calibration)


def calibrate_all(gallery: Embedded) -> dict[str, Calibration]:
    """Calibrates each model on a random sample of the pictures, as a library is."""
    n_pictures = len(gallery.files)
    places = np.random.default_rng(0).permutation(n_pictures)[:N_SAMPLE]
    return {
        name: calibrate(gallery.rows[name][places], prior_of(model), n_pictures)
        for name, model in gallery.models.items()
    }


def blocks_of(queries: NDArray[np.intp], n_pictures: int) -> list[NDArray[np.intp]]:
    """Cuts queries into blocks, so that memory stays flat however many there are."""
    n_block = max(1, min(_BLOCK_QUERIES, _BLOCK_SCORES // n_pictures))
    return [queries[start : start + n_block] for start in range(0, len(queries), n_block)]


def order_by_score(scores: NDArray[np.float64]) -> NDArray[np.intp]:
    """Orders each row, the highest score first, equal ones unchanged: [m, n] places."""
    return np.argsort(-scores, axis=1, kind="stable")


def fuse_scores(recipe: Recipe, views: Mapping[str, View]) -> NDArray[np.float64]:
    """Scores every picture for every query, larger is nearer.

    SINGLE is the distance with its sign turned. The others order pictures as `fusion.fuse` does:
    CALIBRATED, MAX and MIN by the weighted mean, the largest or the smallest evidence, WEIGHTED by
    the weighted mean of similarities, RRF by the sum of 1 / (RRF_K + rank). None is re-ranked.

    Args:
        recipe: The models, and how they are combined.
        views: What each of its models sees, by name.

    Returns:
        float64 [m, n].
    """
    seen = [views[name] for name in recipe.models]
    scores: NDArray[np.float64]
    match recipe.method:
        case Method.SINGLE:
            scores = seen[0].nearness
        case Method.CALIBRATED:
            scores = _weighted_mean(recipe.weights, [view.evidence for view in seen])
        case Method.WEIGHTED:
            scores = _weighted_mean(recipe.weights, [view.similarity for view in seen])
        case Method.RRF:
            scores = np.add.reduce([1.0 / (RRF_K + view.ranks) for view in seen])
        case Method.MAX:
            scores = np.maximum.reduce([view.evidence for view in seen])
        case Method.MIN:
            scores = np.minimum.reduce([view.evidence for view in seen])
    return scores


class Neighbourhoods:
    """How similar the pictures are that models list as nearest, for each query of a block.

    A search asks each model for its nearest, as many as it re-ranks, and re-ranks the best of all
    that are listed.
    """

    def __init__(
        self, gallery: Embedded, views: Mapping[str, View], queries: NDArray[np.intp]
    ) -> None:
        """Compares the listed with each other, once for all recipes.

        Args:
            gallery: The pictures.
            views: What each model sees of the queries.
            queries: [m] their places among the pictures.
        """
        self._listed = {name: view.ranks <= N_RERANKED for name, view in views.items()}
        any_listed = np.logical_or.reduce([*self._listed.values()])
        self._places = [np.flatnonzero(row) for row in any_listed]
        self._similarities = [
            {
                name: pairwise_similarity(rows[np.r_[query, places]])
                for name, rows in gallery.rows.items()
            }
            for query, places in zip(queries, self._places, strict=True)
        ]

    def rerank(self, scores: NDArray[np.float64], recipe: Recipe) -> NDArray[np.float64]:
        """Reorders each query's first pictures by their neighbours, as a search does.

        Args:
            scores: The recipe's scores, from `fuse_scores`, [m, n].
            recipe: The recipe.

        Returns:
            float64 [m, n]: scores by which the reordered come first; the rest as it was.
        """
        is_listed = np.logical_or.reduce([self._listed[name] for name in recipe.models])
        n_first = min(N_RERANKED, scores.shape[1] - 1)
        first = order_by_score(np.where(is_listed, scores, -np.inf))[:, :n_first]
        weights = recipe.weights or (1.0,) * len(recipe.models)
        shares = shares_of(dict(zip(recipe.models, weights, strict=True)), recipe.models)
        changed = scores.copy()
        for row, places in enumerate(first):
            own = np.r_[0, 1 + np.searchsorted(self._places[row], places)]
            among = np.ix_(own, own)
            parts = [s * self._similarities[row][name][among] for name, s in shares.items()]
            order = rerank(np.add.reduce(parts))
            changed[row, places[order]] = scores[row].max() + np.arange(n_first, 0, -1)
        return changed


def rare_shares(
    gallery: Embedded,
    calibrations: Mapping[str, Calibration],
    relations: Relations,
    places: NDArray[np.intp],
) -> dict[str, float]:
    """Measures, by model, the share of pairs that share no label and score RARE_SCORE or more.

    Args:
        gallery: The pictures.
        calibrations: Calibrations by model, from `calibrate_all`.
        relations: Which of them are related.
        places: Of the pictures whose pairs with all are measured.

    Returns:
        Shares by model; empty if all pictures are related.
    """
    n_rare = dict.fromkeys(calibrations, 0)
    n_unrelated = 0
    for own in blocks_of(places, len(gallery.files)):
        is_unrelated = relations.grades(own) == 0
        is_unrelated[np.arange(len(own)), own] = False
        n_unrelated += int(is_unrelated.sum())
        for name, calibration in calibrations.items():
            scores = score_of(view_of(gallery, name, own, calibration).evidence[is_unrelated])
            n_rare[name] += int((scores >= RARE_SCORE).sum())
    return {name: count / n_unrelated for name, count in n_rare.items() if n_unrelated}


def measure_rankings(scores: NDArray[np.float64], grades: NDArray[np.intp]) -> NDArray[np.float64]:
    """Measures each query's ranking, in the order of `Measure`.

    Args:
        scores: [m, n], larger is nearer.
        grades: [m, n], how closely each picture is related to the query; 0 for those that are not.
            In each row at least one is.

    Returns:
        float64 [4, m]. Precisions know no grades: whatever is related is right.
    """
    ranked = np.take_along_axis(grades, order_by_score(scores), axis=1)
    hits = ranked > 0
    precisions = hits.cumsum(axis=1) / np.arange(1, hits.shape[1] + 1)
    average = np.where(hits, precisions, 0.0).sum(axis=1) / hits.sum(axis=1)
    firsts, fives = hits[:, 0].astype(np.float64), hits[:, :5].sum(axis=1) / 5.0
    return np.stack([average, firsts, fives, _ndcg(ranked)])


def _ndcg(ranked: NDArray[np.intp]) -> NDArray[np.float64]:
    """Normalised discounted cumulative gain of the first N_FIRST, [m], from 0 to 1.

    DCG = Σ grade / log2(1 + rank), as a share of that of the best order. A picture's gain is its
    grade: one that shares two labels counts for two that share one. With the 2^grade - 1 of web
    search, one that shares six would count for sixty.

    Source: Järvelin, Kekäläinen, Cumulated Gain-Based Evaluation of IR Techniques, ACM TOIS 20(4),
    2002. The discount log2(1 + rank) is that of Burges and others, Learning to Rank using Gradient
    Descent, ICML 2005: that of 2002 is 1 for the first two.

    Args:
        ranked: [m, n], the grades in the order of the ranking.
    """
    discounts = 1.0 / np.log2(np.arange(2, N_FIRST + 2))[: ranked.shape[1]]
    best = -np.sort(-ranked, axis=1)[:, :N_FIRST]
    gains: NDArray[np.float64] = (ranked[:, :N_FIRST] @ discounts) / (best @ discounts)
    return gains


def _weighted_mean(
    weights: tuple[float, ...], parts: list[NDArray[np.float64]]
) -> NDArray[np.float64]:
    weighted = [(w, part) for w, part in zip(weights, parts, strict=True) if w > 0]
    total: NDArray[np.float64] = np.add.reduce([weight * part for weight, part in weighted])
    return total / sum(weight for weight, _ in weighted)
