"""Combines what several models say of the same pictures. Pure: no model, store or array here."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from math import fsum, isfinite
from typing import NamedTuple, Protocol

from twinlens.models.card import Metric

Distances = Mapping[str, float]


class Measured(Protocol):
    """What fusion must know of a model; a `Card` is one."""

    @property
    def metric(self) -> Metric:
        """What its distances are."""

    @property
    def dimension(self) -> int:
        """Numbers or bits of an embedding."""


class ModelView(NamedTuple):
    """One model's view of one candidate.

    `rank` is from 1 among the candidates that the model has a distance of. Where it has none,
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
class Agreement:
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
        distance: as Milvus gives it; for L2 the squared distance, for IP and COSINE the product.
        metric: what it is.
        dimension: numbers or bits of an embedding.
    """
    start, slope = line_of(metric, dimension)
    return _clip(start + slope * distance)


def fuse(
    distances: Mapping[str, Distances],
    models: Mapping[str, Measured],
    weights: Mapping[str, float],
    limit: int | None = None,
) -> list[FusedEntry]:
    """Ranks candidates by the weighted mean of their similarities.

    Every candidate should have every model's distance: one that is missing counts as similarity
    0, so the caller fetches those that a search of its own did not bring. A model of weight 0 is
    shown but neither counts nor brings candidates of its own; if all weights are 0, all count
    the same.

    Args:
        distances: by model, then by image_id.
        models: metric and dimension, by model.
        weights: by model, 0 or more.
        limit: how many of the best are wanted; all by default.

    Returns:
        Each of them once, the highest score first, equal scores by image_id.

    Raises:
        ValueError: a model of `distances` has no weight, or a negative or infinite one.
    """
    counted = list(shares_of(weights, distances).items())
    scores = {name: _similarities(distances[name], models[name]) for name in distances}
    ranks = {name: _ranks(distances[name], models[name]) for name in distances}
    fused = {
        image_id: min(1.0, fsum(share * scores[name].get(image_id, 0.0) for name, share in counted))
        for image_id in {image_id for name, _ in counted for image_id in distances[name]}
    }
    # Views are made of the best alone: 200 candidates took half a millisecond.
    best = sorted((-score, image_id) for image_id, score in fused.items())[:limit]
    return [
        FusedEntry(
            image_id,
            -negated,
            {
                name: ModelView(
                    ranks[name].get(image_id),
                    distances[name].get(image_id),
                    scores[name].get(image_id, 0.0),
                )
                for name in sorted(distances)
            },
        )
        for negated, image_id in best
    ]


def agreement(rankings: Mapping[str, Sequence[str]], k: int) -> Agreement | None:
    """Says how far models agree on the nearest pictures.

    Overlap: the ids in both first k, divided by k (by the longer list where both are shorter).
    Rank correlation: Spearman's, over the ids that both models rank, ranked anew among those:
    1 - 6 Σd² / (n (n² - 1)).

    Source: Spearman, The Proof and Measurement of Association between Two Things, 1904.

    Args:
        rankings: by model, image_ids without repetition, the nearest first.
        k: how many of the nearest to compare, 1 or more.

    Returns:
        Means over all pairs of models; None when there are fewer than two models.
    """
    pairs = list(combinations([rankings[name] for name in sorted(rankings)], 2))
    if not pairs:
        return None
    overlaps = [_overlap(first[:k], second[:k]) for first, second in pairs]
    found = [_rank_correlation(first, second) for first, second in pairs]
    correlations = [value for value in found if value is not None]
    return Agreement(
        overlap_at_k=fsum(overlaps) / len(overlaps),
        rank_correlation=fsum(correlations) / len(correlations) if correlations else None,
    )


def shares_of(weights: Mapping[str, float], names: Iterable[str]) -> dict[str, float]:
    """Returns the shares of the models that count, together 1, by name.

    A model of weight 0 does not count, unless all are 0: then all count the same.

    Args:
        weights: by model, 0 or more.
        names: the models.

    Raises:
        ValueError: a model has no weight, or a negative or infinite one.
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


def _similarities(distances: Distances, model: Measured) -> dict[str, float]:
    start, slope = line_of(model.metric, model.dimension)
    return {image_id: _clip(start + slope * far) for image_id, far in distances.items()}


def _ranks(distances: Distances, model: Measured) -> dict[str, int]:
    # By distance and not by score: scores are clipped, which makes ties of what is not.
    sign = -1.0 if model.metric in (Metric.IP, Metric.COSINE) else 1.0
    ordered = sorted((sign * far, image_id) for image_id, far in distances.items())
    return {image_id: rank for rank, (_, image_id) in enumerate(ordered, start=1)}


def _overlap(first: Sequence[str], second: Sequence[str]) -> float:
    longest = max(len(first), len(second))
    return len(set(first) & set(second)) / longest if longest else 1.0


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
