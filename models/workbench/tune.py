"""Learns from labels how pictures of one thing differ, and measures whether that helps.

Within-class covariance whitening is learned on some labels and judged on others: pictures of labels
that taught nothing are searched among themselves, as if all things were new. The labels are halved
at random, each half teaches the other, and that is repeated. Intervals are bootstrap percentiles
over labels, since pictures of one label win or lose together.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from twinlens.models.errors import BadInput
from twinlens.models.workbench.embeddings import sort_by_id
from twinlens.models.workbench.evaluate import label_codes
from twinlens.models.workbench.heldout import Pictures, choose_shrinkage, learn
from twinlens.models.workbench.intervals import Estimate, draw_queries, estimate_means
from twinlens.models.workbench.labels import MIN_PICTURES
from twinlens.models.workbench.recipes import Method, Recipe
from twinlens.models.workbench.scores import Measure

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence

    from numpy.typing import NDArray

    from twinlens.models.build.linear import LinearMap
    from twinlens.models.workbench.embeddings import Embedded
    from twinlens.models.workbench.labels import Labelled

# How often the labels are halved. With once, chance says which half a hard label is in.
N_SPLITS = 3
# Halved twice, two labels are left on each side.
MIN_LABELS = 10
# Pictures that it is judged by, and that one label has of them; all others teach in the end, too.
N_JUDGED, N_JUDGED_OF_LABEL = 2_000, 100
N_BOOTSTRAP = 1_000

_AVERAGE, _AT_5 = Measure.AVERAGE_PRECISION.place, Measure.PRECISION_AT_5.place


@dataclass(frozen=True)
class Gain:
    """What tuning changes of one ranking, on labels that taught nothing; re-ranked as searches are.

    `before`, `after` and `gain` are of the mAP, the others of precision@5.
    """

    title: str
    before: Estimate
    after: Estimate
    gain: Estimate
    at_5_before: Estimate
    at_5_after: Estimate

    @property
    def helps(self) -> bool:
        """Whether more than chance speaks for it."""
        return self.gain.low > 0.0


@dataclass(frozen=True)
class Tuning:
    """What was measured: by each model alone, and fused with those tuned that gain by it."""

    by_model: Mapping[str, Gain]
    fused: Gain
    n_pictures: int
    n_labels: int
    n_judged: int

    @property
    def helped(self) -> list[str]:
        """The models to tune; none where the fused search does not gain."""
        gaining = [name for name, gain in self.by_model.items() if gain.helps]
        return gaining if self.fused.helps else []

    @property
    def sentence(self) -> str:
        """Says whether it helps."""
        one = self.fused
        gained = f"mAP {one.before.value:.3f} → {one.after.value:.3f}, {one.gain:+}"
        if self.helped:
            named = " and ".join(self.helped)
            return f"Tuning {named} helps to find things that taught nothing: {gained}."
        return (
            f"tuning is no clear help to find things that taught nothing: {gained}; nothing is "
            "changed. Label more things, of the kinds that are searched"
        )


def check_enough_labels(n_by_label: Mapping[str, int]) -> None:
    """Refuses labels that are too few to tell whether tuning helps.

    Args:
        n_by_label: How many pictures each label has.

    Raises:
        BadInput: They are.
    """
    n_enough = sum(n >= MIN_PICTURES for n in n_by_label.values())
    if n_enough < MIN_LABELS:
        raise BadInput(
            f"{sum(n_by_label.values())} pictures of {len(n_by_label)} labels are too few to tell "
            f"whether tuning helps: {n_enough} labels have {MIN_PICTURES} pictures or more, and "
            f"{MIN_LABELS} must; label more things rather than more of each"
        )


def measure_tuning(
    embedded: Embedded,
    labelled: Sequence[Labelled],
    weights: Mapping[str, float],
    on_progress: Callable[[int], None] = lambda _: None,
    seed: int = 0,
) -> Tuning:
    """Measures what whitening changes for labels that it was not learned from.

    Args:
        embedded: The pictures, from `embed_all`. Models of bits are left as they are.
        labelled: Their labels.
        weights: In the fused search, by model, of all models.
        on_progress: Called with how many of 2 * `N_SPLITS` times something was learned.
        seed: Of the halves, and of the bootstrap.

    Raises:
        BadInput: The labels are too few, or there is no model of numbers.
    """
    rng = np.random.default_rng(seed)
    pictures = pictures_of(embedded, labelled)
    if not pictures.models:
        raise BadInput("hashes cannot be tuned; name a model with float32 embeddings")
    by_path = {one.path: one.label for one in labelled}
    n_by_label = Counter(by_path[path] for path in embedded.files if by_path[path])
    check_enough_labels(n_by_label)
    judged = pictures.take(pictures.draw(N_JUDGED, N_JUDGED_OF_LABEL, rng))
    trials: list[_Trial] = []
    for half in [judged.halve(rng) for _ in range(N_SPLITS)]:
        for is_taught in (half, ~half):
            trials.append(_Trial(~is_taught, learn(judged.take(is_taught), rng)))
            on_progress(len(trials))
    counts = draw_labels(judged, rng)

    def judge(recipe: Recipe, tuned: Iterable[str]) -> Gain:
        return _compare(recipe.title, *_judge(judged, trials, recipe, set(tuned)), counts)

    by_model = {name: judge(Recipe((name,), Method.SINGLE), [name]) for name in pictures.models}
    gaining = [name for name, gain in by_model.items() if gain.helps] or pictures.models
    fused = judge(_fused(weights), gaining)
    return Tuning(by_model, fused, len(pictures.codes), len(n_by_label), len(judged.codes))


def learn_maps(
    embedded: Embedded, labelled: Sequence[Labelled], models: Iterable[str], seed: int = 0
) -> dict[str, LinearMap]:
    """Learns from all labels.

    Args:
        embedded: As for `measure_tuning`.
        labelled: The same.
        models: Which to tune.
        seed: Of the halves by which the shrinkage is chosen.
    """
    rng = np.random.default_rng(seed)
    pictures = pictures_of(embedded, labelled).under(models)
    judged = pictures.take(pictures.draw(N_JUDGED, N_JUDGED_OF_LABEL, rng))
    shrinkages = {name: choose_shrinkage(judged, name, rng) for name in models}
    return {name: pictures.within(name).whitening(one) for name, one in shrinkages.items()}


def pictures_of(embedded: Embedded, labelled: Sequence[Labelled]) -> Pictures:
    """Brings pictures and their labels together."""
    gallery = sort_by_id(embedded)
    return Pictures(gallery, label_codes(gallery, labelled))


def draw_labels(pictures: Pictures, rng: np.random.Generator) -> NDArray[np.int64]:
    """Draws labels with all their queries, with repetition: how often each query, [b, q]."""
    labels, places = np.unique(pictures.codes[pictures.queries], return_inverse=True)
    return draw_queries(rng, len(labels), N_BOOTSTRAP)[:, places]


@dataclass(frozen=True)
class _Trial:
    """Maps by model, and which pictures taught them nothing, [n]."""

    is_new: NDArray[np.bool_]
    maps: Mapping[str, LinearMap]


def _judge(
    pictures: Pictures, trials: Sequence[_Trial], recipe: Recipe, tuned: set[str]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Measures of each query without the maps and with them, [4, q] each, means over the trials."""
    before, after = np.zeros((2, len(Measure), len(pictures.codes)))
    for trial in trials:
        new = pictures.take(trial.is_new)
        changed = new.mapped({name: trial.maps[name] for name in tuned})
        queries = np.flatnonzero(trial.is_new)[new.queries]
        before[:, queries] += new.measure(recipe)
        after[:, queries] += changed.measure(recipe)
    # Each picture is new in one of two trials.
    share = 2 / len(trials)
    return share * before[:, pictures.queries], share * after[:, pictures.queries]


def _compare(
    title: str,
    before: NDArray[np.float64],
    after: NDArray[np.float64],
    counts: NDArray[np.int64],
) -> Gain:
    [gain] = estimate_means(after[_AVERAGE : _AVERAGE + 1] - before[_AVERAGE], counts)
    old, new = (estimate_means(each, counts) for each in (before, after))
    return Gain(title, old[_AVERAGE], new[_AVERAGE], gain, old[_AT_5], new[_AT_5])


def _fused(weights: Mapping[str, float]) -> Recipe:
    """The default search: by one model that weighs something, or several."""
    weighing = {name: weight for name, weight in sorted(weights.items()) if weight > 0}
    weighing = weighing or dict.fromkeys(sorted(weights), 1.0)
    if len(weighing) == 1:
        return Recipe(tuple(weighing), Method.SINGLE)
    return Recipe(tuple(weighing), Method.CALIBRATED, tuple(weighing.values()))
