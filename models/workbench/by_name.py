"""Measures how well models, alone and combined, find the pictures of a label by its name."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Protocol

import numpy as np

from twinlens.models.calibration import Calibration, calibrate_query
from twinlens.models.distances import pairwise_distances
from twinlens.models.errors import BadInput
from twinlens.models.fusion import line_of
from twinlens.models.words import N_SAMPLE
from twinlens.models.workbench.embeddings import Embedded, sort_by_id
from twinlens.models.workbench.evaluate import (
    N_QUERIES,
    Evaluation,
    Measurements,
    count_labels,
    draw_places,
    judge,
    relations_of,
)
from twinlens.models.workbench.labels import MIN_PICTURES, Labelled
from twinlens.models.workbench.recipes import Recipe, list_recipes
from twinlens.models.workbench.scores import (
    Measure,
    View,
    calibrate_all,
    fuse_scores,
    measure_rankings,
)

if TYPE_CHECKING:
    from numpy.typing import NDArray


class Encoder(Protocol):
    """What makes an embedding of words; a `TextEncoder` is one."""

    def encode(self, text: str) -> NDArray[np.float32]:
        """Embeds a text: float32 [dimension], of length 1."""


def evaluate_names(  # noqa: PLR0913 - the last four are options, and passed by name
    embedded: Embedded,
    pictures: Sequence[Labelled],
    encoders: Mapping[str, Encoder],
    *,
    on_progress: Callable[[int], None] = lambda _: None,
    seed: int = 0,
    n_bootstrap: int = 1000,
    max_queries: int = N_QUERIES,
) -> Evaluation:
    """Looks for the name of each label that has MIN_PICTURES or more, and measures what is found.

    Nothing is re-ranked by neighbours, as no search with words is. Underscores are read as spaces.
    A picture has the label or not, so mAP decides, also where pictures have several labels.

    Args:
        embedded: The pictures under the models that understand words, from `embed_all`.
        pictures: Their labels, from `read_labels`.
        encoders: Of the same models, by the same names.
        on_progress: Called after each label with the number of those that are done.
        seed: Seed of the sample, of the folds, of the bootstrap and of the choice of names.
        n_bootstrap: How many times queries are drawn, 1 or more.
        max_queries: How many names are looked for at most.

    Raises:
        BadInput: No label has MIN_PICTURES pictures that could be embedded.
        BadEmbedding: A model makes nothing of a name.
    """
    gallery = sort_by_id(embedded)
    relations = relations_of(gallery, pictures)
    labels = relations.common_labels()
    if not labels:
        raise BadInput(f"no label has {MIN_PICTURES} pictures that could be embedded; label more")
    queries = draw_places(np.arange(len(labels)), seed, max_queries)
    recipes = [recipe for recipe in list_recipes(gallery.models) if recipe.is_reranked]
    look = _Look(gallery, encoders, seed)
    columns: list[NDArray[np.float64]] = []
    for place in queries.tolist():
        views = look.views_of(labels[place].replace("_", " "))
        columns.append(_measure(recipes, views, relations.grades_of(labels[place])))
        on_progress(len(columns))
    on_progress(count_labels(pictures))
    given = Measurements(
        recipes,
        np.concatenate(columns, axis=2),
        queries,
        Measure.AVERAGE_PRECISION,
        n_pictures=len(gallery.files),
        n_labels=count_labels(pictures),
        n_query_labels=len(queries),
    )
    judged = judge(given, "of the labels' names, not re-ranked", seed, n_bootstrap)
    return replace(judged, is_of_words=True)


class _Look:
    """What each model sees of words, judged as a search does it, by a sample of the pictures."""

    def __init__(self, gallery: Embedded, encoders: Mapping[str, Encoder], seed: int) -> None:
        n_pictures = len(gallery.files)
        self._gallery, self._encoders = gallery, encoders
        self._sample = np.random.default_rng(seed).permutation(n_pictures)[:N_SAMPLE]
        self._priors: Mapping[str, Calibration] = calibrate_all(gallery)

    def views_of(self, words: str) -> dict[str, View]:
        return {name: self._view(name, words) for name in self._encoders}

    def _view(self, name: str, words: str) -> View:
        model, rows = self._gallery.models[name], self._gallery.rows[name]
        distances = pairwise_distances(self._encoders[name].encode(words)[None], rows, model)
        start, slope = line_of(model.metric, model.dimension)
        cosines = start + slope * distances[0, self._sample]
        return View(model, distances, None, calibrate_query(cosines, self._priors[name]))


def _measure(
    recipes: Sequence[Recipe], views: Mapping[str, View], grades: NDArray[np.intp]
) -> NDArray[np.float64]:
    """Measures of every recipe, [r, 4, 1]."""
    scores = (fuse_scores(recipe, views) for recipe in recipes)
    return np.array([measure_rankings(each, grades[np.newaxis]) for each in scores])
