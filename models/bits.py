"""Packed bits as numbers."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray


def signs_of(packed: NDArray[np.uint8]) -> NDArray[np.float32]:
    """Returns +1 for each bit that is set, and -1 for each other.

    So a product of two counts the bits that are equal less those that differ.

    Args:
        packed: uint8 [n, dim / 8].

    Returns:
        float32 [n, dim].
    """
    return np.where(np.unpackbits(packed, axis=1), np.float32(1), np.float32(-1))
