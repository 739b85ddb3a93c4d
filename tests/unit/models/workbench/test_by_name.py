"""Labels that are looked for by their names: what is measured, of which models."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from support.random_sets import Model, random_set

from twinlens.models.distances import Metric
from twinlens.models.errors import BadInput
from twinlens.models.workbench.by_name import evaluate_names
from twinlens.models.workbench.embeddings import Embedded
from twinlens.models.workbench.labels import Labelled
from twinlens.models.workbench.report import render_report
from twinlens.models.workbench.scores import Measure

SIZES = (3, 4, 5, 6, 2)
MODELS = {"good": Model(Metric.L2, 8), "bad": Model(Metric.COSINE, 8)}
AXES = np.eye(8, dtype=np.float32)


class Axes:
    """Gives the axis of a label's number; words lie in a cone of their own."""

    def __init__(self, shift: int = 0) -> None:
        self._shift = shift
        self.asked: list[str] = []

    def encode(self, text: str) -> NDArray[np.float32]:
        self.asked.append(text)
        number = int(text.rsplit(maxsplit=1)[-1]) + self._shift
        row = AXES[number % len(SIZES)] + 4 * AXES[7]
        return np.asarray(row / np.linalg.norm(row), np.float32)


def labelled_set(noise: float = 0.2) -> tuple[Embedded, list[Labelled]]:
    """Pictures near the axis of their label's number."""
    embedded, pictures = random_set(SIZES, models=MODELS)
    numbers = np.array([int(picture.label.split()[1]) for picture in pictures])
    rng = np.random.default_rng(0)
    rows = {}
    for name in MODELS:
        drawn = np.pad(rng.normal(size=(len(numbers), 5)), ((0, 0), (0, 3)))
        some = AXES[numbers] + noise * drawn
        some /= np.linalg.norm(some, axis=1, keepdims=True)
        rows[name] = ((some + 2 * AXES[6]) / 5**0.5).astype(np.float32)
    return replace(embedded, rows=rows), pictures


def test_a_model_that_knows_the_names_is_told_from_one_that_takes_them_for_others() -> None:
    embedded, pictures = labelled_set()
    encoders = {"good": Axes(), "bad": Axes(shift=1)}

    evaluation = evaluate_names(embedded, pictures, encoders, n_bootstrap=20)

    # A label of two pictures is in the way, and not looked for.
    assert encoders["good"].asked == [f"label {number}" for number in range(4)]
    assert (evaluation.n_queries, evaluation.n_labels, evaluation.n_pictures) == (4, 5, 20)
    assert evaluation.is_of_words
    by_title = {one.title: one for one in evaluation.contenders}
    good, bad = by_title["good"], by_title["bad"]
    assert good.mean_average_precision.value == 1.0
    assert (good.precision_at_1.value, bad.precision_at_1.value) == (1.0, 0.0)
    assert good.precision_at_5.value == pytest.approx((3 + 4 + 5 + 5) / 20)
    assert {"bad + good, calibrated", "bad + good, rrf"} <= by_title.keys()
    assert not any("re-ranked" in title for title in by_title)
    assert evaluation.recommendation.sentence.startswith("Use good alone: mAP 1.000")
    assert "names, not re-ranked" in evaluation.recommendation.sentence


def test_where_a_models_words_lie_does_not_change_how_much_it_is_heard() -> None:
    embedded, pictures = labelled_set(noise=0.6)

    class Near(Axes):
        """The same words, near to all pictures."""

        def encode(self, text: str) -> NDArray[np.float32]:
            row = super().encode(text) * np.float32(17**0.5) - 4 * AXES[7] + 2 * AXES[6]
            return np.asarray(row / np.linalg.norm(row), np.float32)

    def combined(encoder: Axes) -> float:
        encoders = {"good": Axes(), "bad": encoder}
        evaluation = evaluate_names(embedded, pictures, encoders, n_bootstrap=5)
        by_title = {one.title: one.mean_average_precision.value for one in evaluation.contenders}
        return by_title["bad + good, calibrated"]

    assert combined(Near()) == pytest.approx(combined(Axes()), abs=0.01)


def test_underscores_are_spaces() -> None:
    embedded, pictures = labelled_set()
    scored = [Labelled(one.path, one.label.replace(" ", "_")) for one in pictures]
    plain, encoder = Axes(), Axes()

    evaluate_names(embedded, scored, {"good": encoder, "bad": plain}, n_bootstrap=1)

    assert encoder.asked == [f"label {number}" for number in range(4)]


def test_of_many_names_some_are_looked_for_that_are_drawn_at_random() -> None:
    embedded, pictures = labelled_set()

    def asked(seed: int) -> list[str]:
        encoders = {"good": Axes(), "bad": Axes()}
        evaluation = evaluate_names(
            embedded, pictures, encoders, n_bootstrap=1, max_queries=2, seed=seed
        )
        assert (evaluation.n_queries, evaluation.n_query_labels, evaluation.n_labels) == (2, 2, 5)
        return encoders["good"].asked

    drawn = [asked(seed) for seed in range(5)]

    assert {len(set(names)) for names in drawn} == {2}
    assert len({*map(tuple, drawn)}) > 1
    assert asked(0) == drawn[0]


def test_a_picture_of_several_labels_is_looked_for_by_each_of_their_names() -> None:
    embedded, pictures = labelled_set(noise=0.0)
    # The two of the label that is else too rare are of label 0 as well.
    several = [
        replace(one, also=("label 0",)) if one.label == "label 4" else one for one in pictures
    ]
    encoders = {"good": Axes(), "bad": Axes()}

    evaluation = evaluate_names(embedded, several, encoders, n_bootstrap=20)

    assert encoders["good"].asked == [f"label {number}" for number in range(4)]
    # One name is of one label: nothing is shared more than once, so mAP decides.
    assert evaluation.decided_by is Measure.AVERAGE_PRECISION
    good = next(one for one in evaluation.contenders if one.title == "good")
    # Label 0 has five pictures now, of which two lie elsewhere.
    assert good.precision_at_5.value == pytest.approx((3 + 4 + 5 + 5) / 20)
    assert 0.75 < good.mean_average_precision.value < 1.0


def test_the_best_model_and_fusion_are_told_with_differences_and_no_word_of_re_ranking() -> None:
    embedded, pictures = labelled_set()
    encoders = {"good": Axes(), "bad": Axes(shift=1)}

    evaluation = evaluate_names(embedded, pictures, encoders, n_bootstrap=20)

    models, fusions = evaluation.recommendation.findings
    assert models.sentence.startswith("Best of the models: good, mAP 1.000")
    assert models.difference.is_seen
    assert models.difference.n_queries == 4
    assert fusions.sentence.startswith("Best of the fusions: bad + good, ")


def test_labels_of_too_few_pictures_are_refused() -> None:
    embedded, pictures = random_set((2, 2, 1), models=MODELS)

    with pytest.raises(BadInput, match="no label has 3 pictures that could be embedded"):
        evaluate_names(embedded, pictures, {"good": Axes(), "bad": Axes()})


def test_the_report_says_what_was_looked_for() -> None:
    embedded, pictures = labelled_set()
    encoders = {"good": Axes(), "bad": Axes()}
    evaluation = evaluate_names(embedded, pictures, encoders, n_bootstrap=5)

    page = render_report(evaluation, embedded, pictures, str(Path("labels.csv")))

    assert "names of 4 labels" in page
    for words in ("re-ranked by", "<h2>Distances</h2>", "disagree most"):
        assert words not in page
