"""What holds for scores whatever a model makes of pictures: clouds of points of many shapes."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from support.random_sets import Model

from twinlens.models.calibration import N_SAMPLE, Calibration, calibrate, measure_model, prior_of
from twinlens.models.distances import Metric

ASSUMED = prior_of(Model(Metric.L2, 16))
RARE = 2.0  # evidence of a score of 0.99
N_TRIED = 1_000  # pictures that scores are tried on: half a million pairs
SEEDS = st.integers(0, 10_000)


@dataclass(frozen=True)
class Cloud:
    """How a model spreads pictures: `slope` makes some directions wider, `n_kin` show the same."""

    dimension: int
    slope: float
    constant: float
    n_kin: int = 0

    def draw(self, n_pictures: int, seed: int) -> NDArray[np.float32]:
        """Embeddings, kin beside each other."""
        rng = np.random.default_rng(seed)
        widths = np.arange(1.0, self.dimension + 1) ** -self.slope
        widths /= np.linalg.norm(widths)
        n_each = self.n_kin + 1
        centres = rng.normal(size=(-(-n_pictures // n_each), self.dimension))
        own = rng.normal(size=(n_pictures, self.dimension))
        points: NDArray[np.float64] = centres.repeat(n_each, axis=0)[:n_pictures] + 0.3 * own
        points *= widths
        points += self.constant / self.dimension**0.5
        return points.astype(np.float32)


CLOUDS = st.builds(
    Cloud,
    dimension=st.sampled_from((16, 64, 512, 2048)),
    slope=st.sampled_from((0.0, 0.3, 0.7)),
    constant=st.sampled_from((0.0, 1.0, 30.0)),
)


def sample_of(rows: NDArray[np.float32], seed: int = 0) -> NDArray[np.float32]:
    return np.random.default_rng(seed).permutation(rows)[:N_SAMPLE]


def evidence_of(calibration: Calibration, rows: NDArray[np.float32]) -> NDArray[np.float64]:
    """Of all pairs."""
    unit = rows.astype(np.float64)
    unit /= np.linalg.norm(unit, axis=1, keepdims=True)
    return calibration.evidence((unit @ unit.T)[np.triu_indices(len(unit), 1)])


def share_of_rare(calibration: Calibration, rows: NDArray[np.float32]) -> float:
    """Of the pairs, the share with a score of 0.99 or more."""
    return float(np.mean(evidence_of(calibration, rows) >= RARE))


@settings(max_examples=20)
@given(
    CLOUDS,
    # What is related is a larger part of a small library.
    st.sampled_from(((100, 0, 0.018), (500, 0, 0.015), (500, 2, 0.015), (5000, 2, 0.018))),
    SEEDS,
)
def test_one_unrelated_pair_of_a_hundred_is_rare(
    cloud: Cloud, library: tuple[int, int, float], seed: int
) -> None:
    n_pictures, n_kin, at_most = library
    rows = replace(cloud, n_kin=n_kin).draw(n_pictures, seed)

    measured = calibrate(sample_of(rows, seed), ASSUMED, n_pictures)

    unrelated = rows[:: n_kin + 1][:N_TRIED]
    assert 0.005 <= share_of_rare(measured, unrelated) <= at_most


@settings(max_examples=10)
@given(CLOUDS, SEEDS)
def test_a_library_unlike_the_pictures_of_its_models_card_leaves_them_behind(
    cloud: Cloud, seed: int
) -> None:
    card = measure_model(replace(cloud, constant=0.5).draw(300, seed + 1), np.arange(300))
    rows = cloud.draw(500, seed)

    assert 0.005 <= share_of_rare(calibrate(rows, card), rows) <= 0.018


@settings(max_examples=15)
@given(CLOUDS, st.sampled_from((30.0, 300.0)), SEEDS)
def test_a_constant_and_a_scale_change_no_score_by_much(
    cloud: Cloud, larger: float, seed: int
) -> None:
    near = replace(cloud, constant=30.0)
    rows = near.draw(500, seed)
    nearer = rows + np.float32((larger - 30.0) / near.dimension**0.5)
    scaled = np.float32(0.01) * rows

    evidence, *others = (
        evidence_of(calibrate(some, ASSUMED), some) for some in (rows, nearer, scaled)
    )

    for other in others:
        assert np.abs(other - evidence).max() < 0.2 * evidence.max()
        assert np.corrcoef(evidence, other)[0, 1] > 0.99


@settings(max_examples=20)
@given(CLOUDS, st.integers(2, 100), SEEDS)
def test_nearer_is_rarer_and_an_exact_copy_the_rarest(
    cloud: Cloud, n_pictures: int, seed: int
) -> None:
    measured = calibrate(cloud.draw(n_pictures, seed), ASSUMED)
    cosines = np.r_[np.linspace(-1.0, 1.0, 100), 1.0 - np.logspace(0, -9, 100)]
    evidence = measured.evidence(np.sort(cosines))

    assert np.isfinite(evidence).all()
    assert (np.diff(evidence) >= 0.0).all()
    assert evidence[-1] == measured.evidence(np.array(1.0))
    assert measured.score(1.0) == max(measured.score(float(cosine)) for cosine in cosines)


@settings(max_examples=10)
@given(CLOUDS, st.integers(2, 60), SEEDS)
def test_the_order_of_pictures_changes_nothing(cloud: Cloud, n_pictures: int, seed: int) -> None:
    rows = cloud.draw(n_pictures, seed)

    measured, moved = (calibrate(some, ASSUMED) for some in (rows, sample_of(rows, seed)))

    assert np.log(1.0 - np.array(moved.cosines)) == pytest.approx(
        np.log(1.0 - np.array(measured.cosines)), abs=1e-6
    )
    assert moved.exponent == pytest.approx(measured.exponent, rel=1e-6)
