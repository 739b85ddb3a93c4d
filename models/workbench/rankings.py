"""How two models rank the same pictures: for one of them, and where they disagree most."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from twinlens.models.errors import BadInput
from twinlens.models.fusion import agreement
from twinlens.models.workbench.embeddings import Embedded, sort_by_id
from twinlens.models.workbench.scores import order_by_score, view_of

N_NEAREST = 8


@dataclass(frozen=True)
class RankedFile:
    """A picture in a ranking, and its distance as Milvus gives it."""

    path: Path
    image_id: str
    distance: float


@dataclass(frozen=True)
class ComparedRankings:
    """The nearest k pictures to one query by several models, and how far the models agree.

    `overlap_at_k` is from 0 to 1. `rank_correlation` is Spearman's over all pictures, from -1 to
    1; None where there is one picture only.
    """

    query: Path
    rankings: dict[str, tuple[RankedFile, ...]]
    overlap_at_k: float
    rank_correlation: float | None


class PictureAgreement(NamedTuple):
    """How far two models agree on one picture's neighbours, as `fusion.agreement` measures it."""

    overlap_at_k: float
    rank_correlation: float
    is_same_first: bool

    @property
    def key(self) -> tuple[float, float]:
        """Sorts pictures, those that most disagree is on first."""
        return self.overlap_at_k, self.rank_correlation


def compare_rankings(embedded: Embedded, query: Path, k: int = N_NEAREST) -> ComparedRankings:
    """Ranks all other pictures by their distance to one, for each model.

    Args:
        embedded: The pictures, from `embed_all([model, other], [query, *files], …)`: with the
            query first, a copy of it among the files is left out.
        query: One of its files.
        k: How many of the nearest are returned and compared.

    Raises:
        BadInput: The query could not be embedded, or there is nothing to compare.
    """
    gallery = sort_by_id(embedded)
    if query not in gallery.files:
        reasons = [left_out.reason for left_out in embedded.left_out if left_out.path == query]
        raise BadInput(f"{query.name}: {reasons[0] if reasons else 'it is not among the files'}")
    if len(gallery.files) < 2 or len(gallery.models) < 2:
        raise BadInput(
            f"{len(gallery.models)} models and {len(gallery.files) - 1} other pictures; give two "
            "models or more, and pictures that can be decoded"
        )
    return compare_place(gallery, gallery.files.index(query), list(gallery.models), k)


def compare_place(gallery: Embedded, query: int, models: Sequence[str], k: int) -> ComparedRankings:
    """Ranks all others by their distance to the picture at one place, for each model."""
    views = {name: view_of(gallery, name, np.array([query])) for name in models}
    orders = {name: order_by_score(view.nearness)[0, :-1].tolist() for name, view in views.items()}
    agreed = agreement({n: [gallery.image_ids[i] for i in o] for n, o in orders.items()}, k)
    assert agreed is not None
    return ComparedRankings(
        query=gallery.files[query],
        rankings={
            name: tuple(
                RankedFile(
                    gallery.files[i], gallery.image_ids[i], float(views[name].distances[0, i])
                )
                for i in order[:k]
            )
            for name, order in orders.items()
        },
        overlap_at_k=agreed.overlap_at_k,
        rank_correlation=agreed.rank_correlation,
    )


def measure_agreements(
    gallery: Embedded, queries: NDArray[np.intp], models: tuple[str, str], k: int
) -> list[PictureAgreement]:
    """Measures how far two models agree on the neighbours of each query, for many at once."""
    first, second = (view_of(gallery, name, queries).ranks for name in models)
    n_others = first.shape[1] - 1
    n_shared = ((first <= k) & (second <= k)).sum(axis=1)
    squares = ((first - second) ** 2.0).sum(axis=1)
    correlations = 1.0 - 6.0 * squares / max(1, n_others * (n_others**2 - 1))
    is_same_first = ((first == 1) & (second == 1)).any(axis=1)
    rows = zip((n_shared / k).tolist(), correlations.tolist(), is_same_first.tolist(), strict=True)
    return [PictureAgreement(*row) for row in rows]
