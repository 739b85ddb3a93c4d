"""How far apart embeddings are, as Milvus measures it. Pure."""

from __future__ import annotations

from enum import StrEnum
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from twinlens.models.bits import Embeddings, is_packed, signs_of


class Metric(StrEnum):
    """What Milvus compares embeddings with. L2 is the SQUARED distance, as Milvus gives it."""

    L2 = "L2"
    IP = "IP"
    COSINE = "COSINE"
    HAMMING = "HAMMING"

    @property
    def sign(self) -> float:
        """What a distance is multiplied by so that less is nearer: -1 for products."""
        return -1.0 if self in (Metric.IP, Metric.COSINE) else 1.0


class Space(Protocol):
    """The space that embeddings are compared in; a `Card` is one."""

    @property
    def metric(self) -> Metric:
        """The metric of their distances."""

    @property
    def dimension(self) -> int:
        """Numbers or bits of an embedding."""


def pairwise_distances(
    queries: Embeddings, gallery: Embeddings, space: Space
) -> NDArray[np.float64]:
    """Measures the distance of every query to every picture, as Milvus does for the metric.

    L2 is squared; IP and COSINE are products, larger is nearer; HAMMING is a number of bits.

    Args:
        queries: [m, dim] numbers, or uint8 [m, dim / 8] of packed bits.
        gallery: The pictures, in the same form, [n, …].
        space: Their metric and dimension.

    Returns:
        float64 [m, n].
    """
    if space.metric is Metric.HAMMING:
        assert is_packed(queries)
        assert is_packed(gallery)
        # Of bits as +1 and -1 the product is n_equal - n_different.
        n_more_equal = (signs_of(queries) @ signs_of(gallery).T).astype(np.float64)
        return np.asarray((space.dimension - n_more_equal) / 2.0)
    left, right = queries.astype(np.float64), gallery.astype(np.float64)
    if space.metric is Metric.COSINE:
        left /= np.linalg.norm(left, axis=1, keepdims=True)
        right /= np.linalg.norm(right, axis=1, keepdims=True)
    products: NDArray[np.float64] = left @ right.T
    if space.metric is not Metric.L2:
        return products
    squares: NDArray[np.float64] = (left**2).sum(axis=1)[:, np.newaxis] + (right**2).sum(axis=1)
    # Of equal vectors the difference may be some 1e-16 below 0.
    return np.clip(squares - 2.0 * products, 0.0, np.inf)
