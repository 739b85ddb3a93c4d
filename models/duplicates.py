"""Groups the near-duplicates among pictures: hashes that are near, confirmed by embeddings. Pure.

A group is a star: one picture, and those that are its duplicates. Joining whatever is connected
would chain pictures that have nothing in common, each a little like the next; here every member was
compared with the first.

Source: Aslam, Pelekhov, Rus, The Star Clustering Algorithm, 2004 (the offline algorithm).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

import numpy as np
from numpy.typing import NDArray

# Of the 64 bits of phash@1, and of efficientnet-lite0@1-int8. On photos and 12 edits of them 99.7 %
# of the pairs in a group were copies of one photo; docs/decisions/0011 has the other figures.
MAX_DISTANCE = 10
MIN_COSINE = 0.6

# The median of the frequencies parts the bits of a picture into 32 and 32. One of a single colour,
# or of a plain gradient, has one bit set or none, and would be near all others of the kind.
_MIN_BITS_SET = 8

# Pairs are compared in blocks of 512 x 512, 2 MB: 1.6 ns a pair, where rows of 100,000 took 5.
_BLOCK = 512
# How many are confirmed at a time: embeddings of 1280 numbers are then 5 MB.
_CONFIRMED = 1024

Pair = tuple[str, str]
Confirm = Callable[[int, NDArray[np.intp]], NDArray[np.bool_]]
"""Tells which of some pictures are duplicates of one: (its place, their places [k]) to bool [k]."""


def are_copies(
    embedding: NDArray[np.floating], others: NDArray[np.floating], min_cosine: float = MIN_COSINE
) -> NDArray[np.bool_]:
    """Tells which pictures are so near to one that a near hash is no chance.

    Args:
        embedding: float [dim], of length 1.
        others: float [k, dim], each row of length 1, or 0 where there is no embedding.
        min_cosine: The lowest cosine between duplicates.

    Returns:
        bool [k].
    """
    return others @ embedding >= min_cosine


def group_duplicates(
    image_ids: Sequence[str],
    hashes: NDArray[np.uint8],
    max_distance: int,
    confirm: Confirm,
) -> list[list[str]]:
    """Groups pictures that are copies of one.

    The picture with most others near its hash gets its duplicates first, then the next of those
    that are left. Neither the order of the pictures nor chance changes the groups. Memory grows
    with the number of pictures, never with that of pairs.

    Pictures whose hash has fewer than 8 bits of one kind are in no group: they have nothing to be
    recognised by.

    Args:
        image_ids: The ids of n pictures, each once.
        hashes: uint8 [n, 8], 64 bits each.
        max_distance: How many bits may differ.
        confirm: Asked about pictures that are that near, at most 1,024 at a time.

    Returns:
        Groups of two or more: the picture that the others are duplicates of, then those, the
        nearest hash first. The largest group first. No picture is in two.
    """
    words = np.ascontiguousarray(hashes).view(np.uint64).reshape(-1)
    by_id = np.array(sorted(_find_telling(words), key=image_ids.__getitem__), np.intp)
    words = words[by_id]
    n_near = _count_near(words, max_distance)
    centres = np.argsort(-n_near, kind="stable")[: np.count_nonzero(n_near)]
    is_left = np.ones(len(words), np.bool_)
    groups: list[list[str]] = []
    for start in range(0, len(centres), _BLOCK):
        others = centres[start:][is_left[centres[start:]]]
        others_words = words[others]
        for centre in centres[start : start + _BLOCK]:
            if not is_left[centre]:
                continue
            is_left[centre] = False
            distances = np.bitwise_count(others_words ^ words[centre])
            near = np.flatnonzero(distances <= max_distance)
            near = near[is_left[others[near]]]
            near = near[_confirmed(confirm, by_id[centre], by_id[others[near]])]
            # Places in `by_id` are in the order of ids, which decides between equal distances.
            members = others[near[np.lexsort((others[near], distances[near]))]]
            is_left[members] = False
            if len(members):
                groups.append([image_ids[place] for place in by_id[[centre, *members]]])
    return sorted(groups, key=lambda group: (-len(group), group[0]))


def join_proven(groups: Sequence[Sequence[str]], proven: Iterable[Pair]) -> list[list[str]]:
    """Joins groups whose first pictures are proven to be copies, or parts, of one another.

    Again as stars: a collage is a copy of each of its pictures, and these are none of each other.

    Args:
        groups: Of `group_duplicates`; no picture is in two.
        proven: Pairs of pictures that are the first of their group, or in none.

    Returns:
        Groups of two or more, as of `group_duplicates`: behind the first, its own duplicates, and
        then those that are joined to it, each with its own.
    """
    members = {group[0]: list(group) for group in groups}
    partners: dict[str, set[str]] = {}
    for one, other in proven:
        partners.setdefault(one, set()).add(other)
        partners.setdefault(other, set()).add(one)
    joined: list[list[str]] = []
    for centre in sorted(partners, key=lambda one: (-len(partners[one]), one)):
        if centre not in partners:
            continue
        group = members.pop(centre, [centre])
        for one in sorted(partners.pop(centre) & partners.keys()):
            del partners[one]
            group += members.pop(one, [one])
        joined.append(group)
    every = [*joined, *members.values()]
    return sorted(
        (group for group in every if len(group) > 1), key=lambda group: (-len(group), group[0])
    )


def _find_telling(words: NDArray[np.uint64]) -> list[int]:
    n_set = np.bitwise_count(words)
    places: list[int] = np.flatnonzero(
        (n_set >= _MIN_BITS_SET) & (n_set <= 64 - _MIN_BITS_SET)
    ).tolist()
    return places


def _confirmed(confirm: Confirm, place: int, places: NDArray[np.intp]) -> NDArray[np.bool_]:
    is_confirmed = np.zeros(len(places), np.bool_)
    for start in range(0, len(places), _CONFIRMED):
        part = slice(start, start + _CONFIRMED)
        is_confirmed[part] = confirm(int(place), places[part])
    return is_confirmed


def _count_near(words: NDArray[np.uint64], max_distance: int) -> NDArray[np.int64]:
    """Counts the others that are near each hash, int64 [n]."""
    n_near = np.zeros(len(words), np.int64)
    starts = range(0, len(words), _BLOCK)
    for first in starts:
        rows = words[first : first + _BLOCK, np.newaxis]
        n_near[first : first + _BLOCK] -= 1  # itself
        for second in starts[first // _BLOCK :]:
            columns = words[second : second + _BLOCK]
            is_near = np.bitwise_count(rows ^ columns) <= max_distance
            if not is_near.any():
                continue
            n_near[first : first + _BLOCK] += np.count_nonzero(is_near, axis=1)
            if second > first:
                n_near[second : second + _BLOCK] += np.count_nonzero(is_near, axis=0)
    return n_near
