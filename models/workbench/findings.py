"""What an evaluation finds beside what to use: which model, which fusion, re-ranked or not."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from twinlens.models.workbench.intervals import Estimate, PairedDifference, measure_difference
from twinlens.models.workbench.recipes import Method, Recipe
from twinlens.models.workbench.scores import Measure, Row


@dataclass(frozen=True)
class Finding:
    """A sentence, and the difference that it is about."""

    sentence: str
    difference: PairedDifference


def list_findings(
    rows: Sequence[Row],
    reached: Sequence[Estimate],
    recommended: Recipe,
    counts: NDArray[np.int64],
    measure: Measure,
) -> tuple[Finding, ...]:
    """Compares the best model with the next, and the best fusion with the default; and re-ranking.

    Where the default fusion is best, it is compared with the next. Of re-ranking nothing is said
    where nothing was measured without it, as for words.

    Args:
        rows: What each recipe achieved.
        reached: The means of the decisive measure, in the same order.
        recommended: Whose models are combined, or taken alone; the best fusion's where one is
            better alone.
        counts: [b, q], from `draw_queries`.
        measure: The decisive measure.
    """
    order = sorted(range(len(rows)), key=lambda i: -reached[i].value)
    singles = [i for i in order if rows[i].recipe.is_baseline]
    fused = [i for i in order if _is_plain_fusion(rows[i])]
    if len(recommended.models) > 1:
        fused = [i for i in fused if rows[i].recipe.models == recommended.models]
    elif fused:
        fused = [i for i in fused if rows[i].recipe.models == rows[fused[0]].recipe.models]
    if len(fused) > 1 and rows[fused[0]].recipe.method is not Method.CALIBRATED:
        fused = [fused[0], *(i for i in fused if rows[i].recipe.method is Method.CALIBRATED)]
    described = [
        _best_of(kind, some, rows, reached, counts, measure)
        for kind, some in (("models", singles), ("fusions", fused))
        if len(some) > 1
    ]
    if all(row.recipe.is_reranked for row in rows):
        return tuple(described)
    return (*described, _reranking(rows, recommended, counts, measure))


def _is_plain_fusion(row: Row) -> bool:
    """With equal weights, as those that know none can be compared with."""
    recipe = row.recipe
    return recipe.method is not Method.SINGLE and recipe.is_reranked and not row.is_tuned


def _best_of(  # noqa: PLR0913, PLR0917 - what `list_findings` is given, for each of two kinds
    kind: str,
    order: Sequence[int],
    rows: Sequence[Row],
    reached: Sequence[Estimate],
    counts: NDArray[np.int64],
    measure: Measure,
) -> Finding:
    first, second = order[:2]
    difference = measure_difference(
        rows[first].judged(measure), rows[second].judged(measure), counts
    )
    sentence = (
        f"Best of the {kind}: {rows[first].recipe.title}, {measure} {reached[first]},"
        f" {difference.estimate} above {rows[second].recipe.title}{_doubt(difference)}."
    )
    return Finding(sentence, difference)


def _reranking(
    rows: Sequence[Row], recommended: Recipe, counts: NDArray[np.int64], measure: Measure
) -> Finding:
    """With equal weights: that is what both are measured with."""
    with_it, without = (
        next(row for row in rows if row.recipe.is_of(recommended.models, is_reranked=is_reranked))
        for is_reranked in (True, False)
    )
    difference = measure_difference(with_it.judged(measure), without.judged(measure), counts)
    models = " + ".join(recommended.models)
    gain = (
        f"Re-ranking {models} by neighbours: {measure} {difference.estimate:+}{_doubt(difference)}"
    )
    advice = "Leave it on, as it is"
    if difference.estimate.high < 0.0:
        advice = 'Turn it off: "rerank": "none", or --rerank none'
    return Finding(f"{gain}. {advice}.", difference)


def _doubt(difference: PairedDifference) -> str:
    return "" if difference.is_seen else f", which may be chance: {difference.needs}"
