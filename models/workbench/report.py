"""Shows an evaluation: one HTML page that needs nothing else.

The page has no script, loads nothing (its own policy forbids it) and works from a file. Every
name and label in it is a user's text: the template escapes all. Thumbnails are made anew from
pixels, so that no picture's position or comment goes with them.
"""

from __future__ import annotations

import base64
import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from jinja2 import Environment, StrictUndefined
from numpy.typing import NDArray

from twinlens.models.distances import Metric, pairwise_distances
from twinlens.models.fusion import RRF_K
from twinlens.models.pictures import thumbnail
from twinlens.models.rerank import N_RERANKED
from twinlens.models.workbench.embeddings import Embedded, sort_by_id
from twinlens.models.workbench.evaluate import (
    N_QUERIES,
    Evaluation,
    choose_queries,
    label_codes,
    relations_of,
)
from twinlens.models.workbench.intervals import Estimate
from twinlens.models.workbench.labels import MIN_PICTURES, Labelled
from twinlens.models.workbench.rankings import (
    N_NEAREST,
    ComparedRankings,
    compare_place,
    measure_agreements,
)
from twinlens.models.workbench.recommend import Contender
from twinlens.models.workbench.scores import Measure, blocks_of
from twinlens.shared.errors import PictureError

TEMPLATE = Path(__file__).with_name("report.html")
N_DISAGREEMENTS = 8
# Twice what the page shows, for screens of two pixels a pixel; 8 KB each.
THUMBNAIL_PX = 160
N_BINS = 40
# Queries that a histogram is of: more change its shape no more, and cost memory.
MAX_HISTOGRAM_QUERIES = 500
# Where a contender has what was measured.
_MEASURED = {
    Measure.AVERAGE_PRECISION: "mean_average_precision",
    Measure.PRECISION_AT_1: "precision_at_1",
    Measure.PRECISION_AT_5: "precision_at_5",
    Measure.NDCG_AT_10: "ndcg_at_10",
}


@dataclass(frozen=True)
class Histogram:
    """Distances between pictures that share a label and that share none, as shares of each, [bins].

    `separation` is how often a related pair is nearer than one that is not: 0.5 is chance.
    """

    low: float
    high: float
    same: tuple[float, ...]
    different: tuple[float, ...]
    separation: float


def find_disagreements(
    embedded: Embedded,
    pictures: Sequence[Labelled],
    models: tuple[str, str],
    n_queries: int = N_DISAGREEMENTS,
    k: int = N_NEAREST,
) -> list[ComparedRankings]:
    """Finds the labelled pictures for which two models rank the others most differently.

    That is: the smallest overlap of the nearest k, then the smallest rank correlation. One of
    each label first, for a label that a model does not know would fill the list. Of many pictures,
    N_QUERIES are looked for.
    """
    gallery = sort_by_id(embedded)
    codes = label_codes(gallery, pictures)
    queries = choose_queries(gallery, relations_of(gallery, pictures), 0, N_QUERIES)
    keys = [
        one.key
        for block in blocks_of(queries, len(codes))
        for one in measure_agreements(gallery, block, models, k)
    ]
    seen: Counter[int] = Counter()
    ranked = []
    for key, query in sorted(zip(keys, queries.tolist(), strict=True)):
        label = int(codes[query])
        ranked.append((seen[label], key, query))
        seen[label] += 1
    return [compare_place(gallery, query, models, k) for _, _, query in sorted(ranked)[:n_queries]]


def measure_histogram(embedded: Embedded, pictures: Sequence[Labelled], name: str) -> Histogram:
    """Measures how far apart a model puts pictures that share a label, and that share none."""
    gallery, model = sort_by_id(embedded), embedded.models[name]
    relations = relations_of(gallery, pictures)
    queries = relations.queries()
    n_used = min(MAX_HISTOGRAM_QUERIES, len(queries))
    queries = queries[np.linspace(0, len(queries) - 1, n_used).astype(np.intp)]
    distances = pairwise_distances(gallery.rows[name][queries], gallery.rows[name], model)
    is_same = relations.grades(queries) > 0
    is_other = np.arange(len(gallery.files)) != queries[:, np.newaxis]
    same, different = distances[is_same], distances[~is_same & is_other]
    edges = _edges(distances[is_other], is_whole=model.metric is Metric.HAMMING)
    sign = model.metric.sign
    return Histogram(
        low=float(edges[0]),
        high=float(edges[-1]),
        same=_shares(same, edges),
        different=_shares(different, edges),
        separation=_separation(sign * same, sign * different),
    )


def render_report(
    evaluation: Evaluation, embedded: Embedded, pictures: Sequence[Labelled], title: str
) -> str:
    """Renders the page.

    Args:
        evaluation: What was measured.
        embedded: The pictures that it was measured on.
        pictures: Their labels.
        title: The title of the page, such as the name of the list of labels.
    """
    singles = [c for c in evaluation.contenders if c.recipe.is_baseline]
    names = [name for single in singles for name in single.recipe.models]
    disagreements = []
    if len(names) > 1 and not evaluation.is_of_words:
        disagreements = find_disagreements(embedded, pictures, (names[0], names[1]))
    environment = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True)
    environment.lstrip_blocks = True
    page = environment.from_string(TEMPLATE.read_text(encoding="utf-8")).render(
        title=title,
        evaluation=evaluation,
        best_single=singles[0],
        recommended=_recommended(evaluation),
        columns=_columns(evaluation),
        judged=_MEASURED[evaluation.decided_by],
        is_graded=evaluation.decided_by is Measure.NDCG_AT_10,
        scale=_scale(evaluation),
        # They are of distances between pictures.
        histograms={
            name: measure_histogram(embedded, pictures, name)
            for name in names
            if not evaluation.is_of_words
        },
        models=embedded.models,
        disagreements=disagreements,
        pictures={picture.path: picture for picture in pictures},
        thumbnail=_Thumbnails().uri,
        left_out=embedded.left_out,
        min_pictures=MIN_PICTURES,
        rrf_k=RRF_K,
        n_reranked=N_RERANKED,
    )
    # A file's name may have bytes that are no UTF-8; the page cannot.
    return page.encode("utf-8", "replace").decode("utf-8")


class _Thumbnails:
    """Thumbnails as data: URIs, each made once; None where the file is gone by now."""

    def __init__(self) -> None:
        self._made: dict[Path, str | None] = {}

    def uri(self, path: Path) -> str | None:
        if path not in self._made:
            self._made[path] = self._make(path)
        return self._made[path]

    def _make(self, path: Path) -> str | None:
        try:
            content = thumbnail(path.read_bytes(), THUMBNAIL_PX)
        except (OSError, PictureError):
            return None
        return f"data:image/jpeg;base64,{base64.b64encode(content).decode('ascii')}"


def _edges(distances: NDArray[np.float64], *, is_whole: bool) -> NDArray[np.float64]:
    low, high = float(distances.min()), float(distances.max())
    if not is_whole:
        return np.linspace(low, max(high, low + 1e-6), N_BINS + 1)
    # Two bits at least: hashes with as many ones as zeros differ by even numbers alone, and bins
    # of one bit would be a comb.
    width = max(2, math.ceil((high - low) / N_BINS))
    return np.arange(low, high + 2 * width, width)


def _shares(distances: NDArray[np.float64], edges: NDArray[np.float64]) -> tuple[float, ...]:
    counts = np.histogram(distances, edges)[0]
    return tuple((counts / max(1, counts.sum())).tolist())


def _separation(same: NDArray[np.float64], different: NDArray[np.float64]) -> float:
    """The area under the ROC curve: ties count half."""
    different = np.sort(different)
    n_nearer = np.searchsorted(different, same, "left") + np.searchsorted(different, same, "right")
    return 1.0 - float(n_nearer.mean()) / (2.0 * max(1, len(different)))


def _recommended(evaluation: Evaluation) -> Contender:
    recipe = evaluation.recommendation.recipe
    return next(one for one in evaluation.contenders if one.recipe == recipe)


def _columns(evaluation: Evaluation) -> dict[str, str]:
    """Heading and attribute of each measure in the table."""
    columns = {evaluation.decided_by.value: _MEASURED[evaluation.decided_by]}
    columns |= {m.value: name for m, name in _MEASURED.items() if m is not Measure.NDCG_AT_10}
    return columns | ({"near duplicates": "near_duplicates"} if evaluation.n_edits else {})


def _scale(evaluation: Evaluation) -> float:
    """Where the axis of what decides ends: the next tenth."""
    name = _MEASURED[evaluation.decided_by]
    estimates: list[Estimate] = [getattr(one, name) for one in evaluation.contenders]
    highest = max(estimates, key=lambda estimate: estimate.high)
    return math.ceil(highest.high * 10 + 1e-9) / 10 if highest.high < 1 else 1.0
