"""What holds of words and pictures in one query whatever they are."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st
from numpy.typing import NDArray
from support.random_sets import Model

from twinlens.models.calibration import calibrate_query, prior_of
from twinlens.models.distances import Metric
from twinlens.models.words import combine_parts, weigh_words

N_DIM = 4
Rows = NDArray[np.float32]
Parts = list[tuple[float, Rows]]
SHARES = st.floats(0.1, 1.0) | st.floats(-0.5, -0.1)
WEIGHTS = st.dictionaries(st.sampled_from("abcdef"), st.just(0.0) | st.floats(1e-6, 1000.0))
NETWORK = prior_of(Model(Metric.L2, 16))


@st.composite
def unit_rows(draw: st.DrawFn, at_least: int, at_most: int) -> Rows:
    n_rows = draw(st.integers(at_least, at_most))
    rows = np.random.default_rng(draw(st.integers(0, 1000))).normal(size=(n_rows, N_DIM))
    return np.asarray(rows / np.linalg.norm(rows, axis=1, keepdims=True), np.float32)


@st.composite
def queries(draw: st.DrawFn) -> Parts:
    rows = draw(unit_rows(1, 4))
    return [(draw(SHARES), row) for row in rows]


SAMPLES = unit_rows(0, 40)


@given(queries(), SAMPLES)
def test_a_query_is_one_direction(parts: Parts, sample: Rows) -> None:
    made = combine_parts(parts, sample)

    assert made.dtype == np.float32
    assert np.linalg.norm(made) == pytest.approx(1.0, abs=1e-5)
    alone = combine_parts([(abs(parts[0][0]), parts[0][1])], sample)
    assert alone == pytest.approx(parts[0][1], abs=1e-6)


@given(queries(), SAMPLES, st.floats(0.1, 10.0))
def test_neither_order_nor_the_scale_of_shares_matters(
    parts: Parts, sample: Rows, scale: float
) -> None:
    made = combine_parts(parts, sample)

    assert combine_parts(parts[::-1], sample[::-1]) == pytest.approx(made, abs=1e-4)
    scaled = [(scale * share, row) for share, row in parts]
    assert combine_parts(scaled, sample) == pytest.approx(made, abs=1e-4)


@given(unit_rows(2, 2), unit_rows(30, 40), st.floats(0.0, 20.0))
def test_how_far_words_lie_from_pictures_changes_little(
    pair: Rows, sample: Rows, gap: float
) -> None:
    """Pictures have none of the last number: all that it does to words is to shorten the rest."""
    assume(pair[0] @ pair[1] > -0.5)
    pictures = np.pad(sample, ((0, 0), (0, 1)))
    shown, said = np.pad(pair, ((0, 0), (0, 1)))
    moved = said + np.float32(gap) * np.eye(N_DIM + 1, dtype=np.float32)[-1]
    moved /= np.linalg.norm(moved)

    near, far = (combine_parts([(1, shown), (1, one)], pictures)[:-1] for one in (said, moved))

    assert near @ far / np.linalg.norm(near) / np.linalg.norm(far) > 0.9


@given(st.lists(st.floats(-0.99, 0.99), max_size=60))
def test_any_cosines_have_a_calibration_whose_middle_is_theirs(cosines: list[float]) -> None:
    own = calibrate_query(np.array(cosines), NETWORK)

    scores = [own.score(cosine) for cosine in sorted(cosines)]
    assert scores == sorted(scores)
    assert all(0.0 <= score <= 1.0 for score in scores)
    if len(cosines) > 1:
        assert own.score(min(cosines)) <= 0.75
        assert own.score(max(cosines)) >= 0.25


@given(WEIGHTS, st.sets(st.sampled_from("abcdef")))
def test_words_are_not_outvoted(weights: dict[str, float], knowing: set[str]) -> None:
    made = weigh_words(weights, knowing)

    known = [name for name in weights if name in knowing]
    other = [name for name in weights if name not in knowing]
    assert {name: made[name] for name in known} == {name: weights[name] for name in known}
    if sum(weights[name] for name in known):
        assert sum(made[n] for n in other) <= sum(made[n] for n in known) * (1 + 1e-9)
    shares = [made[name] / weights[name] for name in other if weights[name]]
    assert shares == pytest.approx(shares[:1] * len(shares))
    assert all(0.0 < share <= 1.0 for share in shares)
