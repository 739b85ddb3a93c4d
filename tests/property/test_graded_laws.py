"""What holds for the graded measure whatever is related, and how closely."""

from __future__ import annotations

import math
from random import Random

import numpy as np
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from twinlens.models.workbench.labels import Relations
from twinlens.models.workbench.scores import N_FIRST, Measure, measure_rankings

GRADES = st.lists(st.integers(0, 6), min_size=2, max_size=40).filter(any)
LABELS = st.lists(st.frozensets(st.sampled_from("abcdefg")), min_size=1, max_size=12)


def ndcg(grades: list[int]) -> float:
    """Of pictures with these grades, in this order."""
    scores = -np.arange(len(grades), dtype=np.float64)[np.newaxis]
    return float(measure_rankings(scores, np.array([grades], np.intp))[Measure.NDCG_AT_10.place, 0])


def dcg(grades: list[int]) -> float:
    first = enumerate(grades[:N_FIRST], start=1)
    return math.fsum(grade / math.log2(1 + rank) for rank, grade in first)


@given(GRADES)
def test_it_is_the_gain_as_a_part_of_the_best(grades: list[int]) -> None:
    assert math.isclose(ndcg(grades), dcg(grades) / dcg(sorted(grades, reverse=True)))


@given(GRADES)
def test_it_is_1_for_a_perfect_order_and_between_0_and_1_for_all(grades: list[int]) -> None:
    assert math.isclose(ndcg(sorted(grades, reverse=True)), 1.0)
    assert 0.0 <= ndcg(grades) <= 1.0 + 1e-12


@given(GRADES, st.randoms(use_true_random=False))
def test_the_order_of_unrelated_pictures_changes_nothing(grades: list[int], rng: Random) -> None:
    grades = [0, 0, *grades]
    unrelated = [place for place, grade in enumerate(grades) if grade == 0]
    # Scores rank; the pictures lie in another order, with the unrelated ones among each other.
    moved = dict(zip(unrelated, rng.sample(unrelated, len(unrelated)), strict=True))
    scores = -np.arange(len(grades), dtype=np.float64)
    shuffled = scores[[moved.get(place, place) for place in range(len(grades))]]

    both = measure_rankings(np.stack([scores, shuffled]), np.array([grades, grades], np.intp))

    assert (both[:, 0] == both[:, 1]).all()


@given(GRADES, st.integers(0, 1000))
def test_what_shares_more_never_measures_less_for_coming_earlier(
    grades: list[int], seed: int
) -> None:
    first = seed % (len(grades) - 1)
    better = grades.copy()
    better[first : first + 2] = sorted(grades[first : first + 2], reverse=True)

    assert ndcg(better) >= ndcg(grades) - 1e-12
    if better != grades and first < N_FIRST:
        assert ndcg(better) > ndcg(grades)


@given(st.lists(st.booleans(), min_size=2, max_size=30).filter(any), st.integers(2, 5))
def test_grades_that_are_all_the_same_measure_as_one_label_does(
    hits: list[bool], grade: int
) -> None:
    assert math.isclose(ndcg([grade * hit for hit in hits]), ndcg([int(hit) for hit in hits]))


@given(LABELS)
def test_grades_are_the_labels_that_two_pictures_share(labels: list[frozenset[str]]) -> None:
    places: NDArray[np.intp] = np.arange(len(labels))

    grades = Relations(labels).grades(places)

    for query, own in enumerate(labels):
        shared = [len(own & other) * (place != query) for place, other in enumerate(labels)]
        assert grades[query].tolist() == shared
