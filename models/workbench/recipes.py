"""What is measured of models: each alone, and every way to combine them."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from enum import StrEnum
from itertools import combinations, product

# What a model may weigh beside the heaviest, which weighs 1.
WEIGHTS = (1.0, 0.5, 0.2)

# Beyond it, the pairs and all together: 6 models have 57 subsets.
MAX_MODELS_OF_ALL_SUBSETS = 4


class Method(StrEnum):
    """How several models' distances become one score: as `fusion.Fusion`, or one model alone."""

    SINGLE = "single"
    CALIBRATED = "calibrated"
    WEIGHTED = "weighted"
    RRF = "rrf"
    MAX = "max"
    MIN = "min"


@dataclass(frozen=True)
class Recipe:
    """Models, and how they are combined. `weights` are 1 for the heaviest; some methods have none.

    What it ranks is re-ranked by neighbours where a search does that, unless it says otherwise.
    """

    models: tuple[str, ...]
    method: Method
    weights: tuple[float, ...] = ()
    is_reranked: bool = True

    @property
    def is_equal(self) -> bool:
        """Whether all models weigh the same."""
        return len(set(self.weights)) <= 1

    @property
    def is_baseline(self) -> bool:
        """Whether it is a model alone, as a search ranks it: what gains are measured from."""
        return self.method is Method.SINGLE and self.is_reranked

    def is_of(self, models: tuple[str, ...], *, is_reranked: bool) -> bool:
        """Whether it is what a search does with these models, all weighing the same."""
        is_default = self.method in (Method.SINGLE, Method.CALIBRATED) and self.is_equal
        return is_default and self.models == models and self.is_reranked == is_reranked

    @property
    def title(self) -> str:
        """For people: `a + b, calibrated, 1 : 0.5`.

        >>> Recipe(("a", "b"), Method.CALIBRATED, (1.0, 0.2)).title
        'a + b, calibrated, 1 : 0.2'
        >>> Recipe(("a",), Method.SINGLE, is_reranked=False).title
        'a, not re-ranked'
        """
        words = [" + ".join(self.models)]
        if self.method is not Method.SINGLE:
            words.append(self.method.value)
        if not self.is_equal:
            words.append(" : ".join(f"{weight:g}" for weight in self.weights))
        if not self.is_reranked:
            words.append("not re-ranked")
        return ", ".join(words)


def list_recipes(models: Iterable[str]) -> list[Recipe]:
    """Lists what is measured of these models: each alone, and every way to combine them.

    All subsets of 2 or more; of more than MAX_MODELS_OF_ALL_SUBSETS models the pairs and all.
    CALIBRATED, the default of searches, with WEIGHTS: each beside each for up to 3 models, for more
    at most one below 1. Each model, and CALIBRATED with equal weights, without re-ranking too.
    """
    names = sorted(models)
    n_names = len(names)
    sizes = range(2, n_names + 1) if n_names <= MAX_MODELS_OF_ALL_SUBSETS else (2, n_names)
    recipes = [Recipe((name,), Method.SINGLE) for name in names]
    for subset in (chosen for size in sizes for chosen in combinations(names, size)):
        equal = (1.0,) * len(subset)
        recipes += [Recipe(subset, Method.CALIBRATED, w) for w in _weight_grid(len(subset))]
        recipes.append(Recipe(subset, Method.WEIGHTED, equal))
        recipes += [Recipe(subset, m) for m in (Method.RRF, Method.MAX, Method.MIN)]
        recipes.append(Recipe(subset, Method.CALIBRATED, equal, is_reranked=False))
    return [*recipes, *(Recipe((name,), Method.SINGLE, is_reranked=False) for name in names)]


def _weight_grid(n_models: int) -> list[tuple[float, ...]]:
    """Weights to try, the heaviest 1; equal ones first, so that they win a tie."""
    grid = [weights for weights in product(WEIGHTS, repeat=n_models) if max(weights) == 1.0]
    if n_models <= 3:
        return grid
    return [weights for weights in grid if weights.count(1.0) >= n_models - 1]
