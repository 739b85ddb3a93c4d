"""Calibrations of libraries whose unrelated pairs are known."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from pydantic import ValidationError
from support.random_sets import Model

from twinlens.models.calibration import (
    LEVELS,
    Calibration,
    calibrate,
    measure_model,
    prior_of,
)
from twinlens.models.card import load_card
from twinlens.models.cards import SHIPPED_CARDS
from twinlens.models.distances import Metric

RARE = 0.99


def networks_rows(codes: NDArray[np.intp], rng: np.random.Generator) -> NDArray[np.float32]:
    """Embeddings of 24 numbers, none below 0, those of one code near each other."""
    centres = rng.normal(size=(codes.max() + 1, 24)).clip(0.0) + 0.1
    rows = centres[codes] + rng.normal(size=(len(codes), 24)) * 0.05
    unit: NDArray[np.float64] = rows / np.linalg.norm(rows, axis=1, keepdims=True)
    return unit.astype(np.float32)


def share_of_rare(
    calibration: Calibration, rows: NDArray[Any], codes: NDArray[np.intp] | None = None
) -> float:
    """Of the unrelated pairs, the share with a score of RARE or more."""
    signs = np.unpackbits(rows, axis=1) * 2.0 - 1.0 if rows.dtype == np.uint8 else rows
    unit = signs / np.linalg.norm(signs, axis=1, keepdims=True)
    first, second = np.triu_indices(len(rows), 1)
    cosines = (unit @ unit.T)[first, second].astype(np.float64)
    if codes is not None:
        cosines = cosines[codes[first] != codes[second]]
    return float(np.mean(calibration.evidence(cosines) >= 2.0 - 1e-9))


@pytest.mark.parametrize("n_each", [1, 4])
@pytest.mark.parametrize("n_pictures", [200, 500])
def test_one_unrelated_pair_of_a_hundred_is_rare_though_some_are_related(
    n_each: int, n_pictures: int
) -> None:
    rng = np.random.default_rng(1)
    codes = np.repeat(np.arange(n_pictures // n_each), n_each)
    rows = networks_rows(codes, rng)
    prior = measure_model(networks_rows(np.arange(400), rng), np.arange(400))

    share = share_of_rare(calibrate(rows, prior), rows, codes)

    assert 0.005 <= share <= 0.015


def test_a_sample_of_a_large_library_will_do() -> None:
    rng = np.random.default_rng(2)
    codes = np.repeat(np.arange(1250), 4)
    rows = networks_rows(codes, rng)
    sample = rows[rng.permutation(5000)[:512]]

    result = calibrate(
        sample, measure_model(networks_rows(np.arange(400), rng), np.arange(400)), 5000
    )

    assert (result.n_pictures, result.n_pairs) == (5000, 512 * 511 // 2)
    assert 0.005 <= share_of_rare(result, rows[::4], codes[::4]) <= 0.015


def test_random_bits_are_as_far_apart_as_is_assumed() -> None:
    rows = np.random.default_rng(3).integers(0, 256, (500, 8), np.uint8)
    prior = prior_of(Model(Metric.HAMMING, 64))

    for calibration in (prior, calibrate(rows, prior)):
        assert 0.005 <= share_of_rare(calibration, rows) <= 0.015
    # Half of the pairs that differ in 32 of 64 bits are nearer: the median is there and not a bit
    # beside.
    assert measure_model(rows, np.arange(500)).cosines[2] == pytest.approx(0.0, abs=0.005)


def test_quantiles_are_where_their_levels_say() -> None:
    result = Calibration(cosines=(0.0, 0.1, 0.2, 0.4, 0.6), exponent=8)

    assert [1.0 - result.score(cosine) for cosine in result.cosines] == pytest.approx(LEVELS)
    # Half way to a copy a power law of exponent 8 is 2^-8, less by what is added to distances.
    halved = (1.0 - result.score(0.8)) / LEVELS[-1]
    assert halved == pytest.approx((0.55 / 1.05) ** 8)
    # Straight in log F.
    assert 1.0 - result.score(0.3) == pytest.approx((0.5 * 0.1) ** 0.5)


def fan(*degrees: float) -> NDArray[np.float32]:
    """Embeddings on a circle, at these angles."""
    angles = np.radians(degrees)
    return np.stack([np.cos(angles), np.sin(angles)], axis=1).astype(np.float32)


# Of the very model of a library, as on its card.
MEASURED = Calibration(cosines=(-0.5, -0.4, -0.3, -0.2, -0.1), exponent=8, n_pairs=2_000)
# Of some other.
ASSUMED = Calibration(cosines=(-0.5, -0.4, -0.3, -0.2, -0.1), exponent=8, n_pairs=1_999)
# Pairs at 90, 60 and 30 degrees; of each a third of all pairs is as near, less half of itself.
SIXTHS = [1 / 6, 3 / 6, 5 / 6]


def logs_of(cosines: Any) -> NDArray[np.float64]:
    """Logarithms of distances."""
    return np.asarray(np.log(1.0 - np.array(cosines)))


@pytest.mark.parametrize(
    ("n_pictures", "kin"), [(3, 0.008), (250, 0.008), (400, 0.005), (1000, 0.003), (10**6, 0.003)]
)
def test_a_librarys_quantiles_leave_its_kin_out_and_lean_on_its_card(
    n_pictures: int, kin: float
) -> None:
    own = logs_of(np.interp((1.0 - np.array(LEVELS)) * (1.0 - kin), SIXTHS, [0.0, 0.5, 0.75**0.5]))

    result = calibrate(fan(0, 60, 90), MEASURED, n_pictures)

    usual = logs_of(MEASURED.cosines)
    moved = usual + 3 / 8 * (own[2] - usual[2])
    expected = 3 / 23 * own + 20 / 23 * moved
    assert logs_of(result.cosines) == pytest.approx(expected, abs=1e-6)
    reaches = [logs[2] - logs[4] for logs in (usual, expected)]
    assert result.exponent == pytest.approx(8 * reaches[0] / reaches[1])
    assert (result.n_pictures, result.n_pairs) == (n_pictures, 3)


def test_of_what_is_assumed_the_shape_alone_is_believed() -> None:
    own = logs_of(
        np.interp((1.0 - np.array(LEVELS)) * (1.0 - 0.008), SIXTHS, [0.0, 0.5, 0.75**0.5])
    )

    result = calibrate(fan(0, 60, 90), ASSUMED)

    usual = logs_of(ASSUMED.cosines)
    stretch = ((own[2] - own[3]) / (usual[2] - usual[3])) ** (1 / 6)
    expected = 3 / 23 * own + 20 / 23 * (own[2] + stretch * (usual - usual[2]))
    assert logs_of(result.cosines) == pytest.approx(expected, abs=1e-6)
    # Two pictures have a distance, and no spread.
    [two] = logs_of(calibrate(fan(0, 60), ASSUMED).cosines)[np.newaxis]
    expected = logs_of(0.5) + 20 / 22 * (usual - usual[2])
    assert two == pytest.approx(expected, abs=1e-6)


def test_of_hashes_no_kin_is_left_out() -> None:
    # They differ by 32, 16 and 48 of 64 bits.
    rows = np.packbits(np.arange(64) < np.array([[0], [32], [48]]), axis=1)
    own = logs_of(np.interp(1.0 - np.array(LEVELS), SIXTHS, [-0.5, 0.0, 0.5]))

    result = calibrate(rows, MEASURED)

    usual = logs_of(MEASURED.cosines)
    expected = 3 / 23 * own + 20 / 23 * (usual + 3 / 8 * (own[2] - usual[2]))
    assert logs_of(result.cosines) == pytest.approx(expected, abs=1e-6)


def test_cosines_that_are_all_near_1_are_told_apart() -> None:
    codes = np.arange(500)
    rows = networks_rows(codes, np.random.default_rng(8))
    near = rows + np.float32(6)

    usual = calibrate(near, prior_of(Model(Metric.L2, 24)))
    card = measure_model(near, codes)

    assert 0.999 < usual.cosines[0] < usual.cosines[-1] < 0.9999
    for result in (usual, card, calibrate(near, card)):
        assert share_of_rare(result, near) == pytest.approx(0.01, rel=0.5)
    # A power law as of the distances without the constant.
    assert card.exponent == pytest.approx(measure_model(rows, codes).exponent, rel=0.25)
    # Half of the distance is as rare, however small it is.
    halved = 1.0 - (1.0 - card.cosines[-1]) / 2.0
    assert 1.0 - card.score(halved) == pytest.approx(0.02 * (0.55 / 1.05) ** card.exponent)


def test_a_library_of_copies_has_a_calibration() -> None:
    rows = np.repeat(fan(10), 30, axis=0)
    mixed = np.concatenate([rows, fan(*range(0, 60, 2))])

    for result in (calibrate(rows, MEASURED), calibrate(rows, ASSUMED), calibrate(mixed, ASSUMED)):
        assert result.score(1.0) > result.score(0.9) > result.score(0.0)
    assert calibrate(rows, calibrate(rows, ASSUMED)).exponent <= 256


def test_a_measured_power_law_goes_through_both_of_its_quantiles() -> None:
    rows = networks_rows(np.arange(300), np.random.default_rng(7))

    result = measure_model(rows, np.arange(300))

    first, second = np.triu_indices(300, 1)
    cosines = (rows @ rows.T)[first, second]
    near, nearest = np.quantile(cosines, [0.98, 0.999])
    assert result.cosines[-1] == pytest.approx(near, abs=1e-3)
    # By definition one unrelated pair of a thousand scores 0.999.
    assert 1.0 - result.score(nearest) == pytest.approx(0.001, rel=0.05)
    floor = 0.05
    rest = (1.0 - nearest) / (1.0 - near)
    expected = np.log(0.02 / 0.001) / np.log((1.0 + floor) / (rest + floor))
    assert result.exponent == pytest.approx(expected, rel=0.05)


def test_the_prior_is_the_cards_then_what_is_usual() -> None:
    own = Calibration(cosines=(0.0, 0.1, 0.2, 0.4, 0.6), exponent=8)

    assert prior_of(Model(Metric.IP, 16, own)) == own
    assert prior_of(Model(Metric.IP, 16)) == prior_of(Model(Metric.L2, 1280))
    wide, narrow = prior_of(Model(Metric.HAMMING, 8)), prior_of(Model(Metric.HAMMING, 800))
    assert wide.cosines == pytest.approx(np.multiply(narrow.cosines, 10))
    # Under networks one unrelated pair of fifty lies nearer than this; of random bits, one whose
    # cosine is so many deviations above 0.
    usual, bits = prior_of(Model(Metric.L2, 1280)), prior_of(Model(Metric.HAMMING, 64))
    assert (usual.cosines[-1], usual.exponent) == (0.55, 9.9)
    assert usual.score(0.55) == pytest.approx(0.98)
    assert bits.score(2.0537 / 8) == pytest.approx(0.98)
    assert bits.score(1.2816 / 8) == pytest.approx(0.9)
    assert bits.exponent == 13.6


def test_a_small_library_leans_on_the_prior_and_a_large_one_on_itself() -> None:
    rows = networks_rows(np.arange(500), np.random.default_rng(4))
    own = calibrate(rows, MEASURED).cosines[2]

    gaps = [calibrate(rows[:n], MEASURED).cosines[2] + 0.3 for n in (0, 1, 2, 20, 500)]

    assert gaps[:2] == [0.0, 0.0]
    assert 0.0 < gaps[2] < 0.5 * (own + 0.3)
    assert gaps[3] == pytest.approx(gaps[4], rel=0.2)


@pytest.mark.parametrize(
    "cosines",
    [
        (0.0, 0.1, 0.1, 0.4, 0.6),
        (0.0, 0.1, 0.2, 0.4, 1.0),
        (-1.0, 0.1, 0.2, 0.4, 0.6),
        (0.0, 0.1, float("nan"), 0.4, 0.6),
    ],
)
def test_quantiles_that_do_not_rise_are_refused(cosines: tuple[float, ...]) -> None:
    with pytest.raises(ValidationError, match="cosines must rise"):
        Calibration.model_validate({"cosines": cosines, "exponent": 8})


def test_a_model_is_measured_on_unrelated_pairs_alone() -> None:
    rng = np.random.default_rng(5)
    codes = np.repeat(np.arange(60), 5)
    rows = networks_rows(codes, rng)

    result = measure_model(rows, codes)

    assert (result.n_pictures, result.n_pairs) == (300, 300 * 299 // 2 - 60 * 10)
    assert share_of_rare(result, rows, codes) == pytest.approx(0.01, rel=0.3)
    related = measure_model(rows, np.arange(300))
    assert related.cosines[-1] > result.cosines[-1]


def test_pictures_that_tell_nothing_are_refused() -> None:
    rows = networks_rows(np.arange(100), np.random.default_rng(6))

    with pytest.raises(ValueError, match="1225 pairs of unrelated pictures are too few"):
        measure_model(rows[:50], np.arange(50))
    with pytest.raises(ValueError, match="0 pairs"):
        measure_model(rows, np.zeros(100, np.intp))
    with pytest.raises(ValueError, match="all as far apart"):
        measure_model(np.repeat(rows[:1], 100, axis=0), np.arange(100))


def test_every_shipped_card_has_one() -> None:
    for path in SHIPPED_CARDS.glob("*.toml"):
        calibration = load_card(path).calibration
        assert calibration is not None, path.name
        assert calibration.n_pictures == 554
