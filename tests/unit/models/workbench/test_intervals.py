"""How sure a difference is, and what it takes to see one."""

from __future__ import annotations

import numpy as np
import pytest

from twinlens.models.workbench.intervals import (
    draw_queries,
    estimate_means,
    measure_difference,
    n_needed,
)


def test_so_many_queries_as_are_needed_show_the_difference_four_times_of_five() -> None:
    rng = np.random.default_rng(0)
    mean, spread = 0.03, 0.2
    sample = rng.normal(size=2000)
    needed = n_needed(mean + spread * (sample - sample.mean()) / sample.std(ddof=1))

    assert needed == 349
    tries = rng.normal(mean, spread, (4000, needed))
    errors = tries.std(axis=1, ddof=1) / needed**0.5
    assert np.mean(np.abs(tries.mean(axis=1)) > 1.96 * errors) == pytest.approx(0.8, abs=0.02)


def test_no_difference_needs_no_number_of_queries() -> None:
    same = np.array([0.2, 0.5, 0.9])
    counts = draw_queries(np.random.default_rng(0), 3, 10)

    difference = measure_difference(same, same, counts)

    assert (difference.n_needed, difference.is_seen) == (None, False)
    assert difference.needs == "the 3 queries show no difference at all"


def test_a_paired_interval_sees_what_two_intervals_do_not() -> None:
    # Queries differ much in how hard they are, and both find hard what is hard.
    rng = np.random.default_rng(1)
    hardness = rng.uniform(0, 0.9, 200)
    better = hardness + 0.02 + rng.normal(size=200) * 0.03
    counts = draw_queries(rng, 200, 1000)

    first, second = estimate_means(np.stack([hardness, better]), counts)
    difference = measure_difference(better, hardness, counts)

    assert first.high > second.low
    assert second.low < first.value
    assert difference.is_seen
    assert difference.estimate.low > 0.01
    assert difference.n_needed is not None
    assert difference.n_needed < 200
