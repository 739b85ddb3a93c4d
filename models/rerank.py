"""Re-ranks candidates by their neighbours: those that are also near each other move up. Pure."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from twinlens.models.bits import Embeddings, is_packed, signs_of

# The paper's 20, 6 and 0.3 are for sets a hundred times as large as the photos this was chosen on.
N_NEIGHBOURS = 10  # k1
N_AVERAGED = 6  # k2
OWN_SHARE = 0.3  # λ: of the similarity itself, beside that of the neighbourhoods
# The best of a fused ranking, which are put into a new order among themselves.
N_RERANKED = 100
# A neighbour's own neighbours join where so many of them are shared.
SHARED = 2 / 3


def pairwise_similarity(rows: Embeddings) -> NDArray[np.float32]:
    """Returns what `fusion.similarity` gives for each pair of embeddings, which have length 1.

    Args:
        rows: float32 [n, dim], or uint8 [n, dim / 8] of packed bits.

    Returns:
        float32 [n, n], from 0 to 1.
    """
    if is_packed(rows):
        signs = signs_of(rows)
        # Divided last: whole numbers until then, so that equal ones stay equal.
        cosines = signs @ signs.T / np.float32(signs.shape[1])
    else:
        cosines = rows @ rows.T
    similarity: NDArray[np.float32] = np.clip(cosines, 0, 1)
    return similarity


def rerank(
    similarity: NDArray[np.floating],
    n_neighbours: int = N_NEIGHBOURS,
    n_averaged: int = N_AVERAGED,
    own_share: float = OWN_SHARE,
) -> NDArray[np.intp]:
    """Orders candidates by k-reciprocal encoding. The first stays: its evidence is direct.

    Two pictures are reciprocal neighbours where each is among the nearest of the other. The
    encoding of a picture has a weight for each of its reciprocal neighbours; two pictures are as
    near as their encodings overlap (Jaccard), and by a share as they are themselves.

    Source: Zhong, Zheng, Cao, Li: Re-ranking Person Re-identification with k-reciprocal Encoding,
    CVPR 2017, equations 2 to 12. Ours is that the first stays: on labelled photos it kept the
    precision at 1, which fell by two points without, at the same mAP. So are the weights of the
    average: with equal ones, few or many are better as few or many pictures belong together
    (docs/decisions/0007-neighbours.md).

    Args:
        similarity: float [1 + n, 1 + n] from 0 to 1, symmetric: the query first, then the
            candidates, the most similar to the query first.
        n_neighbours: How many of the nearest count as neighbours (k1).
        n_averaged: Over how many of the nearest an encoding is averaged, itself first (k2), with
            weights that fall to 0 in equal steps.
        own_share: The share of the pictures' own distance, from 0 to 1 (λ).

    Returns:
        intp [n]: places of the candidates, from 0, the best first. Equals keep their order.
    """
    if len(similarity) <= 2:
        return np.arange(len(similarity) - 1)
    own = 1.0 - np.clip(similarity.astype(np.float64), 0.0, 1.0)
    np.fill_diagonal(own, 0.0)
    # The paper's implementation scales distances so, row by row, before they become weights.
    distance = own / np.maximum(own.max(axis=1, keepdims=True), 1e-12)
    order = _nearest_first(distance)
    encodings = _encode(distance, order, n_neighbours)
    nearest = encodings[order[:, :n_averaged]]
    encodings = np.average(nearest, axis=1, weights=np.arange(nearest.shape[1], 0, -1))
    overlap = np.minimum(encodings[0], encodings[1:]).sum(axis=1)
    jaccard = 1.0 - overlap / (2.0 - overlap)
    final = (1.0 - own_share) * jaccard + own_share * distance[0, 1:]
    final[0] = -np.inf
    return np.argsort(final, kind="stable")


def _nearest_first(distance: NDArray[np.float64]) -> NDArray[np.intp]:
    """Orders all pictures for each of them, itself first even if another one is the same."""
    itself_first = distance.copy()
    np.fill_diagonal(itself_first, -1.0)
    return np.argsort(itself_first, axis=1, kind="stable")


def _encode(
    distance: NDArray[np.float64], order: NDArray[np.intp], n_neighbours: int
) -> NDArray[np.float64]:
    """Returns float [n, n]: the weights of each picture's neighbours, which add up to 1."""
    neighbours = _reciprocal(order, n_neighbours)
    nearest = _reciprocal(order, round(n_neighbours / 2)).astype(np.float64)
    n_shared = neighbours.astype(np.float64) @ nearest.T
    is_joined = neighbours & (n_shared > SHARED * nearest.sum(axis=1))
    expanded = neighbours | (is_joined.astype(np.float64) @ nearest > 0)
    weights = expanded * np.exp(-distance)
    encoded: NDArray[np.float64] = weights / weights.sum(axis=1, keepdims=True)
    return encoded


def _reciprocal(order: NDArray[np.intp], n_neighbours: int) -> NDArray[np.bool_]:
    """Tells for each pair if each is among the nearest of the other, or both are the same."""
    is_near = np.zeros(order.shape, np.bool_)
    np.put_along_axis(is_near, order[:, : n_neighbours + 1], values=True, axis=1)
    both: NDArray[np.bool_] = is_near & is_near.T
    return both
