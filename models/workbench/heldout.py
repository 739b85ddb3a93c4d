"""Searches pictures of labels that are held out of what whitening is learned from."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np

from twinlens.models.bits import is_packed
from twinlens.models.workbench.evaluate import measure_recipes
from twinlens.models.workbench.labels import MIN_PICTURES, Relations
from twinlens.models.workbench.recipes import Method, Recipe
from twinlens.models.workbench.scores import Measure, calibrate_all
from twinlens.models.workbench.wccn import WithinClass, measure_within

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from numpy.typing import NDArray

    from twinlens.models.build.linear import LinearMap
    from twinlens.models.workbench.embeddings import Embedded

SHRINKAGES = (0.3, 0.5, 0.7, 0.8, 0.9)


@dataclass(frozen=True)
class Pictures:
    """Embedded pictures, by image id, and a number for the label of each, [n].

    A picture without a label has a number of its own.
    """

    embedded: Embedded
    codes: NDArray[np.intp]

    @property
    def queries(self) -> NDArray[np.intp]:
        """The places of those that are looked for: others have the same label."""
        return np.flatnonzero(np.bincount(self.codes)[self.codes] >= MIN_PICTURES)

    @property
    def models(self) -> list[str]:
        """The models that can be tuned: those of numbers."""
        return [name for name, rows in self.embedded.rows.items() if not is_packed(rows)]

    def take(self, is_taken: NDArray[np.bool_]) -> Pictures:
        """Returns some of the pictures: [n] says which."""
        places = np.flatnonzero(is_taken)
        return Pictures(self.embedded.take(places.tolist()), self.codes[places])

    def under(self, models: Iterable[str]) -> Pictures:
        """Returns the pictures as some models see them."""
        rows = {name: self.embedded.rows[name] for name in models}
        known = {name: self.embedded.models[name] for name in rows}
        return replace(self, embedded=replace(self.embedded, rows=rows, models=known))

    def mapped(self, maps: Mapping[str, LinearMap]) -> Pictures:
        """Returns the pictures with the embeddings of some models changed."""
        rows = dict(self.embedded.rows)
        rows |= {name: linear.apply(rows[name]) for name, linear in maps.items()}
        return replace(self, embedded=replace(self.embedded, rows=rows))

    def halve(self, rng: np.random.Generator) -> NDArray[np.bool_]:
        """Halves the labels at random, and says of which half each picture is, [n].

        Each half has as many labels of `MIN_PICTURES` or more as the other, or one more.
        """
        labels, places, counts = np.unique(self.codes, return_inverse=True, return_counts=True)
        is_first = np.empty(len(labels), bool)
        is_first[_shuffle(counts, rng)] = np.arange(len(labels)) % 2 == 0
        return is_first[places]

    def draw(self, n_most: int, n_of_label: int, rng: np.random.Generator) -> NDArray[np.bool_]:
        """Draws labels until there are enough pictures, and says which pictures these are, [n].

        Args:
            n_most: Most pictures.
            n_of_label: Most pictures of one label; of a larger one, some are drawn.
            rng: Draws.
        """
        labels, places, counts = np.unique(self.codes, return_inverse=True, return_counts=True)
        shuffled = rng.permutation(len(places))
        by_label = shuffled[np.argsort(places[shuffled], kind="stable")]
        number = np.empty(len(places), np.intp)
        number[by_label] = np.arange(len(places)) - np.repeat(counts.cumsum() - counts, counts)
        order = _shuffle(counts, rng)
        is_drawn = np.empty(len(labels), bool)
        is_drawn[order] = np.minimum(counts, n_of_label)[order].cumsum() <= n_most
        return is_drawn[places] & (number < n_of_label)

    def within(self, model: str) -> WithinClass:
        """Measures how pictures of one label differ under a model."""
        return measure_within(self.embedded.rows[model], self.codes)

    def measure(
        self, recipe: Recipe, among: NDArray[np.bool_] | None = None
    ) -> NDArray[np.float64]:
        """Looks for each picture among all others.

        Args:
            recipe: By which models.
            among: [n], which pictures are looked for; all `queries` by default.

        Returns:
            float64 [4, q], in the order of `Measure`.
        """
        queries = self.queries if among is None else self.queries[among[self.queries]]
        seen = self.under(recipe.models)
        calibrations = calibrate_all(seen.embedded)
        relations = Relations([frozenset({str(code)}) for code in self.codes.tolist()])
        measured = measure_recipes(seen.embedded, calibrations, [recipe], relations, queries)
        of_recipe: NDArray[np.float64] = measured[0]
        return of_recipe


def choose_shrinkage(pictures: Pictures, model: str, rng: np.random.Generator) -> float:
    """Chooses by which whitening, learned from half of the labels, the other half is found best.

    The new pictures are searched among all, also those that taught, since a library has both: with
    too little shrinkage those that taught lie close together, and push in front of the new.
    """
    recipe = Recipe((model,), Method.SINGLE)
    half = pictures.halve(rng)
    sums = np.zeros(len(SHRINKAGES))
    for is_taught in (half, ~half):
        within = pictures.take(is_taught).within(model)
        for place, shrinkage in enumerate(SHRINKAGES):
            changed = pictures.mapped({model: within.whitening(shrinkage)})
            measured = changed.measure(recipe, ~is_taught)
            sums[place] += measured[Measure.AVERAGE_PRECISION.place].sum()
    return SHRINKAGES[int(sums.argmax())]


def learn(pictures: Pictures, rng: np.random.Generator) -> dict[str, LinearMap]:
    """Learns from labelled pictures a map for each model of numbers."""
    return {
        model: pictures.within(model).whitening(choose_shrinkage(pictures, model, rng))
        for model in pictures.models
    }


def _shuffle(counts: NDArray[np.intp], rng: np.random.Generator) -> NDArray[np.intp]:
    """Orders labels at random, those first that are looked for."""
    order = rng.permutation(len(counts))
    return order[np.argsort(counts[order] < MIN_PICTURES, kind="stable")]
