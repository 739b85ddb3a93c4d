"""Two models compared without labels: how far they agree, and where they do not."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from support.random_sets import Model, random_set

from twinlens.models.distances import Metric
from twinlens.models.errors import BadInput
from twinlens.models.fusion import agreement
from twinlens.models.workbench.embeddings import Embedded, LeftOut, sort_by_id
from twinlens.models.workbench.rankings import (
    N_NAMED,
    ComparedModels,
    compare_neighbours,
    compare_rankings,
)

TWO = {"a": Model(Metric.L2, 8), "b": Model(Metric.COSINE, 8)}


def two_models(n_pictures: int = 40, noise: float | None = None) -> Embedded:
    """Two models; where there is noise, the second sees what the first does, and noise."""
    embedded, _ = random_set((n_pictures,), models=TWO)
    if noise is not None:
        rows = embedded.rows["a"] + np.random.default_rng(4).normal(size=(n_pictures, 8)) * noise
        rows /= np.linalg.norm(rows, axis=1, keepdims=True)
        embedded.rows["b"] = rows.astype(np.float32)  # type: ignore[index]
    return embedded


def slow_agreements(embedded: Embedded, k: int) -> dict[Path, tuple[float, float, bool]]:
    """Of each picture, as a search measures it."""
    agreements = {}
    for path in embedded.files:
        whole = compare_rankings(embedded, path, len(embedded.files))
        ids = {name: [hit.image_id for hit in hits] for name, hits in whole.rankings.items()}
        agreed = agreement(ids, k)
        assert agreed is not None
        assert agreed.rank_correlation is not None
        is_same_first = ids["a"][0] == ids["b"][0]
        agreements[path] = (agreed.overlap_at_k, agreed.rank_correlation, is_same_first)
    return agreements


@pytest.mark.parametrize("noise", [None, 0.1])
def test_the_agreement_is_that_of_a_search_as_a_mean_over_pictures(noise: float | None) -> None:
    embedded = two_models(noise=noise)

    compared = compare_neighbours(embedded)

    slow = slow_agreements(embedded, 10)
    overlaps, correlations, same = zip(*slow.values(), strict=True)
    assert (compared.k, compared.n_pictures, compared.n_compared) == (10, 40, 40)
    assert compared.overlap_at_k == pytest.approx(np.mean(overlaps))
    assert compared.rank_correlation == pytest.approx(np.mean(correlations))
    assert compared.n_same_first == sum(same)
    worst = [slow[one.query][:2] for one in compared.most_different]
    assert len({one.query for one in compared.most_different}) == N_NAMED
    assert worst == sorted(one[:2] for one in slow.values())[:N_NAMED]


def test_one_picture_that_two_models_see_otherwise_is_named_first() -> None:
    embedded = two_models(noise=0.0)
    embedded.rows["b"][17] = -embedded.rows["b"][17]

    compared = compare_neighbours(embedded)

    assert compared.most_different[0].query == embedded.files[17]
    assert compared.most_different[0].overlap_at_k == 0.0
    assert compared.most_different[1].overlap_at_k >= 0.9


@pytest.mark.parametrize(
    ("noise", "meaning"),
    [
        (0.0, "find the same picture first for 40 of 40 pictures, and 10.0 of the first 10 are"),
        (0.0, "a search hardly changes."),
        (
            0.15,
            "a part of what a search shows changes; whether for the better, `evaluate` measures",
        ),
        (3.0, "more than half of what a search shows changes;"),
    ],
)
def test_one_sentence_says_what_it_means(noise: float, meaning: str) -> None:
    assert meaning in compare_neighbours(two_models(noise=noise)).sentence


def test_of_few_pictures_half_of_the_others_are_neighbours() -> None:
    def compared(n_pictures: int) -> ComparedModels:
        return compare_neighbours(two_models(n_pictures))

    # Of all others, any two models find the same.
    assert [compared(n).k for n in (3, 11, 12, 21, 22)] == [1, 5, 5, 10, 10]
    with pytest.raises(BadInput, match="2 pictures can be compared; give three or more"):
        compared(2)


def test_of_many_pictures_some_are_compared_with_all(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("twinlens.models.workbench.rankings.N_COMPARED", 15)
    left_out = (LeftOut(Path("broken.jpg"), "it is broken"),)
    embedded = replace(two_models(), left_out=left_out)

    compared = compare_neighbours(embedded)

    assert (compared.n_compared, compared.n_pictures) == (15, 40)
    assert compared.left_out == left_out
    moved = sort_by_id(embedded).take(range(39, -1, -1))
    assert compare_neighbours(moved) == compared
