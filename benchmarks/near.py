"""How surely copies of a picture are found: `python -m benchmarks.near [FOLDER]`.

Some of the pictures are edited in every way of `models/workbench/edits.py`. Each edit looks for its
original among all pictures, and each original for its edit in its own place among them; once as it
is, and once in all its variants. Printed are the shares that come first, of each edit those that
are in one group of duplicates with their original, how far away an original has to be to be no
chance hit, and how long it takes to group a large library.
"""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import skimage.data
from numpy.typing import NDArray
from support.near_duplicates import confirm_by_cosine

from benchmarks.setup import time_s
from twinlens.models.bits import Embeddings
from twinlens.models.calibration import Calibration, calibrate, prior_of
from twinlens.models.distances import pairwise_distances
from twinlens.models.duplicates import (
    MAX_DISTANCE,
    MIN_COSINE,
    group_duplicates,
)
from twinlens.models.fusion import fuse
from twinlens.models.pictures import open_picture
from twinlens.models.registry import DEFAULT_MODELS, Registry, ensure_models
from twinlens.models.session import Embedder
from twinlens.models.variants import NEAR_WEIGHT, variants_of
from twinlens.models.workbench.edits import EDITS, edit_picture
from twinlens.shared.errors import PictureError

# Files in several formats of one picture would be found for each other's edits.
SAME_BITS = 4
FALSE_ALARMS = 0.01
N_HASHES = 100_000
NETWORK, HASH = "efficientnet-lite0", "phash"

Edit = tuple[int, str]  # the place of the original, what was done
Variants = dict[str, Embeddings]  # by model: [v, dim] or [v, dim / 8], the picture as it is first
Edits = dict[Edit, Variants]
Distances = dict[str, NDArray[np.float64]]  # by model: [v, n]


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.near", description=__doc__)
    shipped = Path(skimage.data.__file__).parent
    parser.add_argument("folder", nargs="?", type=Path, default=shipped, metavar="FOLDER")
    parser.add_argument("--edited", type=int, default=100, metavar="N", help="pictures to edit")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="twinlens-bench-") as models_dir:
        ensure_models(Path(models_dir))
        models = [Registry(Path(models_dir)).open(ref) for ref in DEFAULT_MODELS]
    gallery = _Gallery(models, sorted(path for path in args.folder.rglob("*") if path.is_file()))
    chosen = np.random.default_rng(0).permutation(len(gallery.contents))[: args.edited].tolist()
    edits: Edits = {
        (place, kind): _embed(models, content)
        for place in chosen
        for kind, content in edit_picture(gallery.contents[place]).items()
    }
    measured = {edit: gallery.measure(variants) for edit, variants in edits.items()}
    print(f"{len(gallery.contents)} pictures, {len(chosen)} of them edited in {len(EDITS)} ways")
    _show_recall(gallery, edits, measured)
    _show_false_alarms(gallery, measured)
    _show_speed()


class _Gallery:
    """Pictures that are searched, each once, and their embeddings."""

    def __init__(self, models: Sequence[Embedder], files: Sequence[Path]) -> None:
        pictures: list[tuple[bytes, Variants]] = []
        for content in map(Path.read_bytes, files):
            try:
                pictures.append((content, _embed(models, content)))
            except PictureError:
                continue
        rows = {name: np.stack([one[name][0] for _, one in pictures]) for name in pictures[0][1]}
        kept = _without_copies(rows)
        self.cards = {model.card.name: model.card for model in models}
        self.contents = [pictures[place][0] for place in kept]
        self.variants = [pictures[place][1] for place in kept]
        self.rows = {name: some[kept] for name, some in rows.items()}
        self.weights = dict.fromkeys(self.cards, NEAR_WEIGHT)
        self._calibrations: dict[str, Calibration] = {
            name: calibrate(self.rows[name], prior_of(card)) for name, card in self.cards.items()
        }

    def measure(self, variants: Variants) -> Distances:
        return {
            name: pairwise_distances(variants[name], self.rows[name], card)
            for name, card in self.cards.items()
        }

    def finds(self, place: int, distances: Distances) -> bool:
        """Tells whether a search has the picture first. Of the variants, the nearest counts."""
        named = {
            name: {f"{i:06d}": far for i, far in enumerate(some.min(axis=0).tolist())}
            for name, some in distances.items()
        }
        first = fuse(named, self.cards, self.weights, limit=1, calibrations=self._calibrations)
        return first[0].image_id == f"{place:06d}"

    def put(self, place: int, edit: Variants, distances: Distances) -> Distances:
        """Returns the distances of the picture where its edit lies in its place."""
        changed = {name: some.copy() for name, some in distances.items()}
        for name, card in self.cards.items():
            stored = pairwise_distances(self.variants[place][name], edit[name][:1], card)
            changed[name][:, place] = stored[:, 0]
        return changed


def _show_recall(gallery: _Gallery, edits: Edits, measured: dict[Edit, Distances]) -> None:
    originals = {place: gallery.measure(gallery.variants[place]) for place, _ in edits}
    grouped = _grouped(gallery, edits)
    print("\n             edit finds original   original finds edit")
    print("             as it is   variants   as it is   variants   in its group")
    for kind in EDITS:
        finds = []
        for place, original in originals.items():
            edit = (place, kind)
            both = (measured[edit], gallery.put(place, edits[edit], original))
            asked = [some for distances in both for some in (_as_it_is(distances), distances)]
            finds.append([*(gallery.finds(place, some) for some in asked), grouped.is_joined[edit]])
        shares = "   ".join(f"{share:8.3f}" for share in np.mean(finds, axis=0))
        print(f"{kind:10}   {shares}")
    print(
        f"\nduplicates: {grouped.n_groups} groups at {MAX_DISTANCE} bits and cosine {MIN_COSINE}; "
        f"{grouped.precision:.4f} of the pairs in one are of one picture"
    )


def _show_false_alarms(gallery: _Gallery, measured: dict[Edit, Distances]) -> None:
    """Where to draw the line: what a picture without a copy has within it by chance, and a copy."""
    for name in gallery.cards:
        nearest = {edit: some[name].min(axis=0) for edit, some in measured.items()}
        copies = np.array([some[place] for (place, _), some in nearest.items()])
        others = np.array([np.delete(some, place).min() for (place, _), some in nearest.items()])
        limit = np.quantile(others, FALSE_ALARMS, method="lower")
        print(
            f"{name}: {FALSE_ALARMS:.0%} have another picture within {limit:.3g}, "
            f"{np.mean(copies <= limit):.3f} their original"
        )


def _show_speed() -> None:
    """Times the grouping of random hashes, half of them one bit off the others."""
    rng = np.random.default_rng(0)
    hashes = rng.integers(0, 256, (N_HASHES // 2, 8), np.uint8)
    both = np.concatenate([hashes, hashes ^ np.array([1, 0, 0, 0, 0, 0, 0, 0], np.uint8)])
    ids = [f"{number:064x}" for number in range(N_HASHES)]
    confirm = confirm_by_cosine(np.ones((N_HASHES, 1)))
    spent_s = time_s(lambda: group_duplicates(ids, both, MAX_DISTANCE, confirm))
    print(f"{N_HASHES:,} hashes, half of them copies, are grouped in {spent_s:.1f} s")


@dataclass(frozen=True)
class _Grouped:
    """Of originals and all their edits together: which edits are in a group with theirs."""

    is_joined: dict[Edit, bool]
    n_groups: int
    precision: float


def _grouped(gallery: _Gallery, edits: Edits) -> _Grouped:
    owners = [*range(len(gallery.contents)), *(place for place, _ in edits)]
    rows = {
        name: np.stack([*stored, *(variants[name][0] for variants in edits.values())])
        for name, stored in gallery.rows.items()
    }
    ids = [f"{number:06d}" for number in range(len(owners))]
    confirm = confirm_by_cosine(rows[NETWORK])
    groups = group_duplicates(ids, rows[HASH], MAX_DISTANCE, confirm)
    group_of = {int(image_id): number for number, group in enumerate(groups) for image_id in group}
    is_joined = {
        edit: number in group_of and group_of[number] == group_of.get(edit[0])
        for number, edit in enumerate(edits, start=len(gallery.contents))
    }
    n_pairs = sum(len(group) * (len(group) - 1) // 2 for group in groups)
    n_right = sum(
        count * (count - 1) // 2
        for group in groups
        for count in np.unique([owners[int(i)] for i in group], return_counts=True)[1].tolist()
    )
    return _Grouped(is_joined, len(groups), n_right / n_pairs if n_pairs else 1.0)


def _without_copies(rows: dict[str, Any]) -> list[int]:
    ids = [f"{number:06d}" for number in range(len(rows[HASH]))]
    groups = group_duplicates(ids, rows[HASH], SAME_BITS, confirm_by_cosine(rows[NETWORK]))
    copies = {int(image_id) for group in groups for image_id in sorted(group)[1:]}
    return [place for place in range(len(ids)) if place not in copies]


def _embed(models: Sequence[Embedder], content: bytes) -> Variants:
    wanted_px = max(model.card.input.wanted_px for model in models)
    picture = open_picture(content, wanted_px=wanted_px)
    return {m.card.name: m.embed_batch(variants_of(picture, m.card)) for m in models}


def _as_it_is(distances: Distances) -> Distances:
    return {name: some[:1] for name, some in distances.items()}


if __name__ == "__main__":
    main()
