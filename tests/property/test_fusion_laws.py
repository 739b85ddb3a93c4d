"""What holds for fusion whatever the distances and weights are."""

from __future__ import annotations

from dataclasses import dataclass, replace

from hypothesis import assume, given
from hypothesis import strategies as st

from twinlens.models.card import Metric
from twinlens.models.fusion import FusedEntry, agreement, fuse, similarity


@dataclass(frozen=True)
class Model:
    metric: Metric
    dimension: int


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

Distances = dict[str, dict[str, float]]
Weights = dict[str, float]


@given(DISTANCES, WEIGHTS)
def test_scores_are_from_0_to_1_and_sorted(distances: Distances, weights: Weights) -> None:
    fused = fuse(distances, MODELS, weights)

    assert all(0.0 <= entry.score <= 1.0 for entry in fused)
    assert fused == sorted(fused, key=lambda entry: (-entry.score, entry.image_id))
    assert len({entry.image_id for entry in fused}) == len(fused)


@given(DISTANCES, WEIGHTS, ORDERS)
def test_the_order_of_models_changes_nothing(
    distances: Distances, weights: Weights, order: list[str]
) -> None:
    shuffled = {name: distances[name] for name in order}

    assert fuse(shuffled, MODELS, {name: weights[name] for name in order}) == fuse(
        distances, MODELS, weights
    )


@given(DISTANCES, WEIGHTS, st.sampled_from(sorted(MODELS)))
def test_a_model_of_weight_0_changes_nothing(
    distances: Distances, weights: Weights, silent: str
) -> None:
    weights = weights | {silent: 0.0}
    assume(any(weights.values()))
    without = {name: found for name, found in distances.items() if name != silent}

    def outcome(fused: list[FusedEntry]) -> list[tuple[str, float]]:
        return [(entry.image_id, entry.score) for entry in fused]

    assert outcome(fuse(distances, MODELS, weights)) == outcome(fuse(without, MODELS, weights))


@given(DISTANCES, WEIGHTS, st.data())
def test_a_nearer_picture_never_scores_less(
    distances: Distances, weights: Weights, data: st.DataObject
) -> None:
    name = data.draw(st.sampled_from(sorted(MODELS)))
    assume(distances[name])
    image_id = data.draw(st.sampled_from(sorted(distances[name])))
    other = data.draw(RANGES[MODELS[name].metric])
    changed = distances | {name: distances[name] | {image_id: other}}
    is_nearer = similarity(other, MODELS[name].metric, MODELS[name].dimension) >= similarity(
        distances[name][image_id], MODELS[name].metric, MODELS[name].dimension
    )

    before = {entry.image_id: entry.score for entry in fuse(distances, MODELS, weights)}
    after = {entry.image_id: entry.score for entry in fuse(changed, MODELS, weights)}

    assert before.keys() == after.keys()
    for candidate, score in before.items():
        if candidate != image_id:
            assert after[candidate] == score
        elif is_nearer:
            assert after[candidate] >= score
        else:
            assert after[candidate] <= score


@given(DISTANCES)
def test_equal_weights_of_any_size_are_the_plain_mean(distances: Distances) -> None:
    zero = fuse(distances, MODELS, dict.fromkeys(MODELS, 0.0))

    for weight in (1e-300, 1.0, 1e300):
        assert fuse(distances, MODELS, dict.fromkeys(MODELS, weight)) == zero


@given(st.dictionaries(st.sampled_from("xyz"), st.lists(IDS, unique=True)), st.integers(1, 10))
def test_agreement_stays_in_its_bounds_and_is_whole_with_oneself(
    rankings: dict[str, list[str]], k: int
) -> None:
    found = agreement(rankings, k)

    if len(rankings) < 2:
        assert found is None
        return
    assert found is not None
    assert 0.0 <= found.overlap_at_k <= 1.0
    assert found.rank_correlation is None or -1.0 <= found.rank_correlation <= 1.0
    first = next(iter(rankings.values()))
    same = agreement({"x": first, "y": first}, k)
    assert same is not None
    assert same == replace(same, overlap_at_k=1.0)
    assert same.rank_correlation in (None, 1.0)
