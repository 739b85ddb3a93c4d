"""What labels teach, one way and the other: `python -m benchmarks.tune LABELS.csv`.

Of one halving of the labels, each half teaches the other; then each source of the list is taught by
all others. Printed is the mAP of new things among themselves, fused, re-ranked and not.
"""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from twinlens.models.registry import DEFAULT_MODELS, Registry, ensure_models
from twinlens.models.workbench.embeddings import EmbeddingCache, embed_all
from twinlens.models.workbench.heldout import Pictures, learn
from twinlens.models.workbench.intervals import estimate_means
from twinlens.models.workbench.labels import read_labels
from twinlens.models.workbench.recipes import Method, Recipe
from twinlens.models.workbench.scores import Measure
from twinlens.models.workbench.tune import draw_labels, pictures_of


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.tune", description=__doc__)
    parser.add_argument("labels", type=Path, metavar="LABELS.csv")
    labelled = read_labels(parser.parse_args().labels)
    with tempfile.TemporaryDirectory(prefix="twinlens-bench-") as folder:
        ensure_models(Path(folder), DEFAULT_MODELS)
        registry = Registry(Path(folder))
        models = [registry.open(ref) for ref in DEFAULT_MODELS if registry.card(ref).weight]
        files = [one.path for one in labelled]
        embedded = embed_all(models, files, EmbeddingCache(Path(folder) / "cache"))
    pictures = pictures_of(embedded, labelled)
    half = pictures.halve(np.random.default_rng(0))
    _show(pictures, "one half teaches the other", half)
    _show(pictures, "the other way round", ~half)
    source_of = {one.path: one.source for one in labelled}
    sources = np.array([source_of[path] for path in pictures.embedded.files])
    for source in np.unique(sources).tolist():
        if pictures.take(sources == source).queries.size:
            _show(pictures, f"others teach {source}", sources != source)


def _show(pictures: Pictures, title: str, is_taught: NDArray[np.bool_]) -> None:
    maps = learn(pictures.take(is_taught), np.random.default_rng(0))
    new = pictures.take(~is_taught)
    names = tuple(sorted(pictures.models))
    print(f"{title}: {is_taught.sum()} pictures teach, {len(new.codes)} are new")
    for is_reranked in (True, False):
        recipe = Recipe(names, Method.CALIBRATED, (1.0,) * len(names), is_reranked)
        place = Measure.AVERAGE_PRECISION.place
        before, after = new.measure(recipe)[place], new.mapped(maps).measure(recipe)[place]
        counts = draw_labels(new, np.random.default_rng(0))
        [gain] = estimate_means(np.array([after - before]), counts)
        print(
            f"  {'re-ranked' if is_reranked else 'not re-ranked':14} mAP {before.mean():.3f} →"
            f" {after.mean():.3f}, {gain:+}",
            flush=True,
        )


if __name__ == "__main__":
    main()
