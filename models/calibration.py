"""Tells of a distance how rare so near a neighbour is among unrelated pictures. Pure.

A distance of 0.7 means nothing until one knows how far apart unrelated pictures lie: under this
model, in this library. A calibration keeps that distribution in terms of the cosine, so that one
serves every metric, as few numbers:

- five quantiles, from the far end to the nearest 2 %; between them log F is a straight line;
- beyond the last the share falls with a power of the distance, as the near end of any
  distribution of distances does (Amsaleg et al., Estimating Local Intrinsic Dimensionality, KDD
  2015). The nearest pairs of a library are too often related ones to measure the exponent there.

A small library leans on what is assumed of its model, the prior. But few pictures tell how far
apart a model puts them, some more how far that spreads, and many the shape of the distribution. So
the prior is brought to the library's own place and spread, in logarithms of distances, 1 - cosine:
there, all distances twice as long are a step, and all of them to a power are a stretch, which
divides the exponent of the power law. So exponent * log(median distance / last quantile) stays as
it is: measured, 4.4 to 6.5 for seven networks and a hash, with exponents from 3 to 14.

Which pairs of a library are unrelated nobody says. So each picture is taken to have N_KIN others
that show the same, within KIN_SHARES, and they to be the nearest: their pairs are left out.
"""

from __future__ import annotations

from itertools import pairwise
from typing import Protocol, Self

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field, model_validator

from twinlens.models.bits import Embeddings, is_packed, signs_of
from twinlens.models.distances import Space

# Shares of unrelated pairs that are at least as near, one a quantile. The last is where the power
# law begins: nearer, related pairs spoil the quantile; farther, the law does not hold yet.
LEVELS = (0.975, 0.9, 0.5, 0.1, 0.02)
# Where a model's exponent is measured, from unrelated pairs alone.
DEEP_LEVEL = 0.001
# Part of the distance of the last quantile that is added to every distance: keeps the evidence of
# an exact copy finite, and 1 - F below 1 for most models.
FLOOR = 0.05

# With these, between 0.5 and 1.5 % of unrelated pairs score 0.99 both where one pair of forty is
# related, in 100 to 5,000 pictures, and where none is (docs/decisions/0010-calibration.md).
N_KIN = 2.0
# Parts of all pairs that are kin, at least and at most: large libraries have more of them.
KIN_SHARES = (0.003, 0.008)
# Pictures that the prior's shape counts for, and its place if it is a card's, or else its spread.
N_PRIOR = 20
N_UNITS = 5
# Pictures that a calibration is made from: 130,816 pairs. With 256 the share of unrelated pairs
# that score 0.99 spread by 0.19 points, with 500 by 0.06.
N_SAMPLE = 512
# Fewer unrelated pairs have no quantile at DEEP_LEVEL.
MIN_PAIRS = 2_000
# Distances, and differences of their logarithms, are taken to be no smaller: copies have none.
LEAST = 1e-9
LEAST_SPREAD = 1e-3
# Embeddings of 9,000 independent numbers have it.
MAX_EXPONENT = 256.0


class Calibration(BaseModel):
    """The distribution of the cosines between unrelated pictures under one model.

    `cosines` are the quantiles at LEVELS, rising. `n_pictures` and `n_pairs` say what was measured:
    0 for one that is assumed.

    >>> round(Calibration(cosines=(0.0, 0.1, 0.2, 0.4, 0.6), exponent=8).score(0.6), 6)
    0.98
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    cosines: tuple[float, float, float, float, float]
    exponent: float = Field(gt=0.0, le=MAX_EXPONENT)
    n_pictures: int = Field(default=0, ge=0)
    n_pairs: int = Field(default=0, ge=0)

    @model_validator(mode="after")
    def _rise(self) -> Self:
        bounds = (-1.0, *self.cosines, 1.0)
        # Written so that NaN is refused.
        if not all(low < high for low, high in pairwise(bounds)):
            raise ValueError("cosines must rise, each above -1 and below 1")
        return self

    def evidence(self, cosines: NDArray[np.float64]) -> NDArray[np.float64]:
        """Returns -log10 F of each: 2 where one unrelated pair of a hundred is at least as near.

        Args:
            cosines: float64 of any shape; beyond -1 and 1, where rounding takes them, as there.

        Returns:
            float64, the same shape: 0 for opposites, finite, rising with the cosine.
        """
        far = np.interp(cosines, (-1.0, *self.cosines), _EVIDENCE)
        rest = np.maximum((1.0 - cosines) / (1.0 - self.cosines[-1]), 0.0)
        near = _EVIDENCE[-1] + self.exponent * np.log10((1.0 + FLOOR) / (rest + FLOOR))
        return np.asarray(np.where(rest < 1.0, near, far))

    def score(self, cosine: float) -> float:
        """Returns 1 - F of one cosine, from 0 to 1."""
        return float(score_of(self.evidence(np.array(cosine))))


_EVIDENCE = (0.0, *(-np.log10(LEVELS)).tolist())

_MEDIAN, _TENTH = LEVELS.index(0.5), LEVELS.index(0.1)
_RISING = np.linspace(-0.5, 0.5, len(LEVELS))

# Around the shipped networks' median, of a shape between photos of many kinds and of one.
_NETWORKS = Calibration(cosines=(0.04, 0.09, 0.22, 0.41, 0.55), exponent=9.9)
# Of random bits the cosine is nearly normal, of deviation 1 / √bits; the exponent is a hash's.
_RANDOM_BITS = (-1.96, -1.2816, 0.0, 1.2816, 2.0537)
_BITS_EXPONENT = 13.6


def score_of(evidence: NDArray[np.float64]) -> NDArray[np.float64]:
    """Turns evidence into scores from 0 to 1: 1 - 10^-evidence, the share farther away."""
    return np.asarray(-np.expm1(-np.log(10.0) * evidence))


class Measured(Space, Protocol):
    """A model that may have a calibration of its own; a `Card` is one."""

    @property
    def calibration(self) -> Calibration | None:
        """The distribution of its distances, if it was measured."""


def prior_of(model: Measured) -> Calibration:
    """Returns the calibration to assume for a model where no library was measured.

    That is the one on its card; else, for numbers, that of the shipped networks, and for bits,
    that of random ones.
    """
    if model.calibration is not None:
        return model.calibration
    if model.metric != "HAMMING":  # card.py reads this module, so its names cannot be imported here
        return _NETWORKS
    low, lower, middle, upper, high = (z / model.dimension**0.5 for z in _RANDOM_BITS)
    return Calibration(cosines=(low, lower, middle, upper, high), exponent=_BITS_EXPONENT)


def calibrate(rows: Embeddings, prior: Calibration, n_pictures: int | None = None) -> Calibration:
    """Measures a library from a random sample of its embeddings.

    Logarithms of distances are a mean of the sample's and the prior's, which is brought into the
    sample's units first, weighted n to N_PRIOR. A library of no or one picture has the prior's.

    Args:
        rows: float32 [n, dim], or uint8 [n, dim / 8] of packed bits; N_SAMPLE of them are enough.
        prior: The model's calibration, from `prior_of`.
        n_pictures: How many pictures the library has; as many as the sample by default.
    """
    n_rows = len(rows)
    n_pictures = n_rows if n_pictures is None else n_pictures
    if n_rows < 2:
        return prior.model_copy(update={"n_pictures": n_pictures, "n_pairs": 0})
    pairs = _cosines(rows)[np.triu_indices(n_rows, 1)]
    quantiles = _quantiles(pairs, LEVELS, _kin_share(rows, n_pictures))
    calibration = _leaning_on(prior, quantiles, n_rows)
    return calibration.model_copy(update={"n_pictures": n_pictures, "n_pairs": len(pairs)})


def calibrate_query(cosines: NDArray[np.float64], prior: Calibration) -> Calibration:
    """Measures how near the pictures of a library lie to one query that is no picture.

    Words lie elsewhere than pictures, and so does what is made of both: what is rare between
    pictures says nothing of them. Only the shape of the prior is believed.

    Args:
        cosines: float64 [n], of the query to a random sample of the pictures.
        prior: The model's calibration between pictures.
    """
    if len(cosines) < 2:
        return prior
    assumed = prior.model_copy(update={"n_pairs": 0})
    kin_share = float(np.clip(N_KIN / len(cosines), *KIN_SHARES))
    return _leaning_on(assumed, _quantiles(cosines, LEVELS, kin_share), len(cosines))


def _leaning_on(prior: Calibration, quantiles: NDArray[np.float64], n_rows: int) -> Calibration:
    """Returns the mean of what was measured and the prior, by how much was measured."""
    own = _logs(quantiles)
    share = n_rows / (n_rows + N_PRIOR)
    logs = share * own + (1.0 - share) * _in_units_of(own, prior, n_rows)
    exponent = prior.exponent * _reach(_logs(np.array(prior.cosines))) / _reach(logs)
    # So that quantiles rise where all distances are the same.
    cosines = (1.0 - LEAST) * np.maximum(1.0 - np.exp(logs), -1.0) + LEAST * _RISING
    return Calibration(cosines=_five(cosines), exponent=min(exponent, MAX_EXPONENT))


def measure_model(rows: Embeddings, codes: NDArray[np.intp]) -> Calibration:
    """Measures a model on labelled pictures, for its card, with the exponent.

    Args:
        rows: float32 [n, dim], or uint8 [n, dim / 8] of packed bits.
        codes: [n] equal for related pictures.

    Raises:
        ValueError: There are fewer than MIN_PAIRS unrelated pairs, or many are equally far apart.
    """
    first, second = np.triu_indices(len(rows), 1)
    cosines = _cosines(rows)[first, second][codes[first] != codes[second]]
    if len(cosines) < MIN_PAIRS:
        raise ValueError(
            f"{len(cosines)} pairs of unrelated pictures are too few: {MIN_PAIRS} are needed, as "
            "of 64 pictures of which no two show the same"
        )
    quantiles = _quantiles(cosines, (*LEVELS, DEEP_LEVEL), 0.0)
    # Four digits of the smallest distance, which may be a ten-thousandth.
    quantiles = quantiles.round(3 - int(np.floor(_logs(quantiles[-1:])[0] / np.log(10.0))))
    if not (np.diff(quantiles) > 0.0).all():
        raise ValueError("many pairs are all as far apart: give other pictures, or check the model")
    rest = (1.0 - quantiles[-1]) / (1.0 - quantiles[-2])
    exponent = np.log(LEVELS[-1] / DEEP_LEVEL) / np.log((1.0 + FLOOR) / (rest + FLOOR))
    return Calibration(
        cosines=_five(quantiles[:-1]),
        exponent=min(round(float(exponent), 2), MAX_EXPONENT),
        n_pictures=len(rows),
        n_pairs=len(cosines),
    )


def _in_units_of(own: NDArray[np.float64], prior: Calibration, n_rows: int) -> NDArray[np.float64]:
    """Brings the logarithms of a prior's distances to the place and spread of a library's.

    One that was measured, of this very model, keeps its spread, and its place in part. Of one that
    is assumed only the shape is believed, and the spread as far as so few pictures do not tell it.
    """
    logs = _logs(np.array(prior.cosines))
    if prior.n_pairs >= MIN_PAIRS:
        return np.asarray(logs + n_rows / (n_rows + N_UNITS) * (own[_MEDIAN] - logs[_MEDIAN]))
    own_spread, spread = (max(some[_MEDIAN] - some[_TENTH], LEAST_SPREAD) for some in (own, logs))
    stretch = (own_spread / spread) ** ((n_rows - 2) / (n_rows - 2 + N_UNITS))
    return np.asarray(own[_MEDIAN] + stretch * (logs - logs[_MEDIAN]))


def _logs(cosines: NDArray[np.float64]) -> NDArray[np.float64]:
    return np.asarray(np.log(np.maximum(1.0 - cosines, LEAST)))


def _reach(logs: NDArray[np.float64]) -> float:
    """Returns how much nearer than the median the last quantile is."""
    return max(float(logs[_MEDIAN] - logs[-1]), LEAST_SPREAD)


def _five(values: NDArray[np.float64]) -> tuple[float, float, float, float, float]:
    a, b, c, d, e = values.tolist()
    return a, b, c, d, e


def _cosines(rows: Embeddings) -> NDArray[np.float64]:
    if is_packed(rows):
        signs = signs_of(rows).astype(np.float64)
        return np.asarray(signs @ signs.T / signs.shape[1])
    # Not in float32: that leaves three digits of the distance where cosines are 0.9999.
    numbers = rows.astype(np.float64)
    unit = numbers / np.maximum(np.linalg.norm(numbers, axis=1, keepdims=True), 1e-12)
    return np.asarray(np.clip(unit @ unit.T, -1.0, 1.0))


def _kin_share(rows: Embeddings, n_pictures: int) -> float:
    # A hash knows copies, not kin: pictures that show the same are as far apart as any.
    if is_packed(rows):
        return 0.0
    return float(np.clip(N_KIN / max(n_pictures, 1), *KIN_SHARES))


def _quantiles(
    cosines: NDArray[np.float64], levels: tuple[float, ...], kin_share: float
) -> NDArray[np.float64]:
    """Returns the cosine at each level, the nearest `kin_share` left out.

    Half of a tie counts as nearer, so that quantiles of a number of bits lie between whole ones.
    Source: Ma, Genton, Parzen, Asymptotic Properties of Sample Quantiles of Discrete
    Distributions, 2011 (mid-distribution).
    """
    values, counts = np.unique(cosines, return_counts=True)
    farther = (counts.cumsum() - counts / 2.0) / len(cosines)
    asked = 1.0 - np.array(levels)
    return np.interp(asked * (1.0 - kin_share), farther, values)
