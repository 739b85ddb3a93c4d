"""What holds for an evaluation whatever the pictures, labels and models are."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path
from random import Random
from typing import Any

import numpy as np
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from twinlens.models.calibration import Calibration
from twinlens.models.distances import Metric, pairwise_distances
from twinlens.models.workbench.edits import Edits
from twinlens.models.workbench.embeddings import Embedded
from twinlens.models.workbench.evaluate import Evaluation, evaluate
from twinlens.models.workbench.intervals import Estimate
from twinlens.models.workbench.labels import Labelled
from twinlens.models.workbench.recipes import Method, Recipe
from twinlens.models.workbench.scores import (
    View,
    fuse_scores,
    measure_rankings,
    order_by_score,
)


@dataclass(frozen=True)
class Model:
    metric: Metric
    dimension: int
    calibration: Calibration | None = None


@dataclass(frozen=True)
class Case:
    """An evaluation to be."""

    embedded: Embedded
    pictures: list[Labelled]
    edits: Edits

    def evaluate(self, n_bootstrap: int = 20) -> Evaluation:
        return evaluate(self.embedded, self.pictures, self.edits, n_bootstrap=n_bootstrap)


MODELS = {
    "bits": Model(Metric.HAMMING, 8),
    "cos": Model(Metric.COSINE, 3),
    "l2": Model(Metric.L2, 4),
}
SIZES = st.lists(st.integers(1, 5), min_size=1, max_size=5).filter(lambda sizes: max(sizes) >= 3)
NAMES = st.lists(st.sampled_from(sorted(MODELS)), min_size=1, unique=True)
WEIGHTS = st.sampled_from((0.1, 0.2, 0.5, 1.0, 3.0))


def make_rows(model: Model, n_rows: int, rng: np.random.Generator) -> NDArray[Any]:
    if model.metric is Metric.HAMMING:
        return rng.integers(0, 256, (n_rows, model.dimension // 8), np.uint8)
    # Whole numbers, so that distances are equal now and then.
    rows = rng.integers(-1, 2, (n_rows, model.dimension)) + [0.5] * model.dimension
    unit: NDArray[Any] = rows / np.linalg.norm(rows, axis=1, keepdims=True)
    return unit.astype(np.float32)


@st.composite
def cases(draw: st.DrawFn) -> Case:
    sizes, names = draw(SIZES), draw(NAMES)
    rng = np.random.default_rng(draw(st.integers(0, 1000)))
    codes = rng.permutation(np.repeat(np.arange(len(sizes)), sizes)).tolist()
    files = tuple(Path(f"{place}.jpg") for place in range(len(codes)))
    image_ids = tuple(hashlib.sha256(file.name.encode()).hexdigest() for file in files)
    models = {name: MODELS[name] for name in names}
    rows = {name: make_rows(model, len(files), rng) for name, model in models.items()}
    labels = [Labelled(file, str(code)) for file, code in zip(files, codes, strict=True)]
    originals = tuple(image_ids[place] for place in rng.integers(0, len(files), 4))
    edited = {name: make_rows(model, 4, rng) for name, model in models.items()}
    return Case(
        Embedded(files, image_ids, rows, models), labels, Edits(originals, ("flip",) * 4, edited)
    )


def shuffled(embedded: Embedded, order: list[int]) -> Embedded:
    return Embedded(
        files=tuple(embedded.files[place] for place in order),
        image_ids=tuple(embedded.image_ids[place] for place in order),
        rows={name: rows[order] for name, rows in embedded.rows.items()},
        models=embedded.models,
    )


@given(cases(), st.randoms(use_true_random=False))
def test_the_order_of_pictures_and_models_changes_nothing(case: Case, rng: Random) -> None:
    order = list(range(len(case.pictures)))
    rng.shuffle(order)
    names = sorted(case.embedded.models, key=lambda _: rng.random())
    moved = shuffled(case.embedded, order)
    moved = Embedded(
        files=moved.files,
        image_ids=moved.image_ids,
        rows={name: moved.rows[name] for name in names},
        models={name: moved.models[name] for name in names},
    )
    pictures = sorted(case.pictures, key=lambda _: rng.random())

    assert Case(moved, pictures, case.edits).evaluate() == case.evaluate()


@given(cases(), st.sampled_from((1, 20)))
def test_all_is_in_its_bounds_and_every_interval_has_its_estimate(
    case: Case, n_bootstrap: int
) -> None:
    evaluation = case.evaluate(n_bootstrap)

    assert {contender.recipe.models for contender in evaluation.contenders} >= {
        (name,) for name in case.embedded.models
    }
    for contender in evaluation.contenders:
        assert contender.near_duplicates is not None
        shares = (
            contender.mean_average_precision,
            contender.precision_at_1,
            contender.precision_at_5,
            contender.near_duplicates,
        )
        for estimate in shares:
            assert 0.0 <= estimate.low <= estimate.value <= estimate.high <= 1.0
        assert -1.0 <= contender.gain.low <= contender.gain.value <= contender.gain.high <= 1.0
    assert all(0.0 <= value <= 1.0 for _, value in evaluation.tried)
    values = [contender.mean_average_precision.value for contender in evaluation.contenders]
    assert values == sorted(values, reverse=True)


@given(cases())
def test_what_is_recommended_was_measured_and_can_be_set_as_weights(case: Case) -> None:
    evaluation = case.evaluate()
    recipe = evaluation.recommendation.recipe

    assert recipe in [contender.recipe for contender in evaluation.contenders]
    assert recipe.method in (Method.SINGLE, Method.CALIBRATED)
    assert recipe.is_reranked
    assert tuple(evaluation.recommendation.weights) == recipe.models
    assert max(evaluation.recommendation.weights.values()) == 1.0
    assert min(evaluation.recommendation.weights.values()) > 0.0


@given(SIZES, st.integers(0, 1000))
def test_a_perfect_model_has_a_map_of_1_alone_and_beside_another(
    sizes: list[int], seed: int
) -> None:
    codes = np.random.default_rng(seed).permutation(np.repeat(np.arange(len(sizes)), sizes))
    files = tuple(Path(f"{place}.jpg") for place in range(len(codes)))
    rows = np.eye(5, dtype=np.float32)[codes]
    models = {name: Model(Metric.L2, 5) for name in "ab"}
    image_ids = tuple(f"{place:064x}" for place in range(len(codes)))
    embedded = Embedded(files, image_ids, {"a": rows, "b": rows}, models)
    pictures = [Labelled(file, str(code)) for file, code in zip(files, codes, strict=True)]

    evaluation = evaluate(embedded, pictures, n_bootstrap=20)

    for contender in evaluation.contenders:
        assert contender.mean_average_precision == Estimate(1.0, 1.0, 1.0)
        assert contender.precision_at_1 == Estimate(1.0, 1.0, 1.0)
    assert len(evaluation.recommendation.weights) == 1


@given(st.integers(0, 1000), WEIGHTS, WEIGHTS)
def test_a_model_of_weight_0_changes_nothing(seed: int, first: float, second: float) -> None:
    rng = np.random.default_rng(seed)
    rows = {name: make_rows(model, 9, rng) for name, model in MODELS.items()}
    views = {
        name: View(model, pairwise_distances(rows[name], rows[name], model), np.arange(9))
        for name, model in MODELS.items()
    }

    with_it = Recipe(("bits", "cos", "l2"), Method.WEIGHTED, (first, 0.0, second))
    without = Recipe(("bits", "l2"), Method.WEIGHTED, (first, second))

    assert np.array_equal(fuse_scores(with_it, views), fuse_scores(without, views))


@given(cases(), st.sampled_from(Method))
def test_a_query_never_finds_itself(case: Case, method: Method) -> None:
    gallery = case.embedded
    own = np.arange(len(gallery.files))
    views = {
        name: View(model, pairwise_distances(gallery.rows[name], gallery.rows[name], model), own)
        for name, model in gallery.models.items()
    }
    names = tuple(sorted(views))[: 1 if method is Method.SINGLE else None]

    scores = fuse_scores(Recipe(names, method, (1.0,) * len(names)), views)

    assert np.array_equal(order_by_score(scores)[:, -1], own)


@given(st.lists(st.booleans(), min_size=2).filter(any), st.integers(0, 1000))
def test_a_better_place_for_a_right_picture_never_measures_less(
    hits: list[bool], seed: int
) -> None:
    scores = -np.arange(len(hits), dtype=np.float64)[np.newaxis]
    is_right = np.array([hits], np.intp)
    places = [i for i in range(1, len(hits)) if hits[i] and not hits[i - 1]]
    if not places:
        assert measure_rankings(scores, is_right)[0, 0] == 1.0
        return
    place = places[seed % len(places)]
    better = is_right.copy()
    better[0, [place - 1, place]] = better[0, [place, place - 1]]

    before, after = measure_rankings(scores, is_right), measure_rankings(scores, better)

    assert (after >= before).all()
    assert after[0, 0] > before[0, 0]
