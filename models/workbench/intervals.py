"""How sure a measured mean is, and how many queries it takes to be sure of a difference.

Intervals are bootstrap percentiles over queries (Efron and Tibshirani, An Introduction to the
Bootstrap, 1993, chapter 13), with the same drawn queries for all, so that differences are paired.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from statistics import NormalDist

import numpy as np
from numpy.typing import NDArray

# How often a difference that is there is to be seen.
POWER = 0.8


@dataclass(frozen=True)
class Estimate:
    """A mean over queries, and its bootstrap interval of 95 %."""

    value: float
    low: float
    high: float

    def __format__(self, sign: str) -> str:
        """For people, with `+` the sign of a difference too.

        >>> f"{Estimate(0.5, 0.25, 0.75):+}"
        '+0.500 (+0.250 to +0.750)'
        """
        return f"{self.value:{sign}.3f} ({self.low:{sign}.3f} to {self.high:{sign}.3f})"


@dataclass(frozen=True)
class PairedDifference:
    """By how much one ranks the same queries better than another.

    `n_needed` is how many queries show a difference of this size, four times of five; None where
    there is none.
    """

    estimate: Estimate
    n_needed: int | None
    n_queries: int

    @property
    def is_seen(self) -> bool:
        """Whether chance alone would rarely make it."""
        return self.estimate.low > 0.0 or self.estimate.high < 0.0

    @property
    def needs(self) -> str:
        """For people: what it takes to see a difference of this size."""
        if self.n_needed is None:
            return f"the {self.n_queries:,} queries show no difference at all"
        many = "more than a million"
        takes = many if self.n_needed > 1_000_000 else f"some {round_up(self.n_needed):,}"
        return (
            f"a difference of this size takes {takes} queries to be seen, and there are"
            f" {self.n_queries:,}"
        )


def draw_queries(rng: np.random.Generator, n_queries: int, n_bootstrap: int) -> NDArray[np.int64]:
    """Draws queries, each time as many as there are, with repetition: how often each, [b, q]."""
    return rng.multinomial(n_queries, np.full(n_queries, 1.0 / n_queries), size=n_bootstrap)


def estimate_means(values: NDArray[np.float64], counts: NDArray[np.int64]) -> list[Estimate]:
    """Estimates the means of [r, q], with intervals, from how often each query is drawn, [b, q]."""
    means = values.mean(axis=1)
    drawn = values @ counts.T / counts.sum(axis=1)
    lows, highs = np.quantile(drawn, [0.025, 0.975], axis=1)
    # The mean may leave a narrow interval by rounding: not here.
    lows, highs = np.minimum(lows, means), np.maximum(highs, means)
    return [Estimate(*row) for row in np.stack([means, lows, highs], axis=1).tolist()]


def measure_difference(
    better: NDArray[np.float64], other: NDArray[np.float64], counts: NDArray[np.int64]
) -> PairedDifference:
    """Measures by how much one is better, query by query.

    What is hard for the one is mostly hard for the other: so the difference is known much better
    than either mean.

    Args:
        better: [q], a measure of each query.
        other: [q], the same of the other's.
        counts: [b, q], from `draw_queries`.
    """
    differences = better - other
    [estimate] = estimate_means(differences[np.newaxis], counts)
    return PairedDifference(estimate, n_needed(differences), len(differences))


def n_needed(differences: NDArray[np.float64]) -> int | None:
    """Returns how many queries show a mean difference of this size, or None where there is none.

    n = ((z(1 - 0.05 / 2) + z(POWER)) · s / d)², of the mean d of the differences by query and
    their standard deviation s: the paired test, with the normal distribution for Student's t.

    Source: Cohen, Statistical Power Analysis for the Behavioral Sciences, 1988, chapter 2; for
    queries Webber, Moffat, Zobel, Statistical Power in Retrieval Experimentation, CIKM 2008.

    >>> n_needed(np.array([0.0, 0.2]))
    16
    """
    mean = float(differences.mean())
    if len(differences) < 2 or abs(mean) < 1e-9:
        return None
    normal = NormalDist()
    steps = normal.inv_cdf(0.975) + normal.inv_cdf(POWER)
    return max(2, math.ceil((steps * float(differences.std(ddof=1)) / mean) ** 2))


def round_up(n: int) -> int:
    """Rounds to two digits, up: more are not known.

    >>> round_up(4110), round_up(96)
    (4200, 96)
    """
    step = int(10 ** max(0, len(str(n)) - 2))
    return -(-n // step) * step
