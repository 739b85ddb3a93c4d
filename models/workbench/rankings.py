"""How two models rank the same pictures: for one of them, and where they disagree most."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from twinlens.models.errors import BadInput
from twinlens.models.fusion import agreement
from twinlens.models.workbench.compare import N_NEIGHBOURS
from twinlens.models.workbench.embeddings import Embedded, LeftOut, sort_by_id
from twinlens.models.workbench.scores import blocks_of, order_by_score, view_of

N_NEAREST = 8
# Pictures whose neighbours are compared, and those of them that are named.
N_COMPARED = 1_000
N_NAMED = 8
# The part of the first neighbours from which on a search hardly changes: int8 versions have it.
NEARLY_ALL = 0.9


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


@dataclass(frozen=True)
class ComparedModels:
    """How far two models find the same pictures near each.

    `overlap_at_k` and `rank_correlation` are means over the `n_compared` pictures whose neighbours
    were looked for among all `n_pictures`; `n_same_first` is of how many the nearest is the same.
    `most_different` are those that they disagree on most, the worst first.
    """

    models: tuple[str, str]
    k: int
    n_pictures: int
    n_compared: int
    n_same_first: int
    overlap_at_k: float
    rank_correlation: float
    most_different: tuple[ComparedRankings, ...]
    left_out: tuple[LeftOut, ...]
    sentence: str


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


def compare_neighbours(
    embedded: Embedded, on_progress: Callable[[int], None] = lambda _: None, *, seed: int = 0
) -> ComparedModels:
    """Compares what two models find near each picture, without labels: not which is right.

    Of many pictures, N_COMPARED are looked for, drawn at random. The first neighbours are
    N_NEIGHBOURS, or half of the other pictures where that is less: of all of them, any two models
    find the same.

    Args:
        embedded: The pictures, by two models.
        on_progress: Called after each block with the number of pictures that are done.
        seed: Seed of the choice.

    Raises:
        BadInput: There are less than three pictures.
    """
    gallery = sort_by_id(embedded)
    n_pictures = len(gallery.files)
    if n_pictures < 3:
        raise BadInput(
            f"{n_pictures} pictures can be compared; give three or more, and better a hundred"
        )
    first, second = gallery.models
    k = min(N_NEIGHBOURS, (n_pictures - 1) // 2)
    queries = np.random.default_rng(seed).permutation(n_pictures)[:N_COMPARED]
    agreements = list[PictureAgreement]()
    for block in blocks_of(queries, n_pictures):
        agreements += measure_agreements(gallery, block, (first, second), k)
        on_progress(len(agreements))
    worst = sorted(zip(agreements, queries.tolist(), strict=True), key=lambda one: one[0].key)
    overlap = float(np.mean([one.overlap_at_k for one in agreements]))
    n_same_first = sum(one.is_same_first for one in agreements)
    return ComparedModels(
        models=(first, second),
        k=k,
        n_pictures=n_pictures,
        n_compared=len(queries),
        n_same_first=n_same_first,
        overlap_at_k=overlap,
        rank_correlation=float(np.mean([one.rank_correlation for one in agreements])),
        most_different=tuple(
            compare_place(gallery, query, (first, second), k) for _, query in worst[:N_NAMED]
        ),
        left_out=gallery.left_out,
        sentence=(
            f"{first} and {second} find the same picture first for {n_same_first:,} of"
            f" {len(queries):,} pictures, and {overlap * k:.1f} of the first {k} are the same:"
            f" {_meaning(overlap)}."
        ),
    )


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


def _meaning(overlap: float) -> str:
    if overlap >= NEARLY_ALL:
        return "a search hardly changes"
    what = "more than half" if overlap < 0.5 else "a part"
    return f"{what} of what a search shows changes; whether for the better, `evaluate` measures"
