"""Whether scores can be taken at their word: `python -m benchmarks.calibration LABELS.csv`.

The share of pairs of different labels whose calibrated score is 0.99 or more, which is to be 1 %,
for the pictures of a list (as `twinlens evaluate` takes it), for those of each of its sources, and
for each of these libraries with crops of every picture, to see what growth does.
"""

from __future__ import annotations

import argparse
import random
import tempfile
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
from PIL import Image

from benchmarks.labelled import embed_labelled, part_of
from twinlens.models.workbench.embeddings import Embedded
from twinlens.models.workbench.evaluate import label_codes
from twinlens.models.workbench.labels import Labelled, read_labels
from twinlens.models.workbench.scores import calibrate_all, rare_shares

N_CROPS = 9
LEAST_SHARE = 0.5  # of each side, that a crop keeps


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.calibration", description=__doc__)
    parser.add_argument("labels", type=Path)
    pictures = read_labels(parser.parse_args().labels)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        crops = [
            crop
            for place, one in enumerate(pictures)
            for crop in make_crops(one, folder / str(place))
        ]
        whole = embed_labelled(pictures + crops, folder)
        print("library", "pictures", "related pairs", *whole.models, sep=" | ")
        for source in ["", *sorted({one.source for one in pictures} - {""})]:
            for some in (pictures, pictures + crops):
                own = [one for one in some if source in ("", one.source)]
                shares = [f"{share:.2%}" for share in shares_of(whole, own)]
                kind = "" if some is pictures else f" with {N_CROPS} crops of each"
                print((source or "all") + kind, len(own), *shares, sep=" | ")


def make_crops(one: Labelled, folder: Path) -> list[Labelled]:
    """Writes crops of a picture, of random places and sizes, the same each time."""
    folder.mkdir()
    rng = random.Random(one.path.name)
    made = []
    with Image.open(one.path) as image:
        for number in range(N_CROPS):
            share = rng.uniform(LEAST_SHARE, 1)
            width, height = (max(1, round(share * side)) for side in image.size)
            left, top = rng.randint(0, image.width - width), rng.randint(0, image.height - height)
            path = folder / f"{number}.jpg"
            crop = image.crop((left, top, left + width, top + height)).convert("RGB")
            crop.save(path, quality=90)
            made.append(replace(one, path=path))
    return made


def shares_of(whole: Embedded, pictures: Sequence[Labelled]) -> list[float]:
    """Measures some of the pictures as a library: pairs that are related, then rare by model."""
    some = part_of(whole, pictures)
    codes = label_codes(some, pictures)
    n_of_label = np.bincount(codes)
    related = (n_of_label * (n_of_label - 1)).sum() / (len(codes) * (len(codes) - 1))
    return [related, *rare_shares(some, calibrate_all(some), codes).values()]


if __name__ == "__main__":
    main()
