"""Packed bits as numbers."""

from __future__ import annotations

from typing import TypeGuard

import numpy as np
from numpy.typing import NDArray

# As models give them and stores keep them: numbers, or packed bits.
Embeddings = NDArray[np.float32 | np.uint8]


def is_packed(rows: Embeddings) -> TypeGuard[NDArray[np.uint8]]:
    """Tells if embeddings are packed bits, and not numbers."""
    return rows.dtype == np.uint8


def signs_of(packed: NDArray[np.uint8]) -> NDArray[np.float32]:
    """Returns +1 for each bit that is set, and -1 for each other.

    So the product of two rows is the number of equal bits minus that of different ones.

    Args:
        packed: uint8 [n, dim / 8].

    Returns:
        float32 [n, dim].
    """
    return np.where(np.unpackbits(packed, axis=1), np.float32(1), np.float32(-1))
