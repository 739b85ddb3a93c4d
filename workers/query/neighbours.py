"""Re-ranks a search's candidates by their neighbourhoods."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from twinlens.models.rerank import pairwise_similarity, rerank

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from numpy.typing import NDArray

    from twinlens.models.fusion import FusedEntry

Stored = dict[str, dict[str, Any]]  # model → image id → embedding


def order_by_neighbours(
    fused: Sequence[FusedEntry],
    stored: Stored,
    query: Mapping[str, Any],
    shares: Mapping[str, float],
) -> list[FusedEntry]:
    """Returns the fused ranking with its first candidates re-ranked among themselves.

    Args:
        fused: The ranking.
        stored: Embeddings of its first candidates. One that is just being removed has none, and
            comes after the others.
        query: The query's embedding, by model.
        shares: Shares of the models that count, with a sum of 1.
    """
    first = [one for one in fused if all(one.image_id in stored[name] for name in shares)]
    rest = [one for one in fused if any(one.image_id not in stored[name] for name in shares)]
    if not first:
        return list(fused)
    similarity: NDArray[np.float32] = np.zeros((len(first) + 1,) * 2, np.float32)
    for name, share in shares.items():
        rows = np.stack([query[name], *(stored[name][one.image_id] for one in first)])
        similarity += np.float32(share) * pairwise_similarity(rows)
    return [first[place] for place in rerank(similarity)] + rest
