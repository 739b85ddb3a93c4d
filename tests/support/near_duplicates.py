"""What confirms near-duplicates where all embeddings are at hand."""

from __future__ import annotations

from typing import TYPE_CHECKING

from twinlens.models.duplicates import MIN_COSINE, are_copies

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from twinlens.models.duplicates import Confirm


def confirm_by_cosine(rows: NDArray[np.floating], min_cosine: float = MIN_COSINE) -> Confirm:
    """Confirms duplicates by their embeddings.

    Args:
        rows: float [n, dim] of length 1, in the order of the pictures.
        min_cosine: The lowest cosine between duplicates.
    """
    return lambda place, places: are_copies(rows[place], rows[places], min_cosine)
