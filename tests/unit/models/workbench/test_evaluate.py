"""An evaluation: what it is of, what it recommends, and what it does not judge itself by."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from support.random_sets import Model, random_set

from twinlens.models.distances import Metric, pairwise_distances
from twinlens.models.errors import BadInput
from twinlens.models.fusion import line_of
from twinlens.models.workbench.embeddings import sort_by_id
from twinlens.models.workbench.evaluate import Evaluation, evaluate
from twinlens.models.workbench.labels import Labelled
from twinlens.models.workbench.recipes import Method, list_recipes
from twinlens.models.workbench.recommend import Contender
from twinlens.models.workbench.scores import (
    Neighbourhoods,
    calibrate_all,
    fuse_scores,
    measure_rankings,
    view_of,
)


def contender(evaluation: Evaluation, title: str) -> Contender:
    [one] = [one for one in evaluation.contenders if one.title == title]
    return one


def test_pictures_without_label_are_in_the_way_and_never_right() -> None:
    embedded, pictures = random_set((5, 4, 3))
    bare = [Labelled(p.path, "" if p.label == "label 2" else p.label) for p in pictures]

    evaluation = evaluate(embedded, bare, n_bootstrap=5)

    assert (evaluation.n_pictures, evaluation.n_queries, evaluation.n_labels) == (12, 9, 2)
    apart = [Labelled(p.path, p.label or f"own {p.path}") for p in bare]
    assert evaluation.contenders == evaluate(embedded, apart, n_bootstrap=5).contenders


def test_sources_are_measured_apart_where_there_are_two() -> None:
    embedded, pictures = random_set((5, 4, 3))
    of_two = [replace(p, source="ab"[p.label == "label 0"]) for p in pictures]

    whole = contender(evaluate(embedded, pictures, n_bootstrap=5), "l2")
    apart = contender(evaluate(embedded, of_two, n_bootstrap=5), "l2")

    assert whole.by_source == {}
    assert list(apart.by_source) == ["a", "b"]
    a, b = (apart.by_source[name].value for name in "ab")
    assert a != b
    assert (7 * a + 5 * b) / 12 == pytest.approx(apart.mean_average_precision.value)
    assert apart.mean_average_precision == whole.mean_average_precision


def test_the_share_of_rare_scores_is_of_pairs_of_different_labels() -> None:
    embedded, pictures = random_set((8, 8, 8, 8))

    shares = evaluate(embedded, pictures, n_bootstrap=5).rare_shares

    gallery = sort_by_id(embedded)
    labels = {picture.path: picture.label for picture in pictures}
    codes = np.array([labels[path] for path in gallery.files])
    for name, calibration in calibrate_all(gallery).items():
        rows, model = gallery.rows[name], gallery.models[name]
        start, slope = line_of(model.metric, model.dimension)
        scores = [
            calibration.score(start + slope * distance)
            for distance in pairwise_distances(rows, rows, model)[codes[:, None] != codes]
        ]
        assert shares[name] == pytest.approx(np.mean(np.array(scores) >= 0.99))
    assert 0.0 < max(shares.values()) < 0.2


def test_no_label_with_three_embedded_pictures_is_refused() -> None:
    embedded, pictures = random_set((2, 2, 1))

    with pytest.raises(BadInput, match="no label has 3 pictures that could be embedded"):
        evaluate(embedded, pictures)


def test_many_models_are_combined_in_pairs_and_all_together() -> None:
    def subsets(n_models: int) -> list[int]:
        recipes = list_recipes([f"m{i}" for i in range(n_models)])
        return sorted(len(names) for names in {recipe.models for recipe in recipes})

    assert subsets(1) == [1]
    assert subsets(3) == [1, 1, 1, 2, 2, 2, 3]
    assert subsets(5) == [1] * 5 + [2] * 10 + [5]
    listed = list_recipes("ab")
    calibrated = [recipe for recipe in listed if recipe.method is Method.CALIBRATED]
    weights = [recipe.weights for recipe in calibrated if recipe.is_reranked]
    assert weights == [(1, 1), (1, 0.5), (1, 0.2), (0.5, 1), (0.2, 1)]
    plain = [recipe.title for recipe in listed if not recipe.is_reranked]
    assert plain == ["a + b, calibrated, not re-ranked", "a, not re-ranked", "b, not re-ranked"]


def noisy_set(noises: dict[str, float], sizes: tuple[int, ...] = (10,) * 12) -> Any:
    """Models that see the same labels, each with its own noise."""
    rng = np.random.default_rng(3)
    models = {name: Model(Metric.L2, 24) for name in noises}
    embedded, pictures = random_set(sizes, models=models)
    codes = np.array([int(picture.label.split()[1]) for picture in pictures])
    centres = rng.normal(size=(len(sizes), 24))[codes]
    for name, noise in noises.items():
        rows = centres + rng.normal(size=centres.shape) * noise
        rows /= np.linalg.norm(rows, axis=1, keepdims=True)
        embedded.rows[name] = rows.astype(np.float32)  # type: ignore[index]
    return embedded, pictures


def test_models_that_help_each_other_are_combined_with_equal_weights() -> None:
    recommendation = evaluate(*noisy_set({"a": 1.5, "b": 1.5})).recommendation

    assert recommendation.weights == {"a": 1.0, "b": 1.0}
    assert recommendation.sentence.startswith("Combine a + b, calibrated: mAP 0.")
    assert " above " in recommendation.sentence


def test_a_model_that_adds_nothing_is_left_away() -> None:
    evaluation = evaluate(*noisy_set({"good": 1.0, "noise": 50.0}))

    assert evaluation.recommendation.weights == {"good": 1.0}
    assert evaluation.recommendation.sentence.startswith("Use good alone: mAP 0.")
    assert contender(evaluation, "good").gain.value == 0.0
    assert contender(evaluation, "noise").gain.high < 0.0


def test_a_combination_that_may_be_better_by_chance_alone_is_not_recommended() -> None:
    evaluation = evaluate(*noisy_set({"strong": 1.2, "weak": 3.5}))

    combined = contender(evaluation, "strong + weak, calibrated, 1 : 0.2 (chosen)")
    assert combined.gain.low < 0.0 < combined.gain.value
    assert evaluation.recommendation.weights == {"strong": 1.0}
    said = evaluation.recommendation.sentence
    assert "above it, which may be chance: a difference of this size takes some " in said
    assert said.endswith(" queries to be seen, and there are 120.")


def test_a_weaker_model_weighs_less_when_that_is_clearly_better() -> None:
    evaluation = evaluate(*noisy_set({"strong": 1.2, "weak": 2.0}))

    weights = evaluation.recommendation.weights
    assert weights["strong"] == 1.0
    assert weights["weak"] < 1.0
    assert evaluation.recommendation.sentence.startswith("Combine strong + weak, calibrated, 1 : ")


def test_one_model_alone_is_recommended_for_want_of_another() -> None:
    recommendation = evaluate(*noisy_set({"only": 1.0})).recommendation

    assert recommendation.weights == {"only": 1.0}
    assert "give more models" in recommendation.sentence


def test_weights_are_not_judged_by_the_labels_that_they_were_chosen_by() -> None:
    # Noise alone: whatever weights look best do so by chance.
    gaps = []
    for seed in range(8):
        models = {name: Model(Metric.L2, 4) for name in ("a", "b")}
        embedded, pictures = random_set((3,) * 10, seed=seed, models=models)
        rng = np.random.default_rng(seed)
        for name in models:
            rows = rng.normal(size=(30, 4))
            rows /= np.linalg.norm(rows, axis=1, keepdims=True)
            embedded.rows[name] = rows.astype(np.float32)  # type: ignore[index]
        evaluation = evaluate(embedded, pictures, seed=seed, n_bootstrap=5)
        by_recipe = dict(evaluation.tried)
        gaps += [
            by_recipe[one.recipe] - one.mean_average_precision.value
            for one in evaluation.contenders
            if one.is_tuned
        ]
    assert len(gaps) >= 4
    assert np.mean(gaps) > 0.005
    assert min(gaps) >= -1e-9


@pytest.mark.parametrize("n_labels", [2, 4])
def test_a_query_is_measured_with_the_weights_that_are_best_for_the_other_labels(
    n_labels: int,
) -> None:
    # The one model sees all labels but the last, the other that one: they want other weights.
    embedded, pictures = noisy_set({"a": 1.0, "b": 1.0}, (6,) * n_labels)
    codes = np.array([int(picture.label.split()[1]) for picture in pictures])
    rng = np.random.default_rng(1)
    for name in "ab":
        rows = embedded.rows[name] + rng.normal(size=(len(codes), 24)) * np.where(
            (codes < n_labels - 1) == (name == "a"), 0.05, 0.4
        ).reshape(-1, 1)
        rows /= np.linalg.norm(rows, axis=1, keepdims=True)
        embedded.rows[name] = rows.astype(np.float32)

    evaluation = evaluate(embedded, pictures, n_bootstrap=5)

    gallery = sort_by_id(embedded)
    labels = {picture.path: picture.label for picture in pictures}
    named = np.array([labels[path] for path in gallery.files])
    queries = np.arange(len(named))
    is_relevant = (named[:, None] == named) & ~np.eye(len(named), dtype=bool)
    calibrations = calibrate_all(gallery)
    views = {name: view_of(gallery, name, queries, calibrations[name]) for name in "ab"}
    tuned = [one for one in evaluation.contenders if one.is_tuned]
    assert tuned
    near = Neighbourhoods(gallery, views, queries)
    for one in tuned:
        grid = [r for r in list_recipes("ab") if r.method is one.recipe.method and r.is_reranked]
        scores = [near.rerank(fuse_scores(recipe, views), recipe) for recipe in grid]
        grades = is_relevant.astype(np.intp)
        precisions = np.array([measure_rankings(each, grades)[0] for each in scores])
        best = {label: precisions[:, named != label].mean(axis=1).argmax() for label in set(named)}
        expected = np.mean([precisions[best[label], i] for i, label in enumerate(named)])
        assert one.mean_average_precision.value == pytest.approx(expected)
        assert expected < precisions.mean(axis=1).max() - 1e-3
    assert evaluation.n_folds == n_labels


def test_there_are_no_more_folds_than_five() -> None:
    assert evaluate(*noisy_set({"a": 1.0, "b": 1.0}, (3,) * 7), n_bootstrap=5).n_folds == 5


def test_the_interval_is_that_of_resampled_queries() -> None:
    embedded, pictures = random_set((10,) * 6)
    evaluation = evaluate(embedded, pictures, n_bootstrap=4000)

    estimate = contender(evaluation, "l2").precision_at_1
    n_queries, share = 60, estimate.value
    half = 1.96 * (share * (1 - share) / n_queries) ** 0.5
    assert (estimate.low, estimate.high) == pytest.approx((share - half, share + half), abs=0.03)
