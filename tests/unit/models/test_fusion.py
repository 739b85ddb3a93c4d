"""Fusion and agreement, by hand-made examples; the laws are in tests/property."""

from __future__ import annotations

from dataclasses import dataclass

import pytest

from twinlens.models.calibration import Calibration
from twinlens.models.distances import Metric
from twinlens.models.fusion import FusedEntry, Fusion, agreement, fuse, similarity


@dataclass(frozen=True)
class Model:
    metric: Metric
    dimension: int
    calibration: Calibration | None = None


NET = Model(Metric.L2, 1280)
HASH = Model(Metric.HAMMING, 64)
MODELS = {"net": NET, "other": NET, "hash": HASH}
# F is 0.1 at the cosine 0.4, and 0.02 at 0.6.
PLAIN = Calibration(cosines=(0.0, 0.1, 0.2, 0.4, 0.6), exponent=8)


@pytest.mark.parametrize(
    ("distance", "metric", "score"),
    [
        (0.0, Metric.L2, 1.0),
        (-1e-7, Metric.L2, 1.0),
        (1.0, Metric.L2, 0.5),
        (4.0, Metric.L2, 0.0),
        (0.25, Metric.COSINE, 0.25),
        (-0.25, Metric.COSINE, 0.0),
        (1.0000001, Metric.IP, 1.0),
        (0, Metric.HAMMING, 1.0),
        (8, Metric.HAMMING, 0.75),
        (40, Metric.HAMMING, 0.0),
    ],
)
def test_a_distance_becomes_a_clipped_cosine(distance: float, metric: Metric, score: float) -> None:
    assert similarity(distance, metric, 64) == score


def test_the_mean_of_similarities_ranks() -> None:
    fused = fuse(
        {"net": {"a": 0.2, "b": 0.4}, "other": {"a": 1.0, "b": 0.2}},
        MODELS,
        {"net": 1.0, "other": 1.0},
        fusion=Fusion.WEIGHTED,
    )

    assert [(entry.image_id, round(entry.score, 6)) for entry in fused] == [("b", 0.85), ("a", 0.7)]
    assert (fused[0].models["net"].rank, fused[0].models["net"].distance) == (2, 0.4)
    assert fused[0].models["other"].rank == 1


def test_a_heavier_model_counts_more() -> None:
    distances = {"net": {"a": 0.0, "b": 2.0}, "other": {"a": 2.0, "b": 0.0}}

    fused = fuse(distances, MODELS, {"net": 1.0, "other": 3.0}, fusion=Fusion.WEIGHTED)

    assert [(entry.image_id, entry.score) for entry in fused] == [("b", 0.75), ("a", 0.25)]


def test_a_missing_distance_counts_as_no_similarity() -> None:
    distances = {"net": {"a": 0.0}, "other": {"a": 1.0, "b": 0.0}}

    fused = fuse(distances, MODELS, {"net": 1, "other": 1}, fusion=Fusion.WEIGHTED)

    assert [(entry.image_id, entry.score) for entry in fused] == [("a", 0.75), ("b", 0.5)]
    assert fused[1].models["net"].rank is None
    assert fused[1].models["net"].score == 0.0


def test_a_model_of_weight_0_is_shown_and_brings_nobody() -> None:
    distances = {"net": {"a": 1.0}, "hash": {"a": 0.0, "b": 0.0}}

    fused = fuse(distances, MODELS, {"net": 1, "hash": 0}, fusion=Fusion.WEIGHTED)

    assert [entry.image_id for entry in fused] == ["a"]
    assert fused[0].score == 0.5
    assert fused[0].models["hash"].score == 1.0


def calibrated(fusion: Fusion, weights: dict[str, float]) -> list[tuple[str, float]]:
    """Of two pictures: a at F 0.1 and 0.02, b at 0.02 and 0.5 (L2 is 2 - 2 cosine)."""
    distances = {"net": {"a": 1.2, "b": 0.8}, "other": {"a": 0.8, "b": 1.6}}
    calibrations = {"net": PLAIN, "other": PLAIN}
    fused = fuse(distances, MODELS, weights, fusion=fusion, calibrations=calibrations)
    assert {round(view.score, 6) for view in fused[0].models.values()} == {0.9, 0.98}
    return [(entry.image_id, round(entry.score, 6)) for entry in fused]


def test_calibrated_is_one_less_the_geometric_mean_of_the_shares() -> None:
    equal = calibrated(Fusion.CALIBRATED, {"net": 1.0, "other": 1.0})
    heavy = calibrated(Fusion.CALIBRATED, {"net": 1.0, "other": 3.0})

    assert equal == [
        ("a", round(1 - (0.1 * 0.02) ** 0.5, 6)),
        ("b", round(1 - (0.02 * 0.5) ** 0.5, 6)),
    ]
    assert heavy[0] == ("a", round(1 - 0.1**0.25 * 0.02**0.75, 6))


def test_max_and_min_are_of_calibrated_scores() -> None:
    weights = {"net": 1.0, "other": 2.0}

    assert calibrated(Fusion.MAX, weights) == [("a", 0.98), ("b", 0.98)]
    assert calibrated(Fusion.MIN, weights) == [("a", 0.9), ("b", 0.5)]


def test_reciprocal_ranks_are_weighted_and_1_for_the_first_everywhere() -> None:
    distances = {"net": {"a": 0.1, "b": 0.2}, "other": {"a": 0.1, "b": 0.1, "c": 0.2}}

    fused = fuse(distances, MODELS, {"net": 1.0, "other": 3.0}, fusion=Fusion.RRF)

    assert [(entry.image_id, round(entry.score, 9)) for entry in fused] == [
        ("a", 1.0),
        ("b", round(61 / 62, 9)),
        ("c", round(0.75 * 61 / 63, 9)),
    ]


def test_without_a_calibration_the_cards_counts_and_then_what_is_usual() -> None:
    known = Model(Metric.L2, 1280, PLAIN)
    distances = {"net": {"a": 0.8}}

    [own] = fuse(distances, {"net": known}, {"net": 1})
    [usual] = fuse(distances, {"net": NET}, {"net": 1})

    assert own.score == pytest.approx(0.98)
    assert usual.score != own.score


def test_copies_keep_their_order_where_floats_have_one_score_for_them() -> None:
    sharp = PLAIN.model_copy(update={"exponent": 64.0})
    distances = {"net": {"a": 0.02, "b": 0.0, "c": 0.01}}

    fused = fuse(distances, MODELS, {"net": 1}, calibrations={"net": sharp})

    assert [entry.image_id for entry in fused] == ["b", "c", "a"]
    assert {entry.score for entry in fused} == {1.0}


def test_weights_that_are_all_0_are_equal() -> None:
    distances = {"net": {"a": 1.0}, "hash": {"a": 0.0, "b": 0.0}}

    assert fuse(distances, MODELS, {"net": 0, "hash": 0}) == fuse(
        distances, MODELS, {"net": 1, "hash": 1}
    )


def test_ties_go_by_image_id_and_ranks_of_products_go_down() -> None:
    cosine = Model(Metric.COSINE, 4)

    fused = fuse({"m": {"b": 0.5, "c": 0.9, "a": 0.5}}, {"m": cosine}, {"m": 1.0})

    assert [(entry.image_id, entry.models["m"].rank) for entry in fused] == [
        ("c", 1),
        ("a", 2),
        ("b", 3),
    ]


@pytest.mark.parametrize("weight", [-1.0, float("nan"), float("inf")])
def test_a_weight_that_is_none_is_refused(weight: float) -> None:
    with pytest.raises(ValueError, match="weight"):
        fuse({"net": {"a": 1.0}}, MODELS, {"net": weight})


def test_a_model_without_a_weight_is_refused() -> None:
    with pytest.raises(ValueError, match="net"):
        fuse({"net": {"a": 1.0}}, MODELS, {})


def test_nothing_fuses_to_nothing() -> None:
    nothing: list[FusedEntry] = []

    assert fuse({}, MODELS, {}) == nothing
    assert fuse({"net": {}}, MODELS, {"net": 1}) == nothing


def test_agreement_of_equal_and_of_opposite_rankings() -> None:
    equal = agreement({"x": "abcd", "y": "abcd"}, 2)
    opposite = agreement({"x": "abcd", "y": "dcba"}, 2)

    assert equal is not None
    assert opposite is not None
    assert (equal.overlap_at_k, equal.rank_correlation) == (1.0, 1.0)
    assert (opposite.overlap_at_k, opposite.rank_correlation) == (0.0, -1.0)


def test_agreement_is_over_the_shared_ids_and_the_mean_of_pairs() -> None:
    agreed = agreement({"x": "abcx", "y": "yabc", "z": "cabz"}, 4)

    assert agreed is not None
    assert agreed.overlap_at_k == pytest.approx(0.75)
    # x and y order a, b, c alike; each has them otherwise than z: 1 - 6 * (1 + 1 + 4) / 24 = -0.5.
    assert agreed.rank_correlation == pytest.approx((1.0 - 0.5 - 0.5) / 3)


def test_short_lists_are_not_punished_for_a_large_k() -> None:
    agreed = agreement({"x": "ab", "y": "ba"}, 10)

    assert agreed is not None
    assert agreed.overlap_at_k == 1.0


def test_a_short_list_does_not_agree_with_all_of_a_long_one() -> None:
    agreed = agreement({"x": "abc", "y": "b"}, 5)

    assert agreed is not None
    assert agreed.overlap_at_k == pytest.approx(1 / 3)
    assert agreed.rank_correlation is None


@pytest.mark.parametrize(("other", "correlation"), [("ab", 1.0), ("ba", -1.0)])
def test_two_shared_ids_are_enough_for_a_correlation(other: str, correlation: float) -> None:
    agreed = agreement({"x": "ab", "y": other}, 2)

    assert agreed is not None
    assert agreed.rank_correlation == correlation


def test_empty_lists_are_not_compared() -> None:
    assert agreement({"x": "", "y": ""}, 3) is None
    assert agreement({"x": "", "y": "ab"}, 3) is None
    assert agreement({"x": "", "y": "ab", "z": "ab"}, 3) == agreement({"y": "ab", "z": "ab"}, 3)


@pytest.mark.parametrize("fusion", [Fusion.RRF, Fusion.WEIGHTED])
def test_the_first_everywhere_scores_1_and_no_more(fusion: Fusion) -> None:
    models = dict.fromkeys("abc", NET)

    # Of these weights the shares add up to 1 and a last bit.
    [entry] = fuse(
        {name: {"x": 0.0} for name in models}, models, {"a": 1.0, "b": 2.0, "c": 0.9}, fusion=fusion
    )

    assert entry.score == 1.0


def test_one_model_has_nobody_to_agree_with() -> None:
    assert agreement({"x": "abc"}, 3) is None


def test_no_shared_ids_no_correlation() -> None:
    agreed = agreement({"x": "abc", "y": "def"}, 3)

    assert agreed is not None
    assert (agreed.overlap_at_k, agreed.rank_correlation) == (0.0, None)
