"""Laws of whitening within labels."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from twinlens.models.workbench.wccn import measure_within

DIMENSION = 6
seeds = st.integers(0, 2**32 - 1)


@given(seed=seeds, n_labels=st.integers(2, 6))
def test_without_shrinkage_the_covariance_within_labels_becomes_the_identity(
    seed: int, n_labels: int
) -> None:
    rng = np.random.default_rng(seed)
    codes = np.repeat(np.arange(n_labels), 3 * DIMENSION)
    spread = rng.uniform(0.2, 2, DIMENSION)
    rows = (rng.standard_normal((len(codes), DIMENSION)) * spread).astype(np.float32)

    linear = measure_within(rows, codes).whitening(0.0)

    mapped = (rows - linear.mean).astype(np.float64) @ linear.matrix
    differences = mapped - np.stack([mapped[codes == code].mean(axis=0) for code in codes])
    covariance = differences.T @ differences
    covariance /= np.trace(covariance) / DIMENSION
    assert covariance == pytest.approx(np.eye(DIMENSION), abs=1e-3)


@given(seed=seeds)
def test_with_full_shrinkage_the_mean_is_subtracted_and_nothing_else(seed: int) -> None:
    rng = np.random.default_rng(seed)
    rows = rng.standard_normal((12, DIMENSION)).astype(np.float32)

    linear = measure_within(rows, np.repeat(np.arange(4), 3)).whitening(1.0)

    assert linear.matrix == pytest.approx(np.eye(DIMENSION), abs=1e-6)
    assert linear.mean == pytest.approx(rows.mean(axis=0), abs=1e-6)


@given(seed=seeds, shrinkage=st.floats(0.05, 1.0))
def test_names_of_labels_and_the_order_of_pictures_change_nothing(
    seed: int, shrinkage: float
) -> None:
    rng = np.random.default_rng(seed)
    rows = rng.standard_normal((20, DIMENSION)).astype(np.float32)
    codes = rng.integers(0, 5, 20)
    order, names = rng.permutation(20), rng.permutation(5)

    one, other = measure_within(rows, codes), measure_within(rows[order], names[codes[order]])

    matrix = other.whitening(shrinkage).matrix
    assert one.whitening(shrinkage).matrix == pytest.approx(matrix, abs=1e-4)
