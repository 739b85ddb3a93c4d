"""Every figure of an evaluation against a slow and plain computation."""

from __future__ import annotations

from dataclasses import replace
from functools import cache
from itertools import pairwise
from math import fsum, log10
from typing import Any

import numpy as np
import pytest
from support.random_sets import MODELS, random_rows, random_set

from twinlens.models.calibration import FLOOR, LEVELS, Calibration, Measured
from twinlens.models.distances import Metric, pairwise_distances
from twinlens.models.fusion import Fusion, fuse, line_of, similarity
from twinlens.models.rerank import N_RERANKED, rerank
from twinlens.models.workbench.edits import Edits
from twinlens.models.workbench.embeddings import Embedded, sort_by_id
from twinlens.models.workbench.evaluate import evaluate
from twinlens.models.workbench.labels import Labelled
from twinlens.models.workbench.recipes import Method, Recipe
from twinlens.models.workbench.scores import (
    Neighbourhoods,
    View,
    blocks_of,
    calibrate_all,
    fuse_scores,
    order_by_score,
    similarities,
    view_of,
)
from twinlens.shared.settings import Settings


def slow_distance(left: Any, right: Any, model: Measured) -> float:
    return _distance(tuple(left.tolist()), tuple(right.tolist()), model.metric)


@cache  # of the same pairs for every recipe
def _distance(left: tuple[Any, ...], right: tuple[Any, ...], metric: Metric) -> float:
    pairs = [*zip(left, right, strict=True)]
    if metric is Metric.HAMMING:
        return float(sum((a ^ b).bit_count() for a, b in pairs))
    if metric is Metric.L2:
        return fsum((a - b) ** 2 for a, b in pairs)
    product = fsum(a * b for a, b in pairs)
    if metric is Metric.IP:
        return product
    return float(product / fsum(a * a for a in left) ** 0.5 / fsum(b * b for b in right) ** 0.5)


def slow_evidence(distance: float, model: Measured, calibration: Calibration) -> float:
    start, slope = line_of(model.metric, model.dimension)
    cosine = min(1.0, max(-1.0, start + slope * distance))
    last = calibration.cosines[-1]
    if cosine >= last:
        rest = (1.0 - cosine) / (1.0 - last)
        return calibration.exponent * log10((1.0 + FLOOR) / (rest + FLOOR)) - log10(LEVELS[-1])
    points = [(-1.0, 0.0), *zip(calibration.cosines, (-log10(p) for p in LEVELS), strict=True)]
    for (low, first), (high, second) in pairwise(points):
        if cosine <= high:
            return first + (second - first) * (cosine - low) / (high - low)
    raise AssertionError(cosine)


def slow_scores(embedded: Embedded, row: dict[str, Any], recipe: Recipe) -> dict[str, float]:
    """The score of every picture for one query, by image id."""
    distances = {
        name: {
            image_id: slow_distance(row[name], other, MODELS[name])
            for image_id, other in zip(embedded.image_ids, embedded.rows[name], strict=True)
        }
        for name in recipe.models
    }
    if recipe.method is Method.SINGLE:
        [name] = recipe.models
        sign = 1 if MODELS[name].metric in (Metric.IP, Metric.COSINE) else -1
        return {i: sign * d for i, d in distances[name].items()}
    similar = {
        name: {
            i: similarity(d, MODELS[name].metric, MODELS[name].dimension) for i, d in by_id.items()
        }
        for name, by_id in distances.items()
    }
    calibrations = calibrate_all(sort_by_id(embedded))
    evidence = {
        name: {i: slow_evidence(d, MODELS[name], calibrations[name]) for i, d in by_id.items()}
        for name, by_id in distances.items()
    }
    seen = [evidence[name] for name in recipe.models]
    weights = recipe.weights or (1.0,) * len(seen)
    match recipe.method:
        case Method.CALIBRATED | Method.WEIGHTED:
            parts = similar if recipe.method is Method.WEIGHTED else evidence
            return {
                i: fsum(w * parts[name][i] for w, name in zip(weights, recipe.models, strict=True))
                / fsum(weights)
                for i in embedded.image_ids
            }
        case Method.MAX:
            return {i: max(one[i] for one in seen) for i in embedded.image_ids}
        case Method.MIN:
            return {i: min(one[i] for one in seen) for i in embedded.image_ids}
    raise AssertionError(recipe)


def slow_ranking(scores: dict[str, float], own: str | None) -> list[str]:
    # Rounded: sums of the same numbers in another order differ by their last bits.
    others = [image_id for image_id in scores if image_id != own]
    return sorted(others, key=lambda image_id: (-round(scores[image_id], 9), image_id))


def slow_rrf(embedded: Embedded, row: dict[str, Any], recipe: Recipe, own: str | None) -> list[str]:
    scores = dict.fromkeys(embedded.image_ids, 0.0)
    for name in recipe.models:
        single = slow_scores(embedded, row, Recipe((name,), Method.SINGLE))
        for rank, image_id in enumerate(slow_ranking(single, own), start=1):
            scores[image_id] += 1.0 / (60 + rank)
    return slow_ranking(scores, own)


def slow_reranking(
    embedded: Embedded, row: dict[str, Any], recipe: Recipe, ranking: list[str], own: str | None
) -> list[str]:
    """A ranking with its first re-ranked: those that a model has among its own N_RERANKED.

    `rerank` has tests of its own, which compare it with the paper.
    """
    singles = [slow_scores(embedded, row, Recipe((n,), Method.SINGLE)) for n in recipe.models]
    listed = {i for single in singles for i in slow_ranking(single, own)[:N_RERANKED]}
    first = [image_id for image_id in ranking if image_id in listed][:N_RERANKED]
    rows = [row]
    for image_id in first:
        place = embedded.image_ids.index(image_id)
        rows.append({name: embedded.rows[name][place] for name in recipe.models})
    weights = dict(zip(recipe.models, recipe.weights or (1.0,) * len(recipe.models), strict=True))
    alike = [
        [
            fsum(
                weights[n]
                * similarity(
                    slow_distance(a[n], b[n], MODELS[n]), MODELS[n].metric, MODELS[n].dimension
                )
                for n in recipe.models
            )
            / fsum(weights.values())
            for b in rows
        ]
        for a in rows
    ]
    reranked = [first[place] for place in rerank(np.array(alike))]
    return reranked + [image_id for image_id in ranking if image_id not in first]


def slow_order(
    embedded: Embedded, row: dict[str, Any], recipe: Recipe, own: str | None
) -> list[str]:
    if recipe.method is Method.RRF:
        ranking = slow_rrf(embedded, row, recipe, own)
    else:
        ranking = slow_ranking(slow_scores(embedded, row, recipe), own)
    return slow_reranking(embedded, row, recipe, ranking, own) if recipe.is_reranked else ranking


def slow_measures(
    embedded: Embedded, pictures: list[Labelled], recipe: Recipe
) -> tuple[float, float, float]:
    """mAP, precision@1 and precision@5, query after query."""
    labels = dict(zip(embedded.image_ids, (p.label for p in pictures), strict=True))
    measures = []
    for place, own in enumerate(embedded.image_ids):
        n_relevant = [*labels.values()].count(labels[own]) - 1
        if n_relevant < 2:
            continue
        row = {name: rows[place] for name, rows in embedded.rows.items()}
        order = slow_order(embedded, row, recipe, own)
        hits = [labels[image_id] == labels[own] for image_id in order]
        precisions = [sum(hits[:rank]) / rank for rank in range(1, len(hits) + 1) if hits[rank - 1]]
        measures.append((fsum(precisions) / n_relevant, float(hits[0]), sum(hits[:5]) / 5))
    means = [fsum(column) / len(measures) for column in zip(*measures, strict=True)]
    return means[0], means[1], means[2]


@pytest.mark.parametrize("name", MODELS)
def test_distances_are_those_of_milvus_and_similarities_those_of_a_search(name: str) -> None:
    embedded, _ = random_set()
    rows, model = embedded.rows[name], MODELS[name]

    distances = pairwise_distances(rows[:4], rows, model)

    slow = [[slow_distance(left, right, model) for right in rows] for left in rows[:4]]
    assert distances == pytest.approx(np.array(slow), abs=1e-6)
    scores = similarities(distances, model)
    assert scores.tolist() == [
        [similarity(d, model.metric, model.dimension) for d in row] for row in distances.tolist()
    ]
    assert (scores == 0).any()


@pytest.mark.parametrize("seed", range(3))
def test_every_recipe_measures_what_a_slow_computation_does(seed: int) -> None:
    embedded, pictures = random_set(seed=seed)
    evaluation = evaluate(embedded, pictures, n_bootstrap=5)

    checked = [one for one in evaluation.contenders if not one.is_tuned]
    assert {one.recipe.method for one in checked} == set(Method)
    for one in checked:
        estimates = (one.mean_average_precision, one.precision_at_1, one.precision_at_5)
        slow = slow_measures(embedded, pictures, one.recipe)
        assert [estimate.value for estimate in estimates] == pytest.approx(slow), one.title
    for recipe, value in evaluation.tried[:20]:
        assert value == pytest.approx(slow_measures(embedded, pictures, recipe)[0]), recipe
    assert (evaluation.n_pictures, evaluation.n_queries) == (18, 15)
    assert (evaluation.n_labels, evaluation.n_query_labels) == (5, 3)


def test_what_no_model_lists_is_not_re_ranked() -> None:
    models = {name: MODELS[name] for name in ("bits", "l2")}
    embedded, _ = random_set((4,) * N_RERANKED, models=models)
    gallery = sort_by_id(embedded)
    queries = np.arange(3)
    calibrations = calibrate_all(gallery)
    views = {name: view_of(gallery, name, queries, calibrations[name]) for name in models}
    # Of that, whose smaller evidence is the largest, much is far down in both lists.
    recipe = Recipe(("bits", "l2"), Method.MIN)
    scores = fuse_scores(recipe, views)

    order = order_by_score(Neighbourhoods(gallery, views, queries).rerank(scores, recipe))

    is_unlisted_among_first = False
    for place, own in enumerate(gallery.image_ids[:3]):
        row = {name: rows[place] for name, rows in gallery.rows.items()}
        ranking = [gallery.image_ids[i] for i in order[place][:-1]]
        assert ranking == slow_order(gallery, row, recipe, own)
        best_rank = np.minimum(views["bits"].ranks[place], views["l2"].ranks[place])
        first = order_by_score(scores)[place, :N_RERANKED]
        is_unlisted_among_first |= bool((best_rank[first] > N_RERANKED).any())
    assert is_unlisted_among_first


def test_as_many_are_listed_as_a_search_asks_each_model_for() -> None:
    assert Settings.model_fields["search_candidates"].default == N_RERANKED


def test_more_queries_than_one_block_are_all_measured() -> None:
    embedded, pictures = random_set((101,) * 10, models={"l2": MODELS["l2"]})
    blocks = blocks_of(np.arange(1010), 1010)
    assert [len(block) for block in blocks] == [64] * 15 + [50]
    assert np.concatenate(blocks).tolist() == list(range(1010))

    contenders = evaluate(embedded, pictures, n_bootstrap=5).contenders

    [contender] = [one for one in contenders if not one.recipe.is_reranked]
    nearness = embedded.rows["l2"] @ embedded.rows["l2"].T
    np.fill_diagonal(nearness, -2.0)
    labels = np.array([picture.label for picture in pictures])
    assert contender.precision_at_1.value == np.mean(labels[nearness.argmax(axis=1)] == labels)


def test_near_duplicates_must_find_their_original_first() -> None:
    embedded, pictures = random_set()
    rng = np.random.default_rng(5)
    codes = np.array([int(picture.label[-1]) for picture in pictures])
    places = rng.integers(0, len(codes), 40)
    rows = {name: random_rows(model, codes[places], rng) for name, model in MODELS.items()}
    edits = Edits(tuple(embedded.image_ids[i] for i in places), ("flip",) * 40, rows)

    evaluation = evaluate(embedded, pictures, edits, n_bootstrap=10)

    assert evaluation.n_edits == 40
    for contender in evaluation.contenders:
        # Whatever is re-ranked, the first stays.
        recipe = replace(contender.recipe, is_reranked=False)
        firsts = [
            slow_order(embedded, {n: r[i] for n, r in rows.items()}, recipe, None)[0]
            for i in range(40)
        ]
        slow = sum(a == b for a, b in zip(firsts, edits.originals, strict=True)) / 40
        assert contender.near_duplicates is not None
        assert contender.near_duplicates.value == pytest.approx(slow), contender.title


def test_a_gallery_is_calibrated_on_a_sample() -> None:
    small, _ = random_set(models={"l2": MODELS["l2"]})
    large, _ = random_set((101,) * 10, models={"l2": MODELS["l2"]})

    calibrations = [calibrate_all(gallery)["l2"] for gallery in (small, large)]

    counts = [(one.n_pictures, one.n_pairs) for one in calibrations]
    assert counts == [(18, 153), (1010, 512 * 511 // 2)]


@pytest.mark.parametrize(
    ("method", "fusion"),
    [
        (Method.CALIBRATED, Fusion.CALIBRATED),
        (Method.WEIGHTED, Fusion.WEIGHTED),
        (Method.RRF, Fusion.RRF),
        (Method.MAX, Fusion.MAX),
        (Method.MIN, Fusion.MIN),
    ],
)
def test_the_order_of_a_method_is_that_of_a_search(method: Method, fusion: Fusion) -> None:
    embedded, _ = random_set()
    embedded = sort_by_id(embedded)
    calibrations = calibrate_all(embedded)
    names = tuple(sorted(MODELS))
    views = {
        name: View(
            MODELS[name],
            pairwise_distances(embedded.rows[name][:1], embedded.rows[name], MODELS[name]),
            calibration=calibrations[name],
        )
        for name in names
    }
    weights = (1.0, 0.2, 0.5, 1.0) if method in (Method.CALIBRATED, Method.WEIGHTED) else (1.0,) * 4

    scores = fuse_scores(Recipe(names, method, weights), views)[0]

    distances = {
        name: dict(zip(embedded.image_ids, view.distances[0].tolist(), strict=True))
        for name, view in views.items()
    }
    fused = fuse(
        distances,
        MODELS,
        dict(zip(names, weights, strict=True)),
        fusion=fusion,
        calibrations=calibrations,
    )
    by_id = dict(zip(embedded.image_ids, scores.tolist(), strict=True))
    assert slow_ranking(by_id, None) == [entry.image_id for entry in fused]
    if fusion is Fusion.WEIGHTED:
        assert [by_id[entry.image_id] for entry in fused] == pytest.approx(
            [entry.score for entry in fused], abs=1e-12
        )
