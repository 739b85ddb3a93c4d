"""Combines what several models say about the same pictures. Pure: no model or store here."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from itertools import combinations
from math import fsum, isfinite
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from twinlens.models.calibration import Calibration, Measured, prior_of, score_of
from twinlens.models.distances import Metric

Distances = Mapping[str, float]

# Cormack, Clarke, Büttcher, Reciprocal Rank Fusion outperforms Condorcet and individual Rank
# Learning Methods, 2009: k = 60 was near the best in their pilot and kept.
RRF_K = 60


class Fusion(StrEnum):
    """How several models' distances become one score. F is the share of unrelated pairs this near.

    - CALIBRATED: 1 - Π F^share, the weighted geometric mean of the shares F. Sources: Fisher,
      Statistical Methods for Research Workers, 1925, section 21.1; with weights Good, On the
      Weighted Combination of Significance Tests, 1955.
    - WEIGHTED: the weighted mean of similarities.
    - RRF: the weighted sum of 1 / (RRF_K + rank), scaled so that first everywhere is 1. Source:
      Cormack and others, 2009; weights are ours.
    - MAX, MIN: the largest, or the smallest, of 1 - F.
    """

    CALIBRATED = "calibrated"
    WEIGHTED = "weighted"
    RRF = "rrf"
    MAX = "max"
    MIN = "min"


class ModelView(NamedTuple):
    """One model's view of one candidate.

    `rank` is from 1 among the candidates that the model has a distance of. `score` is calibrated:
    1 less the share of unrelated pairs that are at least as near. Where the model has no distance,
    rank and distance are None and score is 0.
    """

    rank: int | None
    distance: float | None
    score: float


class FusedEntry(NamedTuple):
    """A candidate: its fused score from 0 to 1, larger is nearer, and each model's view of it."""

    image_id: str
    score: float
    models: Mapping[str, ModelView]


@dataclass(frozen=True)
class RankAgreement:
    """How far models agree, as means over all pairs of them.

    `overlap_at_k` is from 0 to 1. `rank_correlation` is from -1 to 1; None where no pair of
    models has two ids in common.
    """

    overlap_at_k: float
    rank_correlation: float | None


def similarity(distance: float, metric: Metric, dimension: int) -> float:
    """Turns a distance into a score from 0 to 1: the cosine, with opposites (below 0) taken as 0.

    Of unit vectors |a - b|² = 2 - 2 cos(a, b). Of bits, as +1 and -1, cos = 1 - 2 different / all.

    >>> similarity(0.5, Metric.L2, 1280)
    0.75
    >>> similarity(16, Metric.HAMMING, 64)
    0.5

    Args:
        distance: As Milvus gives it; for L2 the squared distance, for IP and COSINE the product.
        metric: The metric of the distance.
        dimension: Numbers or bits of an embedding.
    """
    start, slope = line_of(metric, dimension)
    return _clip(start + slope * distance)


def fuse(  # noqa: PLR0913 - the last two are options, and passed by name
    distances: Mapping[str, Distances],
    models: Mapping[str, Measured],
    weights: Mapping[str, float],
    limit: int | None = None,
    *,
    fusion: Fusion = Fusion.CALIBRATED,
    calibrations: Mapping[str, Calibration] | None = None,
) -> list[FusedEntry]:
    """Ranks candidates by what all models say about them.

    Every candidate should have every model's distance: one that is missing counts as score 0, so
    the caller fetches those that a search of its own did not bring. A model of weight 0 is shown
    but neither counts nor brings candidates of its own; if all weights are 0, all count the same.
    MAX and MIN ignore all other weights.

    Args:
        distances: Distances by model, then by image_id.
        models: Metric and dimension by model.
        weights: Weights by model, 0 or more.
        limit: How many of the best are wanted; all by default.
        fusion: How the distances are combined.
        calibrations: The library's calibrations by model; `prior_of` the model where there is none.

    Returns:
        Each candidate once, the best first, equal ones by image_id. Scores never rise from one to
        the next; where two are so close to 1 that they are equal, the nearer is still first.

    Raises:
        ValueError: A model of `distances` has no weight, or a negative or infinite one.
    """
    shares = shares_of(weights, distances)
    ids = sorted({image_id for name in shares for image_id in distances[name]})
    calibrations = calibrations or {}
    views = {
        name: _Column(own, ids, models[name], calibrations.get(name) or prior_of(models[name]))
        for name, own in sorted(distances.items())
    }
    keys, fused = _combine([(share, views[name]) for name, share in shares.items()], fusion)
    # Ids are sorted, so equal keys keep their order. Views are made of the best alone: 200
    # candidates took half a millisecond.
    order = np.argsort(-keys, kind="stable")[:limit].tolist()
    scores = fused[order].tolist()
    shown = {name: view.show(order) for name, view in views.items()}
    return [
        FusedEntry(ids[place], scores[i], {name: seen[i] for name, seen in shown.items()})
        for i, place in enumerate(order)
    ]


def agreement(rankings: Mapping[str, Sequence[str]], k: int) -> RankAgreement | None:
    """Measures how far models agree on the nearest pictures.

    Overlap: the ids in both first k, divided by k (by the longer list where both are shorter).
    Rank correlation: Spearman's, over the ids that both models rank, ranked anew among those:
    1 - 6 Σd² / (n (n² - 1)).

    Source: Spearman, The Proof and Measurement of Association between Two Things, 1904.

    Args:
        rankings: By model, image_ids without repetition, the nearest first.
        k: How many of the nearest to compare, 1 or more.

    Returns:
        Means over all pairs of models that rank anything; None when there are none.
    """
    ranked = [rankings[name] for name in sorted(rankings) if rankings[name]]
    pairs = list(combinations(ranked, 2))
    if not pairs:
        return None
    overlaps = [_overlap(first[:k], second[:k]) for first, second in pairs]
    measured = [_rank_correlation(first, second) for first, second in pairs]
    correlations = [value for value in measured if value is not None]
    return RankAgreement(
        overlap_at_k=fsum(overlaps) / len(overlaps),
        rank_correlation=fsum(correlations) / len(correlations) if correlations else None,
    )


def shares_of(weights: Mapping[str, float], names: Iterable[str]) -> dict[str, float]:
    """Returns the shares of the models that count, which add up to 1, by name.

    A model of weight 0 does not count, unless all are 0: then all count the same.

    Args:
        weights: Weights by model, 0 or more.
        names: The models.

    Raises:
        ValueError: A model has no weight, or a negative or infinite one.
    """
    names = sorted(names)
    for name in names:
        weight = weights.get(name)
        if weight is None or not isfinite(weight) or weight < 0:
            raise ValueError(f"model {name!r} has weight {weight}; give a number of 0 or more")
    counting = {name: weights[name] for name in names if weights[name] > 0}
    if not counting:
        counting = dict.fromkeys(names, 1.0)
    # By the largest first: the sum of very large weights would be infinite.
    largest = max(counting.values(), default=1.0)
    total = fsum(weight / largest for weight in counting.values())
    return {name: weight / largest / total for name, weight in counting.items()}


def line_of(metric: Metric, dimension: int) -> tuple[float, float]:
    """Returns the cosine at distance 0, and by how much it rises with the distance."""
    match metric:
        case Metric.L2:
            return 1.0, -0.5
        case Metric.IP | Metric.COSINE:
            return 0.0, 1.0
        case Metric.HAMMING:
            return 1.0, -2.0 / dimension


def _clip(cosine: float) -> float:
    # float32 rounding takes a picture's distance to itself below 0.
    return min(1.0, max(0.0, cosine))


class _Column:
    """One model's view of all candidates, in the order of their ids. NaN where it has none."""

    def __init__(
        self, own: Distances, ids: Sequence[str], model: Measured, calibration: Calibration
    ) -> None:
        self._own, self._ids = own, ids
        self._ranks = _ranks(own, model)
        start, slope = line_of(model.metric, model.dimension)
        missing = float("nan")
        distances = np.array([own.get(image_id, missing) for image_id in ids], np.float64)
        self.cosines = start + slope * distances
        self.evidence = np.nan_to_num(calibration.evidence(self.cosines), nan=0.0)

    @property
    def similarities(self) -> NDArray[np.float64]:
        return np.nan_to_num(np.clip(self.cosines, 0.0, 1.0), nan=0.0)

    @property
    def reciprocal_ranks(self) -> NDArray[np.float64]:
        """(RRF_K + 1) / (RRF_K + rank): 1 for the first, 0 where there is none."""
        ranks = np.array([self._ranks.get(image_id, np.inf) for image_id in self._ids])
        return np.asarray((RRF_K + 1.0) / (RRF_K + ranks))

    def show(self, places: Sequence[int]) -> list[ModelView]:
        scores = score_of(self.evidence[places]).tolist()
        ids = [self._ids[place] for place in places]
        return [
            ModelView(self._ranks.get(image_id), self._own.get(image_id), score)
            for image_id, score in zip(ids, scores, strict=True)
        ]


def _combine(
    counted: Sequence[tuple[float, _Column]], fusion: Fusion
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Returns what candidates are ordered by, and their scores. Scores near 1 may be equal."""
    keys: NDArray[np.float64]
    if not counted:
        return np.empty(0), np.empty(0)
    match fusion:
        case Fusion.CALIBRATED:
            keys = np.add.reduce([share * column.evidence for share, column in counted])
        case Fusion.MAX:
            keys = np.maximum.reduce([column.evidence for _, column in counted])
        case Fusion.MIN:
            keys = np.minimum.reduce([column.evidence for _, column in counted])
        case Fusion.WEIGHTED:
            keys = np.add.reduce([share * column.similarities for share, column in counted])
            return keys, np.minimum(keys, 1.0)
        case Fusion.RRF:
            keys = np.add.reduce([share * column.reciprocal_ranks for share, column in counted])
            return keys, np.minimum(keys, 1.0)
    return keys, score_of(keys)


def _ranks(distances: Distances, model: Measured) -> dict[str, int]:
    # By distance and not by score: scores are clipped, which makes ties of what is not.
    sign = model.metric.sign
    ordered = sorted((sign * far, image_id) for image_id, far in distances.items())
    return {image_id: rank for rank, (_, image_id) in enumerate(ordered, start=1)}


def _overlap(first: Sequence[str], second: Sequence[str]) -> float:
    longest = max(len(first), len(second))
    return len(set(first) & set(second)) / longest


def _rank_correlation(first: Sequence[str], second: Sequence[str]) -> float | None:
    shared = set(first) & set(second)
    n_shared = len(shared)
    if n_shared < 2:
        return None
    places = {image_id: place for place, image_id in enumerate(i for i in second if i in shared)}
    squares = sum(
        (place - places[image_id]) ** 2
        for place, image_id in enumerate(i for i in first if i in shared)
    )
    return 1.0 - 6.0 * squares / (n_shared * (n_shared**2 - 1))
