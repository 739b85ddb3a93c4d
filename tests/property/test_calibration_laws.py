"""What holds for a calibration whatever the library and the distances are."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from support.random_sets import Model

from twinlens.models.calibration import MIN_PAIRS, Calibration, calibrate, prior_of, score_of
from twinlens.models.distances import Metric
from twinlens.models.fusion import fuse

COSINES = st.floats(-1.0, 1.0)
NETWORK = prior_of(Model(Metric.L2, 16))
HASH = prior_of(Model(Metric.HAMMING, 64))


@st.composite
def calibrations(draw: st.DrawFn) -> Calibration:
    steps = draw(st.lists(st.floats(0.01, 1.0), min_size=7, max_size=7))
    a, b, c, d, e = (2.0 * np.cumsum(steps)[1:6] / sum(steps) - 1.0).tolist()
    return Calibration(cosines=(a, b, c, d, e), exponent=draw(st.floats(1.0, 30.0)))


@st.composite
def libraries(draw: st.DrawFn, at_least: int = 0) -> NDArray[Any]:
    n_rows = draw(st.integers(at_least, 12))
    rng = np.random.default_rng(draw(st.integers(0, 1000)))
    if draw(st.booleans()):
        return rng.integers(0, 256, (n_rows, 8), np.uint8)
    numbers = rng.normal(size=(n_rows, draw(st.sampled_from((1, 2, 16))))).astype(np.float32)
    # Of one number all are copies or opposites; one that is nothing has no direction.
    return numbers * np.float32(draw(st.sampled_from((0.0, 1.0))))


def prior_for(rows: NDArray[Any]) -> Calibration:
    return HASH if rows.dtype == np.uint8 else NETWORK


@given(calibrations(), st.lists(COSINES, min_size=1))
def test_evidence_is_finite_and_scores_are_from_0_to_1(
    calibration: Calibration, cosines: list[float]
) -> None:
    evidence = calibration.evidence(np.array(cosines))

    assert (np.isfinite(evidence) & (evidence >= 0.0)).all()
    scores = score_of(evidence)
    assert ((scores >= 0.0) & (scores <= 1.0)).all()
    assert calibration.evidence(np.array(-1.0)) == 0.0
    assert [calibration.score(cosine) for cosine in cosines] == pytest.approx(scores.tolist())


@given(calibrations(), COSINES, COSINES)
def test_nearer_is_rarer(calibration: Calibration, first: float, second: float) -> None:
    far, near = sorted((first, second))
    less, more = calibration.evidence(np.array([far, near])).tolist()

    assert less <= more
    if near - far > 1e-9:
        assert less < more


@given(calibrations(), st.floats(1e-9, 1e-3))
def test_rounding_past_a_copy_or_an_opposite_is_as_there(
    calibration: Calibration, past: float
) -> None:
    beyond = calibration.evidence(np.array([-1.0 - past, 1.0 + past]))

    assert beyond.tolist() == calibration.evidence(np.array([-1.0, 1.0])).tolist()


@given(calibrations())
def test_it_is_kept_as_json(calibration: Calibration) -> None:
    assert Calibration.model_validate_json(calibration.model_dump_json()) == calibration


@given(libraries(), st.integers(0, 10_000))
def test_any_library_has_one_and_one_of_no_pair_its_priors(rows: NDArray[Any], more: int) -> None:
    prior, n_rows = prior_for(rows), len(rows)

    result = calibrate(rows, prior, n_rows + more)

    assert result.n_pictures == n_rows + more
    if n_rows < 2:
        assert result == prior.model_copy(update={"n_pictures": n_rows + more})
    else:
        assert result.n_pairs == n_rows * (n_rows - 1) // 2
        assert np.isfinite(result.evidence(np.array([-1.0, 0.0, 1.0]))).all()
        # It is kept to the last digit, which tells quantiles of copies apart.
        assert Calibration.model_validate_json(result.model_dump_json()) == result


@given(libraries(at_least=2), st.integers(0, 1000))
def test_the_order_of_pictures_and_the_length_of_vectors_change_nothing(
    rows: NDArray[Any], seed: int
) -> None:
    moved = np.random.default_rng(seed).permutation(rows)
    if rows.dtype != np.uint8:
        moved = moved * np.float32(3)
    prior = prior_for(rows)

    result, expected = calibrate(moved, prior), calibrate(rows, prior)
    assert result.cosines == pytest.approx(expected.cosines, abs=1e-5)


@given(libraries(at_least=2), st.integers(12, 1000), st.integers(0, 1000))
def test_the_larger_the_library_of_a_sample_the_less_is_left_out(
    rows: NDArray[Any], n_pictures: int, more: int
) -> None:
    # One that is assumed is brought to the library's spread, which may turn either way.
    prior = prior_for(rows).model_copy(update={"n_pairs": MIN_PAIRS})

    smaller = calibrate(rows, prior, n_pictures)
    larger = calibrate(rows, prior, n_pictures + more)

    assert (np.subtract(larger.cosines, smaller.cosines) >= -1e-12).all()


@given(calibrations(), st.lists(COSINES, min_size=1, max_size=8))
def test_a_score_means_the_same_under_every_metric(
    calibration: Calibration, cosines: list[float]
) -> None:
    def scores(metric: Metric) -> dict[str, float]:
        distances = {
            str(i): cosine if metric is not Metric.L2 else 2.0 - 2.0 * cosine
            for i, cosine in enumerate(cosines)
        }
        fused = fuse({"m": distances}, {"m": Model(metric, 16, calibration)}, {"m": 1.0})
        return {entry.image_id: entry.score for entry in fused}

    assert scores(Metric.L2) == pytest.approx(scores(Metric.COSINE), abs=1e-9)
    assert scores(Metric.IP) == scores(Metric.COSINE)
