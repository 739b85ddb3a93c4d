"""Whitening within labels against numpy; what teaches, and what is judged."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pytest
from support.small_models import COLOUR_CARD

from twinlens.models.card import Card, load_card
from twinlens.models.cards import SHIPPED_CARDS
from twinlens.models.errors import BadInput
from twinlens.models.workbench.embeddings import Embedded
from twinlens.models.workbench.heldout import SHRINKAGES, Pictures, choose_shrinkage
from twinlens.models.workbench.labels import MIN_PICTURES, Labelled
from twinlens.models.workbench.recipes import Method, Recipe
from twinlens.models.workbench.tune import MIN_LABELS, learn_maps, measure_tuning, pictures_of
from twinlens.models.workbench.wccn import measure_within

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

N_LABELS, N_OF_EACH, DIMENSION = 16, 5, 24
WEIGHTS = {"colour": 1.0, "phash": 0.0}


def draw(n_labels: int = N_LABELS) -> NDArray[np.float32]:
    """Draws embeddings: the first half tells labels apart, the second is noise."""
    rng = np.random.default_rng(0)
    half = DIMENSION // 2
    own = 0.3 * rng.standard_normal((n_labels, half)).repeat(N_OF_EACH, axis=0)
    noise = rng.standard_normal((n_labels * N_OF_EACH, DIMENSION))
    rows = 0.5 + np.hstack([own + 0.05 * noise[:, :half], 0.8 * noise[:, half:]])
    unit: NDArray[np.float32] = rows / np.linalg.norm(rows, axis=1, keepdims=True)
    return unit.astype(np.float32)


def labels_of(n_labels: int = N_LABELS) -> list[str]:
    return [f"thing {label}" for label in range(n_labels) for _ in range(N_OF_EACH)]


def embedded_of(
    rows: NDArray[np.float32], labels: Sequence[str]
) -> tuple[Embedded, list[Labelled]]:
    """Pictures under a model of numbers and a hash, in an order that is not that of the ids."""
    ids = tuple(f"{place * 7919 % len(rows):064x}" for place in range(len(rows)))
    files = tuple(map(Path, ids))
    hashes = np.random.default_rng(1).integers(0, 256, (len(rows), 8), np.uint8)
    colour = Card.model_validate(COLOUR_CARD | {"dimension": rows.shape[1]})
    models = {"colour": colour, "phash": load_card(SHIPPED_CARDS / "phash@1.toml")}
    embedded = Embedded(files, ids, {"colour": rows, "phash": hashes}, models)
    return embedded, [Labelled(file, label) for file, label in zip(files, labels, strict=True)]


def pictures(n_labels: int = N_LABELS) -> Pictures:
    return pictures_of(*embedded_of(draw(n_labels), labels_of(n_labels)))


@pytest.mark.parametrize("shrinkage", [0.3, 0.9, 1.0])
def test_whitening_is_the_inverse_root_of_the_shrunk_covariance(shrinkage: float) -> None:
    rows, codes = draw(), np.repeat(np.arange(N_LABELS), N_OF_EACH)

    linear = measure_within(rows, codes).whitening(shrinkage)

    wide = rows.astype(np.float64)
    means = np.stack([wide[codes == code].mean(axis=0) for code in codes])
    covariance = (wide - means).T @ (wide - means)
    covariance /= np.trace(covariance) / DIMENSION
    shrunk = (1 - shrinkage) * covariance + shrinkage * np.eye(DIMENSION)
    values, vectors = np.linalg.eigh(shrunk)
    expected = (wide - wide.mean(axis=0)) @ (vectors / np.sqrt(values)) @ vectors.T
    expected /= np.linalg.norm(expected, axis=1, keepdims=True)
    assert linear.apply(rows) == pytest.approx(expected, abs=1e-5)


def test_what_labels_do_not_show_is_left_as_it_is() -> None:
    """Fewer pictures than numbers: of most directions nothing is known."""
    rows = draw()[: 2 * N_OF_EACH]
    within = measure_within(rows, np.repeat([0, 1], N_OF_EACH))
    matrix = within.whitening(0.5).matrix.astype(np.float64)

    known = within.components[within.variances > 1e-9]
    rest = np.linalg.svd(np.eye(DIMENSION) - known.T @ known)[0][:, : DIMENSION - len(known)]

    assert matrix @ rest == pytest.approx(rest / np.sqrt(0.5), abs=1e-5)


def test_pictures_of_labels_that_do_not_vary_are_centred_alone() -> None:
    rows = draw()[::N_OF_EACH].repeat(2, axis=0)

    linear = measure_within(rows, np.repeat(np.arange(N_LABELS), 2)).whitening(0.3)

    centred = rows - rows.mean(axis=0)
    expected = centred / np.linalg.norm(centred, axis=1, keepdims=True)
    assert linear.apply(rows) == pytest.approx(expected, abs=1e-5)


def test_halves_share_no_label_and_have_as_many() -> None:
    labels = [*labels_of(), "rare", "", ""]
    rows = np.concatenate([draw(), draw()[:3]])
    some = pictures_of(*embedded_of(rows, labels))

    is_first = some.halve(np.random.default_rng(0))

    first, second = (set(some.codes[half].tolist()) for half in (is_first, ~is_first))
    assert not first & second
    counts = np.bincount(some.codes)
    assert [sum(counts[code] >= MIN_PICTURES for code in half) for half in (first, second)] == [
        8,
        8,
    ]


def test_noise_that_no_label_shares_is_learned_away() -> None:
    tuning = measure_tuning(*embedded_of(draw(), labels_of()), WEIGHTS)

    assert tuning.helped == ["colour"]
    assert list(tuning.by_model) == ["colour"], "a hash is left as it is"
    gain = tuning.fused
    assert gain.gain.value == pytest.approx(gain.after.value - gain.before.value)
    assert 0 < gain.gain.low < gain.gain.value < gain.gain.high
    assert gain.at_5_after.value > gain.at_5_before.value
    assert tuning.sentence.startswith("Tuning colour helps to find things that taught nothing")


def test_labels_by_chance_teach_nothing() -> None:
    labels = np.random.default_rng(3).permutation(labels_of()).tolist()

    tuning = measure_tuning(*embedded_of(draw(), labels), WEIGHTS)

    assert tuning.helped == []
    assert tuning.sentence.startswith("tuning is no clear help")


def by_chance() -> tuple[Embedded, list[Labelled]]:
    """Noise of so many numbers that whitening brings any pictures together that it has seen."""
    shape = (N_LABELS * N_OF_EACH, 10 * DIMENSION)
    rows = np.random.default_rng(5).standard_normal(shape)
    rows /= np.linalg.norm(rows, axis=1, keepdims=True)
    return embedded_of(rows.astype(np.float32), labels_of())


def test_whoever_judges_has_taught_nothing() -> None:
    embedded, labelled = by_chance()
    some = pictures_of(embedded, labelled)
    recipe = Recipe(("colour",), Method.SINGLE)
    seen = some.mapped({"colour": some.within("colour").whitening(0.3)})
    assert seen.measure(recipe)[0].mean() > 0.9, "a leak would show"

    gain = measure_tuning(embedded, labelled, WEIGHTS).fused

    assert abs(gain.gain.value) < 0.05
    assert gain.after.value < 0.3


def test_shrinkage_is_chosen_by_labels_that_taught_nothing() -> None:
    some = pictures_of(*by_chance())
    sizes = [choose_shrinkage(some, "colour", np.random.default_rng(seed)) for seed in range(4)]

    # By those that taught, the least would always be the best.
    assert min(sizes) > SHRINKAGES[0]


def test_where_models_weigh_nothing_they_all_count() -> None:
    tuning = measure_tuning(*embedded_of(draw(), labels_of()), {"colour": 0.0, "phash": 0.0})

    assert tuning.fused.title == "colour + phash, calibrated"


def test_too_few_labels_are_refused() -> None:
    n_few = MIN_LABELS - 1
    with pytest.raises(BadInput, match=rf"45 pictures of {n_few} labels are too few"):
        measure_tuning(*embedded_of(draw(n_few), labels_of(n_few)), WEIGHTS)


def test_a_hash_alone_is_refused() -> None:
    embedded, labelled = embedded_of(draw(), labels_of())
    alone = pictures_of(embedded, labelled).under(["phash"]).embedded

    with pytest.raises(BadInput, match="hashes cannot be tuned"):
        measure_tuning(alone, labelled, WEIGHTS)


def test_of_thousands_some_whole_labels_are_drawn_and_some_of_a_large_one() -> None:
    sizes = [1_000, *[20] * 60]
    codes = np.repeat(np.arange(len(sizes)), sizes)
    rows = np.zeros((len(codes), 1), np.float32)
    ids = tuple(map(str, range(len(codes))))
    many = Pictures(Embedded(tuple(map(Path, ids)), ids, {"one": rows}, {}), codes)

    for seed in range(5):
        drawn = np.bincount(codes[many.draw(600, 50, np.random.default_rng(seed))])
        assert set(drawn[1:].tolist()) <= {0, 20}
        assert drawn[0] in (0, 50)
        assert 580 <= drawn.sum() <= 600


def test_all_labels_teach_in_the_end_with_the_shrinkage_that_held_out_ones_choose() -> None:
    embedded, labelled = embedded_of(draw(), labels_of())

    maps = learn_maps(embedded, labelled, ["colour"])

    some = pictures_of(embedded, labelled)
    within = some.within("colour")
    made = [within.whitening(shrinkage).matrix for shrinkage in SHRINKAGES]
    assert any((maps["colour"].matrix == each).all() for each in made)
    assert choose_shrinkage(some, "colour", np.random.default_rng(0)) in SHRINKAGES
