"""What re-ranking gains, by how many pictures belong together.

`python -m benchmarks.rerank LABELS.csv` keeps so many pictures of each label of a list (as
`twinlens evaluate` takes it), and prints mAP of the best single model, of the default fusion, and
of that re-ranked by neighbours: means over draws.
"""

from __future__ import annotations

import argparse
import random
import statistics
import tempfile
from collections.abc import Sequence
from pathlib import Path

from benchmarks.labelled import embed_labelled, part_of
from twinlens.models.workbench.embeddings import Embedded
from twinlens.models.workbench.evaluate import evaluate
from twinlens.models.workbench.labels import Labelled, read_labels
from twinlens.models.workbench.recipes import Method

N_OF_LABEL = (3, 4, 6, 8, 10, 15, 24)
N_DRAWS = 4
# Method, and whether its rankings are re-ranked.
SHOWN = ((Method.SINGLE, False), (Method.CALIBRATED, False), (Method.CALIBRATED, True))


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.rerank",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("labels", type=Path)
    pictures = read_labels(parser.parse_args().labels)
    with tempfile.TemporaryDirectory(prefix="twinlens-bench-") as folder:
        whole = embed_labelled(pictures, Path(folder))
    print("of each label", "single", "fused", "re-ranked", sep=" | ")
    rng = random.Random(0)
    for n_of_label in N_OF_LABEL:
        draws = [measure(whole, draw(pictures, n_of_label, rng)) for _ in range(N_DRAWS)]
        means = map(statistics.mean, zip(*draws, strict=True))
        print(n_of_label, *(f"{mean:.3f}" for mean in means), sep=" | ", flush=True)


def draw(pictures: Sequence[Labelled], n_of_label: int, rng: random.Random) -> list[Labelled]:
    """Keeps so many of each label, and all without one."""
    kept: dict[str, list[Labelled]] = {}
    for one in rng.sample(pictures, len(pictures)):
        of_label = kept.setdefault(one.label, [])
        if not one.label or len(of_label) < n_of_label:
            of_label.append(one)
    return [one for of_label in kept.values() for one in of_label]


def measure(whole: Embedded, pictures: Sequence[Labelled]) -> list[float]:
    """Returns the best mAP of each of SHOWN that all queries have the same weights in."""
    evaluation = evaluate(part_of(whole, pictures), pictures, n_bootstrap=1)
    return [
        max(
            one.mean_average_precision.value
            for one in evaluation.contenders
            if (one.recipe.method, one.recipe.is_reranked) == shown and one.recipe.is_equal
        )
        for shown in SHOWN
    ]


if __name__ == "__main__":
    main()
