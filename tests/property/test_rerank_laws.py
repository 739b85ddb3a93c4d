"""What holds of re-ranking, whatever the pictures: it is the paper's, and only an order."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from twinlens.models.rerank import rerank


def similarity_of(seed: int, n_candidates: int, dimension: int) -> NDArray[np.float64]:
    """Similarities of random directions, the candidates by their similarity to the query."""
    rng = np.random.default_rng(seed)
    rows = np.abs(rng.normal(size=(n_candidates + 1, dimension)))
    rows /= np.linalg.norm(rows, axis=1, keepdims=True)
    order = np.argsort(-(rows[1:] @ rows[0]), kind="stable")
    rows = rows[np.r_[0, order + 1]]
    return np.asarray(rows @ rows.T)


def as_in_the_paper(
    similarity: NDArray[np.float64], k1: int, k2: int, own_share: float
) -> list[int]:
    """The algorithm step by step, with sets, as the paper tells it; weights of k2 are ours."""
    n = len(similarity)
    own = 1.0 - np.clip(similarity, 0, 1)
    np.fill_diagonal(own, 0.0)
    distance = own / own.max(axis=1, keepdims=True)
    ranks = [[i, *(j for j in np.argsort(distance[i], kind="stable") if j != i)] for i in range(n)]

    def reciprocal(i: int, k: int) -> set[int]:
        return {j for j in ranks[i][: k + 1] if i in ranks[j][: k + 1]}

    encodings = np.zeros((n, n))
    for i in range(n):
        expanded = set(reciprocal(i, k1))
        for j in reciprocal(i, k1):
            others = reciprocal(j, round(k1 / 2))
            if len(others & reciprocal(i, k1)) > 2 / 3 * len(others):
                expanded |= others
        for j in expanded:
            encodings[i, j] = np.exp(-distance[i, j])
        encodings[i] /= encodings[i].sum()
    averaged = np.zeros((n, n))
    for i in range(n):
        nearest = ranks[i][:k2]
        weights = range(len(nearest), 0, -1)
        for weight, j in zip(weights, nearest, strict=True):
            averaged[i] += weight / sum(weights) * encodings[j]
    final = []
    for j in range(1, n):
        overlap = np.minimum(averaged[0], averaged[j]).sum()
        jaccard = 1 - overlap / (2 - overlap)
        final.append((1 - own_share) * jaccard + own_share * distance[0, j])
    rest = sorted(range(1, n - 1), key=lambda place: final[place])
    return [0, *rest]


@given(st.integers(0, 2**32 - 1), st.integers(2, 40), st.integers(2, 12), st.integers(2, 12))
def test_it_is_what_the_paper_says(seed: int, n: int, dimension: int, k1: int) -> None:
    similarity = similarity_of(seed, n, dimension)
    order = rerank(similarity, n_neighbours=k1)
    assert order.tolist() == as_in_the_paper(similarity, k1, 6, 0.3)


@pytest.mark.parametrize("seed", range(5))
def test_unless_asked_otherwise_ten_are_neighbours_six_are_averaged_and_a_third_is_own(
    seed: int,
) -> None:
    similarity = similarity_of(seed, 60, 5)
    order = rerank(similarity).tolist()
    assert order == as_in_the_paper(similarity, 10, 6, 0.3)
    for other in ((20, 6, 0.3), (10, 5, 0.3), (10, 6, 0.4)):
        assert order != as_in_the_paper(similarity, *other)


@given(st.integers(0, 2**32 - 1), st.integers(0, 60), st.integers(1, 12))
def test_it_is_an_order_whose_first_stays(seed: int, n: int, dimension: int) -> None:
    order = rerank(similarity_of(seed, n, dimension))
    assert sorted(order.tolist()) == list(range(n))
    assert n == 0 or order[0] == 0


@given(st.integers(0, 2**32 - 1), st.integers(1, 60))
def test_by_their_own_distance_alone_the_order_stays(seed: int, n: int) -> None:
    assert rerank(similarity_of(seed, n, 8), own_share=1.0).tolist() == list(range(n))


@pytest.mark.parametrize("n", [1, 2, 30])
def test_pictures_that_are_all_the_same_keep_their_order(n: int) -> None:
    assert rerank(np.ones((n + 1, n + 1))).tolist() == list(range(n))


def test_a_group_around_the_query_moves_before_a_stray_that_is_nearer() -> None:
    # The query and six others are each other's neighbours; the stray, second to the query, has
    # neighbours of its own.
    n = 14
    similarity = np.full((n, n), 0.2)
    group, strays = [0, 1, 3, 4, 5, 6], [2, 7, 8, 9, 10, 11, 12, 13]
    for some in (group, strays):
        similarity[np.ix_(some, some)] = 0.8
    similarity[0, 2] = similarity[2, 0] = 0.85
    similarity[0, 1] = similarity[1, 0] = 0.9
    np.fill_diagonal(similarity, 1.0)
    order = rerank(similarity, n_neighbours=6).tolist()
    assert order[:5] == [0, 3, 4, 5, 2]
    assert order.index(1) >= 5
