"""Tells of a distance how rare so near a neighbour is among unrelated pictures. Pure.

A distance of 0.7 means nothing until one knows how far apart unrelated pictures lie: under this
model, in this library. A calibration keeps that distribution in terms of the cosine, so that one
serves every metric, as few numbers:

- five quantiles, from the far end to the nearest 2 %; between them log F is a straight line;
- beyond the last the share falls with a power of the distance, as the near end of any
  distribution of distances does (Amsaleg et al., Estimating Local Intrinsic Dimensionality, KDD
  2015). The exponent is the model's, from its card: the nearest pairs of a library are too often
  related ones to measure it there.

Which pairs of a library are unrelated nobody says. So each picture is taken to have N_KIN others
that show the same, and they to be the nearest: their share of the pairs is left out.
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

# With it, between 0.6 and 1.5 % of unrelated pairs score 0.99 both where each picture has 10 to 15
# kin among 150 to 550 pictures and where none has any (docs/decisions/0010-calibration.md).
N_KIN = 2.0
# Part of a library, at most, that N_KIN are: small libraries have fewer of them.
MAX_KIN_SHARE = 0.05
# Pictures that the card's own distribution counts for.
N_PRIOR = 20
# Pictures that a calibration is made from: 130,816 pairs. With 256 the share of unrelated pairs
# that score 0.99 spread by 0.19 points, with 500 by 0.06.
N_SAMPLE = 512
# Fewer unrelated pairs have no quantile at DEEP_LEVEL.
MIN_PAIRS = 2_000


class Calibration(BaseModel):
    """The distribution of the cosines between unrelated pictures under one model.

    `cosines` are the quantiles at LEVELS, rising. `n_pictures` and `n_pairs` say what was measured:
    0 for one that is assumed.

    >>> round(Calibration(cosines=(0.0, 0.1, 0.2, 0.4, 0.6), exponent=8).score(0.6), 6)
    0.98
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    cosines: tuple[float, float, float, float, float]
    exponent: float = Field(gt=0.0, le=64.0)
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

# Between those of the shipped networks, which were measured on photos of shops, clothes, flowers.
_NETWORKS = Calibration(cosines=(0.12, 0.15, 0.22, 0.41, 0.615), exponent=8.3)
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

    Quantiles are a mean of the sample's and the prior's, weighted n to N_PRIOR, so a library of no
    or one picture has the prior's.

    Args:
        rows: float32 [n, dim], or uint8 [n, dim / 8] of packed bits; N_SAMPLE of them are enough.
        prior: The model's calibration, from `prior_of`.
        n_pictures: How many pictures the library has; as many as the sample by default.
    """
    n_rows = len(rows)
    n_pictures = n_rows if n_pictures is None else n_pictures
    if n_rows < 2:
        return prior.model_copy(update={"n_pictures": n_pictures, "n_pairs": 0})
    cosines = _cosines(rows)[np.triu_indices(n_rows, 1)]
    own = _quantiles(cosines, LEVELS, _kin_share(rows, n_pictures))
    share = n_rows / (n_rows + N_PRIOR)
    return Calibration(
        cosines=_five(share * own + (1.0 - share) * np.array(prior.cosines)),
        exponent=prior.exponent,
        n_pictures=n_pictures,
        n_pairs=len(cosines),
    )


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
    quantiles = _quantiles(cosines, (*LEVELS, DEEP_LEVEL), 0.0).round(4)
    if not (np.diff(quantiles) > 0.0).all():
        raise ValueError("many pairs are all as far apart: give other pictures, or check the model")
    rest = (1.0 - quantiles[-1]) / (1.0 - quantiles[-2])
    exponent = np.log(LEVELS[-1] / DEEP_LEVEL) / np.log((1.0 + FLOOR) / (rest + FLOOR))
    return Calibration(
        cosines=_five(quantiles[:-1]),
        exponent=round(float(exponent), 2),
        n_pictures=len(rows),
        n_pairs=len(cosines),
    )


def _five(values: NDArray[np.float64]) -> tuple[float, float, float, float, float]:
    a, b, c, d, e = values.tolist()
    return a, b, c, d, e


def _cosines(rows: Embeddings) -> NDArray[np.float32]:
    if is_packed(rows):
        unit = signs_of(rows)
        products = unit @ unit.T / np.float32(unit.shape[1])
    else:
        lengths = np.linalg.norm(rows, axis=1, keepdims=True)
        unit = rows / np.maximum(lengths, np.float32(1e-12))
        products = unit @ unit.T
    cosines: NDArray[np.float32] = np.clip(products, -1.0, 1.0)
    return cosines


def _kin_share(rows: Embeddings, n_pictures: int) -> float:
    # A hash knows copies, not kin: pictures that show the same are as far apart as any.
    if is_packed(rows):
        return 0.0
    return N_KIN / (n_pictures + N_KIN / MAX_KIN_SHARE)


def _quantiles(
    cosines: NDArray[np.float32], levels: tuple[float, ...], kin_share: float
) -> NDArray[np.float64]:
    """Returns the cosine at each level, the nearest `kin_share` left out.

    Half of a tie counts as nearer, so that quantiles of a number of bits lie between whole ones.
    Source: Ma, Genton, Parzen, Asymptotic Properties of Sample Quantiles of Discrete
    Distributions, 2011 (mid-distribution).
    """
    values, counts = np.unique(cosines, return_counts=True)
    farther = (counts.cumsum() - counts / 2.0) / len(cosines)
    asked = 1.0 - np.array(levels)
    return np.interp(asked * (1.0 - kin_share), farther, values.astype(np.float64))
