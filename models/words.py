"""Puts words and pictures together into one query, under a model that understands both. Pure."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping, Sequence

    from numpy.typing import NDArray

# How much counter-examples count relative to examples: Rocchio's gamma / beta, as recommended by
# Manning, Raghavan, Schütze, Introduction to Information Retrieval, 2008, section 9.1.1.
NEGATIVE_SHARE = 0.2
# Pictures of a sample for which it counts that all parts spread alike.
N_ALIKE = 2
# Pictures of a library that a query with words is measured on, at most: 5 are nearer than the last
# quantile of a calibration.
N_SAMPLE = 256
# Relative to the part that spreads farthest. One that is as near to all pictures says nothing.
LEAST_SPREAD = 0.02
# Cosines that spread less are the same: float32 rounds them.
SAME_SPREAD = 1e-6


def combine_parts(
    parts: Sequence[tuple[float, NDArray[np.float32]]], sample: NDArray[np.float32]
) -> NDArray[np.float32]:
    """Combines what a query is made of into one direction.

    Pictures lie near each other and far from all words, so cosines of pictures to a picture spread
    farther than those to words: in a plain sum words would hardly count. So each part is divided by
    the spread of its cosines to a sample of the library's pictures, as Psomas and others divide the
    cosines themselves (Composed Image Retrieval for Remote Sensing, IGARSS 2024). Their mean need
    not be taken off: it is the same for all pictures.

    Args:
        parts: Each part's share, less than 0 for what is to be avoided, and its embedding, float32
            [dim], of length 1.
        sample: float32 [n, dim], a random sample of the library's embeddings, of length 1. With few
            or none, all parts are taken to spread alike.

    Returns:
        float32 [dim], of length 1. All 0 if the parts cancel each other out.
    """
    shares, rows = np.array([share for share, _ in parts]), np.stack([row for _, row in parts])
    summed = shares / _spreads(rows, sample) @ rows
    length = float(np.linalg.norm(summed)) or 1.0
    return np.asarray(summed / length, np.float32)


def _spreads(rows: NDArray[np.float32], sample: NDArray[np.float32]) -> NDArray[np.float64]:
    """Returns how far the cosines of each part spread, float64 [p], relative to the farthest."""
    n_sample = len(sample)
    measured = (sample @ rows.T).astype(np.float64).std(axis=0) if n_sample else np.zeros(1)
    farthest = float(measured.max())
    if farthest < SAME_SPREAD:
        return np.ones(len(rows))
    relative = np.maximum(measured / farthest, LEAST_SPREAD)
    return np.asarray(relative ** (n_sample / (n_sample + N_ALIKE)))


def weigh_words(weights: Mapping[str, float], knowing: Collection[str]) -> dict[str, float]:
    """Makes models that understand words count at least as much as all others together.

    Words are half of what is looked for, and may be understood by one model of many.

    Args:
        weights: By model, 0 or more.
        knowing: The models that understand words.

    Returns:
        The weights, those of the others made smaller where they are too many.
    """
    known = sum(weight for name, weight in weights.items() if name in knowing)
    other = sum(weight for name, weight in weights.items() if name not in knowing)
    share = min(1.0, known / other) if other and known else 1.0
    return {n: weight if n in knowing else share * weight for n, weight in weights.items()}
