"""What holds for fusion whatever the distances and weights are."""

from __future__ import annotations

from dataclasses import dataclass, replace

import pytest
from hypothesis import assume, example, given
from hypothesis import strategies as st

from twinlens.models.calibration import Calibration
from twinlens.models.distances import Metric
from twinlens.models.fusion import FusedEntry, Fusion, agreement, fuse, line_of, shares_of


@dataclass(frozen=True)
class Model:
    metric: Metric
    dimension: int
    calibration: Calibration | None = None


IDS = st.sampled_from("abcdefgh")
MODELS = {
    "m1": Model(Metric.L2, 1280),
    "m2": Model(Metric.L2, 1280),
    "m3": Model(Metric.COSINE, 8),
    "m4": Model(Metric.HAMMING, 64),
}
RANGES = {
    Metric.L2: st.floats(-1e-6, 4.0),
    Metric.COSINE: st.floats(-1.0, 1.0),
    Metric.HAMMING: st.integers(0, 64).map(float),
}
DISTANCES = st.fixed_dictionaries(
    {name: st.dictionaries(IDS, RANGES[model.metric]) for name, model in MODELS.items()}
)
WEIGHTS = st.fixed_dictionaries(
    {name: st.just(0.0) | st.floats(0.0, 1e308, exclude_min=True) for name in MODELS}
)
ORDERS = st.permutations(sorted(MODELS))
FUSIONS = st.sampled_from(Fusion)
SUMS = st.sampled_from([Fusion.CALIBRATED, Fusion.WEIGHTED, Fusion.RRF])

Distances = dict[str, dict[str, float]]
Weights = dict[str, float]


def cosine(name: str, distance: float) -> float:
    start, slope = line_of(MODELS[name].metric, MODELS[name].dimension)
    return start + slope * distance


def outcome(fused: list[FusedEntry]) -> list[tuple[str, float]]:
    return [(entry.image_id, entry.score) for entry in fused]


@given(DISTANCES, WEIGHTS, FUSIONS)
def test_scores_are_from_0_to_1_and_sorted(
    distances: Distances, weights: Weights, fusion: Fusion
) -> None:
    fused = fuse(distances, MODELS, weights, fusion=fusion)

    scores = [entry.score for entry in fused]
    assert all(0.0 <= score <= 1.0 for score in scores)
    assert scores == sorted(scores, reverse=True)
    counted = shares_of(weights, distances)
    assert sorted(entry.image_id for entry in fused) == sorted(
        {image_id for name in counted for image_id in distances[name]}
    )
    views = [view for entry in fused for view in entry.models.values()]
    assert all(0.0 <= view.score <= 1.0 for view in views)


@given(DISTANCES, WEIGHTS, FUSIONS)
def test_equal_candidates_go_by_id(distances: Distances, weights: Weights, fusion: Fusion) -> None:
    twins = {
        name: {f"{copy}{image_id}": far for image_id, far in by_id.items() for copy in "yx"}
        for name, by_id in distances.items()
    }

    order = [entry.image_id for entry in fuse(twins, MODELS, weights, fusion=fusion)]

    places = {image_id: place for place, image_id in enumerate(order)}
    assert all(places[i] < places["y" + i[1:]] for i in order if i.startswith("x"))


@given(DISTANCES, WEIGHTS, FUSIONS, st.integers(0, 9))
def test_a_limit_cuts_off_and_changes_nothing(
    distances: Distances, weights: Weights, fusion: Fusion, limit: int
) -> None:
    whole = fuse(distances, MODELS, weights, fusion=fusion)

    assert fuse(distances, MODELS, weights, limit, fusion=fusion) == whole[:limit]


@given(DISTANCES, WEIGHTS, ORDERS, FUSIONS)
def test_the_order_of_models_changes_nothing(
    distances: Distances, weights: Weights, order: list[str], fusion: Fusion
) -> None:
    shuffled = {name: distances[name] for name in order}
    turned = {name: weights[name] for name in order}

    assert fuse(shuffled, MODELS, turned, fusion=fusion) == fuse(
        distances, MODELS, weights, fusion=fusion
    )


@given(DISTANCES, WEIGHTS, st.sampled_from(sorted(MODELS)), FUSIONS)
def test_a_model_of_weight_0_changes_nothing(
    distances: Distances, weights: Weights, silent: str, fusion: Fusion
) -> None:
    weights = weights | {silent: 0.0}
    assume(any(weights.values()))
    without = {name: by_id for name, by_id in distances.items() if name != silent}

    assert outcome(fuse(distances, MODELS, weights, fusion=fusion)) == outcome(
        fuse(without, MODELS, weights, fusion=fusion)
    )


@st.composite
def moves(draw: st.DrawFn) -> tuple[Distances, str, str, float]:
    """Distances, and a model under which a picture comes to lie at another one."""
    distances = draw(DISTANCES.filter(lambda by_model: any(by_model.values())))
    name = draw(st.sampled_from([name for name in sorted(MODELS) if distances[name]]))
    image_id = draw(st.sampled_from(sorted(distances[name])))
    return distances, name, image_id, draw(RANGES[MODELS[name].metric])


TWINS: Distances = {"m1": {}, "m2": {"a": 0.0, "b": 0.0}, "m3": {}, "m4": {}}


# By so little that the cosine is the same: ranks are by distance, and tell it still.
@example((TWINS, "m2", "a", 1.1e-29), dict.fromkeys(MODELS, 0.0), Fusion.RRF)
@example((TWINS, "m2", "b", -1.1e-29), dict.fromkeys(MODELS, 0.0), Fusion.RRF)
@given(moves(), WEIGHTS, FUSIONS)
def test_a_nearer_picture_never_scores_less(
    move: tuple[Distances, str, str, float], weights: Weights, fusion: Fusion
) -> None:
    distances, name, image_id, other = move
    changed = distances | {name: distances[name] | {image_id: other}}
    sign = MODELS[name].metric.sign
    is_nearer = sign * other <= sign * distances[name][image_id]

    before = dict(outcome(fuse(distances, MODELS, weights, fusion=fusion)))
    after = dict(outcome(fuse(changed, MODELS, weights, fusion=fusion)))

    assert before.keys() == after.keys()
    for candidate, score in before.items():
        if candidate == image_id:
            assert after[candidate] >= score if is_nearer else after[candidate] <= score
        elif fusion is not Fusion.RRF:
            assert after[candidate] == score


@given(DISTANCES, st.sampled_from(sorted(MODELS)), FUSIONS)
def test_one_model_ranks_by_its_distance(distances: Distances, name: str, fusion: Fusion) -> None:
    by_id = distances[name]

    fused = fuse({name: by_id}, MODELS, {name: 1.0}, fusion=fusion)

    # A similarity is clipped, and a step of the last bits is lost in a sum.
    cosines = [round(min(1.0, cosine(name, by_id[one.image_id])), 9) for one in fused]
    if fusion is Fusion.WEIGHTED:
        cosines = [max(0.0, value) for value in cosines]
    assert cosines == sorted(cosines, reverse=True)


@given(DISTANCES, WEIGHTS, st.sampled_from(sorted(MODELS)), SUMS)
def test_a_model_given_twice_at_half_its_weight_each_changes_nothing(
    distances: Distances, weights: Weights, name: str, fusion: Fusion
) -> None:
    weights = {other: min(weight, 1e300) for other, weight in weights.items()}
    assume(weights[name] > 1e-300)
    halved = weights | {name: weights[name] / 2, "twin": weights[name] / 2}
    twice = fuse(
        distances | {"twin": distances[name]},
        MODELS | {"twin": MODELS[name]},
        halved,
        fusion=fusion,
    )

    once = dict(outcome(fuse(distances, MODELS, weights, fusion=fusion)))
    assert dict(outcome(twice)) == pytest.approx(once)


@given(DISTANCES, WEIGHTS, st.sampled_from(sorted(MODELS)))
def test_extremes_do_not_care_how_often_a_model_is_given(
    distances: Distances, weights: Weights, name: str
) -> None:
    for fusion in (Fusion.MAX, Fusion.MIN):
        once = fuse(distances, MODELS, weights, fusion=fusion)
        twice = fuse(
            distances | {"twin": distances[name]},
            MODELS | {"twin": MODELS[name]},
            weights | {"twin": weights[name]},
            fusion=fusion,
        )
        assert outcome(twice) == outcome(once)


@given(DISTANCES, WEIGHTS)
def test_a_mean_lies_between_the_extremes(distances: Distances, weights: Weights) -> None:
    least, mean, most = (
        dict(outcome(fuse(distances, MODELS, weights, fusion=fusion)))
        for fusion in (Fusion.MIN, Fusion.CALIBRATED, Fusion.MAX)
    )

    assert all(least[i] - 1e-12 <= mean[i] <= most[i] + 1e-12 for i in mean)


@given(DISTANCES, WEIGHTS)
def test_reciprocal_ranks_know_ranks_alone(distances: Distances, weights: Weights) -> None:
    spread = {}
    for name, by_id in distances.items():
        sign = -1.0 if MODELS[name].metric is Metric.COSINE else 1.0
        order = sorted(by_id, key=lambda image_id: (sign * by_id[image_id], image_id))
        spread[name] = {image_id: sign * place / 8 for place, image_id in enumerate(order)}

    assert outcome(fuse(spread, MODELS, weights, fusion=Fusion.RRF)) == outcome(
        fuse(distances, MODELS, weights, fusion=Fusion.RRF)
    )


@given(DISTANCES, FUSIONS)
def test_equal_weights_of_any_size_are_the_plain_mean(distances: Distances, fusion: Fusion) -> None:
    zero = fuse(distances, MODELS, dict.fromkeys(MODELS, 0.0), fusion=fusion)

    for weight in (1e-300, 1.0, 1e300):
        assert fuse(distances, MODELS, dict.fromkeys(MODELS, weight), fusion=fusion) == zero


@given(st.dictionaries(st.sampled_from("xyz"), st.lists(IDS, unique=True)), st.integers(1, 10))
def test_agreement_stays_in_its_bounds_and_is_whole_with_oneself(
    rankings: dict[str, list[str]], k: int
) -> None:
    agreed = agreement(rankings, k)

    ranked = [ranking for ranking in rankings.values() if ranking]
    if len(ranked) < 2:
        assert agreed is None
        return
    assert agreed is not None
    assert 0.0 <= agreed.overlap_at_k <= 1.0
    assert agreed.rank_correlation is None or -1.0 <= agreed.rank_correlation <= 1.0
    first = ranked[0]
    same = agreement({"x": first, "y": first}, k)
    assert same is not None
    assert same == replace(same, overlap_at_k=1.0)
    assert same.rank_correlation in (None, 1.0)
