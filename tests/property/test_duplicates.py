"""Groups of duplicates are the stars of the definition, whatever the pictures and their order."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from support.near_duplicates import confirm_by_cosine

from twinlens.models.duplicates import Confirm, group_duplicates, join_proven

Pictures = tuple[list[str], NDArray[np.uint8], NDArray[np.float64]]


def pictures_of(seed: int, n: int, n_kinds: int, n_flipped: int) -> Pictures:
    """Pictures of some kinds: up to `n_flipped` bits off the kind's hash, near its embedding."""
    rng = np.random.default_rng(seed)
    kinds = rng.integers(0, n_kinds, n)
    shares = rng.choice([0.05, 0.15, 0.5, 0.5, 0.85], (n_kinds, 1))
    bits = (rng.random((n_kinds, 64)) < shares).astype(np.uint8)[kinds]
    for row in bits:
        row[rng.choice(64, rng.integers(0, n_flipped + 1), replace=False)] ^= 1
    rows = rng.normal(size=(n_kinds, 6))[kinds] + 0.3 * rng.normal(size=(n, 6))
    rows /= np.linalg.norm(rows, axis=1, keepdims=True)
    ids = [f"{number:05d}" for number in rng.permutation(n)]
    return ids, np.packbits(bits, axis=1), rows


def stars(pictures: Pictures, max_distance: int, min_cosine: float) -> list[list[str]]:
    """The definition, pair by pair."""
    ids, hashes, rows = pictures
    words = [int.from_bytes(row.tobytes(), "big") for row in hashes]
    telling = [i for i, word in enumerate(words) if 8 <= word.bit_count() <= 56]
    order = sorted(telling, key=ids.__getitem__)
    far = {i: {j: (words[i] ^ words[j]).bit_count() for j in order if j != i} for i in order}
    near = {i: [j for j, bits in far[i].items() if bits <= max_distance] for i in order}
    taken: set[int] = set()
    groups = []
    for centre in sorted(order, key=lambda i: -len(near[i])):
        if centre in taken:
            continue
        taken.add(centre)
        rest = [j for j in near[centre] if j not in taken and rows[j] @ rows[centre] >= min_cosine]
        taken.update(rest)
        if rest:
            rest.sort(key=lambda j: (far[centre][j], ids[j]))
            groups.append([ids[centre], *(ids[j] for j in rest)])
    return sorted(groups, key=lambda group: (-len(group), group[0]))


@given(
    st.integers(0, 2**32 - 1),
    st.integers(0, 40),
    st.integers(1, 12),
    st.integers(0, 16),
    st.integers(0, 64),
    st.sampled_from([-1.0, 0.5, 0.9]),
)
def test_groups_are_the_stars_of_the_definition(
    seed: int, n: int, n_kinds: int, n_flipped: int, max_distance: int, min_cosine: float
) -> None:
    pictures = pictures_of(seed, n, n_kinds, n_flipped)
    ids, hashes, rows = pictures
    groups = group_duplicates(ids, hashes, max_distance, confirm_by_cosine(rows, min_cosine))
    assert groups == stars(pictures, max_distance, min_cosine)


@given(st.integers(0, 2**32 - 1), st.integers(2, 40), st.integers(0, 20))
def test_the_order_of_pictures_changes_nothing(seed: int, n: int, max_distance: int) -> None:
    ids, hashes, rows = pictures_of(seed, n, 5, 8)
    order = np.random.default_rng(seed).permutation(n)
    moved = group_duplicates(
        [ids[i] for i in order], hashes[order], max_distance, confirm_by_cosine(rows[order], 0.5)
    )
    assert moved == group_duplicates(ids, hashes, max_distance, confirm_by_cosine(rows, 0.5))


def test_more_pictures_than_are_compared_at_a_time() -> None:
    pictures = pictures_of(3, 1_300, 400, 10)
    ids, hashes, rows = pictures
    groups = group_duplicates(ids, hashes, 12, confirm_by_cosine(rows, 0.8))
    assert len(groups) > 100
    assert groups == stars(pictures, 12, 0.8)


def chain(n: int) -> tuple[list[str], NDArray[np.uint8]]:
    """Pictures of which each is one bit from the next, and the first n - 1 bits from the last."""
    bits = np.tril(np.ones((n, 64), np.uint8), -1) ^ (np.arange(64, dtype=np.uint8) & 1)
    return [f"{place:03d}" for place in range(n)], np.packbits(bits, axis=1)


def test_a_chain_of_small_steps_does_not_join_its_ends() -> None:
    ids, hashes = chain(40)
    groups = group_duplicates(ids, hashes, 3, lambda _, places: np.ones(len(places), np.bool_))
    assert max(int(max(group)) - int(min(group)) for group in groups) <= 6
    assert sum(map(len, groups)) >= 36


@pytest.mark.parametrize("is_alike", [True, False])
def test_of_equal_hashes_the_embeddings_decide(is_alike: bool) -> None:
    n = 3_000
    asked: list[int] = []

    def confirm(_: int, places: NDArray[np.intp]) -> NDArray[np.bool_]:
        asked.append(len(places))
        return np.full(len(places), is_alike)

    ids = [f"{place:05d}" for place in range(n)]
    groups = group_duplicates(ids, np.full((n, 8), 0x5A, np.uint8), 8, confirm)
    assert groups == ([ids] if is_alike else [])
    assert max(asked) <= 1_024


def test_no_pictures_have_no_groups() -> None:
    never: Confirm = lambda _, places: np.zeros(len(places), np.bool_)  # noqa: E731
    assert group_duplicates([], np.empty((0, 8), np.uint8), 8, never) == []
    assert group_duplicates(["a"], np.zeros((1, 8), np.uint8), 8, never) == []


def test_pictures_of_one_colour_are_in_no_group() -> None:
    # Of black no bit is set, of all else that is flat the first alone.
    hashes = np.zeros((50, 8), np.uint8)
    hashes[25:, 0] = 0x80
    ids = [f"{place:05d}" for place in range(50)]
    assert group_duplicates(ids, hashes, 8, confirm_by_cosine(np.ones((50, 1)))) == []
    assert group_duplicates(ids, ~hashes, 8, confirm_by_cosine(np.ones((50, 1)))) == []


PAIRS = st.lists(
    st.tuples(st.integers(0, 9), st.integers(0, 9)).filter(lambda pair: pair[0] != pair[1]),
    max_size=14,
)


@given(st.lists(st.integers(0, 3), min_size=10, max_size=10), PAIRS)
def test_groups_are_joined_to_stars_and_nobody_is_lost(
    n_others: list[int], places: list[tuple[int, int]]
) -> None:
    every = [
        [f"{n:02d}", *(f"{n:02d}.{k}" for k in range(some))] for n, some in enumerate(n_others)
    ]
    groups = [group for group in every if len(group) > 1]
    proven = [(f"{one:02d}", f"{other:02d}") for one, other in places]
    joined = join_proven(groups, proven)
    members = [one for group in joined for one in group]
    assert len(members) == len(set(members))
    assert set(members) >= {one for group in groups for one in group}
    together = {frozenset(pair) for pair in proven}
    for first, *others in joined:
        leaders = {one.partition(".")[0] for one in others} - {first}
        assert all(frozenset((first, leader)) in together for leader in leaders)
        for leader in {first, *leaders}:
            assert set(every[int(leader)]) <= {first, *others}
    alone = {group[0] for group in every} - {group[0] for group in joined} - set(members)
    for one, other in proven:
        assert not {one, other} <= alone, "two that are copies are not both left alone"
    assert join_proven(groups, reversed(proven)) == joined
    sizes = [len(group) for group in joined]
    assert sizes == sorted(sizes, reverse=True)


def test_a_collage_joins_no_strangers_to_one_another_beyond_its_own_group() -> None:
    proven = [("collage", "sea"), ("collage", "hill"), ("hill", "hill crop")]
    assert join_proven([["sea", "sea copy"]], proven) == [
        ["collage", "hill", "sea", "sea copy"],
    ]
