"""Whether scores can be taken at their word: `python -m benchmarks.calibration LABELS.csv`.

The share of pairs of different labels whose calibrated score is 0.99 or more, which is to be 1 %,
in per cent: in libraries of 100, 500 and 5,000 pictures of a list (as `twinlens evaluate` takes
it), the last with crops, and in those of each of its sources. Of more than one draw, the mean and
the deviation.

Under the shipped models, and models of which nothing is known beforehand: a network without its
card's calibration whose embeddings all have a constant added, a toy of 16 numbers, and what else
lies in --dir, as `twinlens models export vgg16 --weights random --dir DIR` puts it there.
"""

from __future__ import annotations

import argparse
import random
import tempfile
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from benchmarks.labelled import part_of
from benchmarks.toy import toy_embedder
from twinlens.models.card import Card
from twinlens.models.cards import shipped_refs
from twinlens.models.registry import DEFAULT_MODELS, Registry, ensure_models
from twinlens.models.session import Embedder
from twinlens.models.workbench.embeddings import Embedded, EmbeddingCache, embed_all
from twinlens.models.workbench.evaluate import label_codes, relations_of
from twinlens.models.workbench.labels import Labelled, read_labels
from twinlens.models.workbench.scores import calibrate_all, rare_shares

N_CROPS = 9
LEAST_SHARE = 0.5  # of each side, that a crop keeps
N_DRAWS = {100: 20, 500: 5, 5_000: 5}
SHIFTED, CONSTANT = "efficientnet-lite0@1", 30.0  # cosines from 0.9990 to 0.9998
N_OF_SOURCE = 100  # or its share is chance

Library = Sequence[Labelled]


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.calibration",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("labels", type=Path)
    parser.add_argument("--dir", type=Path, help="directory of models, to measure those as well")
    parser.add_argument("--cache", type=Path, help="directory that keeps embeddings")
    args = parser.parse_args()
    pictures = read_labels(args.labels)
    with tempfile.TemporaryDirectory(prefix="twinlens-bench-") as name:
        work = Path(name)
        crops = [crop for one in pictures for crop in make_crops(one, work)]
        embedders = open_models(args.dir or work / "models")
        files = [one.path for one in (*pictures, *crops)]
        whole = embed_all(embedders, files, EmbeddingCache(args.cache or work / "cache"))
        whole = with_constant(whole)
        print("library", "pictures", "related pairs", *whole.models, sep=" | ")
        for title, draws in libraries_of(pictures, crops):
            shares = 100.0 * np.array([shares_of(whole, library) for library in draws])
            print(title, len(draws[0]), *map(show, shares.T), sep=" | ", flush=True)


def open_models(directory: Path) -> list[Embedder]:
    """Opens the default models, the one to be shifted, a toy, and what is not ours."""
    refs = [*DEFAULT_MODELS, SHIFTED]
    ensure_models(directory, refs)
    registry = Registry(directory)
    others = [card.ref for card in registry.cards() if card.ref not in shipped_refs()]
    return [toy_embedder(), *(registry.open(ref) for ref in (*refs, *others))]


def with_constant(whole: Embedded) -> Embedded:
    """Adds a constant vector to all embeddings of SHIFTED, and forgets its calibration."""
    rows, models, title = {**whole.rows}, {**whole.models}, f"{SHIFTED} + constant"
    card = models.pop(SHIFTED)
    assert isinstance(card, Card)
    constant = np.random.default_rng(0).normal(size=card.dimension)
    moved = rows.pop(SHIFTED) + CONSTANT * constant / np.linalg.norm(constant)
    rows[title] = (moved / np.linalg.norm(moved, axis=1, keepdims=True)).astype(np.float32)
    models[title] = card.model_copy(update={"calibration": None})
    return replace(whole, rows=rows, models=models)


def make_crops(one: Labelled, folder: Path) -> list[Labelled]:
    """Writes crops of a picture, of random places and sizes, the same each time."""
    rng = random.Random(one.path.name)
    own = Path(tempfile.mkdtemp(dir=folder))
    made = []
    with Image.open(one.path) as image:
        for number in range(N_CROPS):
            share = rng.uniform(LEAST_SHARE, 1)
            width, height = (max(1, round(share * side)) for side in image.size)
            left, top = rng.randint(0, image.width - width), rng.randint(0, image.height - height)
            path = own / f"{number}.jpg"
            crop = image.crop((left, top, left + width, top + height)).convert("RGB")
            crop.save(path, quality=90)
            made.append(replace(one, path=path))
    return made


def libraries_of(pictures: Library, crops: Library) -> Iterator[tuple[str, list[Library]]]:
    """Yields what is measured: a title, and libraries of one size."""
    rng = random.Random(0)
    for n_pictures, n_draws in N_DRAWS.items():
        some = [*pictures, *crops] if n_pictures > len(pictures) else pictures
        if n_pictures <= len(some):
            draws: list[Library] = [rng.sample(some, n_pictures) for _ in range(n_draws)]
            yield "some, with crops" if len(some) > len(pictures) else "some", draws
    n_of_source = Counter(one.source for one in pictures if one.source)
    large = sorted(source for source, count in n_of_source.items() if count >= N_OF_SOURCE)
    for source in ["", *large]:
        own, cropped = (
            [one for one in kind if source in ("", one.source)] for kind in (pictures, crops)
        )
        yield source or "all", [own]
        yield f"{source or 'all'} with {N_CROPS} crops of each", [[*own, *cropped]]


def shares_of(whole: Embedded, pictures: Library) -> list[float]:
    """Measures some of the pictures as a library: pairs that are related, then rare by model."""
    some = part_of(whole, pictures)
    codes = label_codes(some, pictures)
    n_of_label = np.bincount(codes)
    related = (n_of_label * (n_of_label - 1)).sum() / (len(codes) * (len(codes) - 1))
    relations, places = relations_of(some, pictures), np.arange(len(codes))
    return [related, *rare_shares(some, calibrate_all(some), relations, places).values()]


def show(shares: NDArray[np.float64]) -> str:
    spread = f" ± {shares.std():.2f}" if len(shares) > 1 else ""
    return f"{shares.mean():.2f}{spread}"


if __name__ == "__main__":
    main()
