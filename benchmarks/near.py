"""How surely copies of a picture are found: `python -m benchmarks.near [FOLDER]`.

Some of the pictures are edited in every way of `models/workbench/edits.py`. Each edit looks for its
original among all pictures, and each original for its edit in its own place among them; once as it
is, once in all its variants, and once with the best of these verified. Printed are the shares that
come first, of each edit those that are in one group of duplicates with their original, how far away
an original has to be to be no chance hit, and how long it takes to group a large library.
"""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Mapping, Sequence
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
    join_proven,
)
from twinlens.models.fusion import fuse
from twinlens.models.geometry import SIDE_PX, Forms, find_forms, locate_any
from twinlens.models.pictures import open_picture
from twinlens.models.registry import DEFAULT_MODELS, Registry, ensure_models
from twinlens.models.session import Embedder
from twinlens.models.variants import NEAR_WEIGHT, variants_of
from twinlens.models.workbench.edits import EDITS, edit_picture
from twinlens.shared.errors import PictureError
from twinlens.workers.query.copies import N_VERIFIED
from twinlens.workers.query.proving import N_NEIGHBOURS

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
    edits: Edits = {}
    forms: dict[Edit, Forms] = {}
    for place in chosen:
        for kind, content in edit_picture(gallery.contents[place]).items():
            edits[place, kind] = _embed(models, content)
            forms[place, kind] = _forms_of(content)
    measured = {edit: gallery.measure(variants) for edit, variants in edits.items()}
    print(f"{len(gallery.contents)} pictures, {len(chosen)} of them edited in {len(EDITS)} ways")
    _show_recall(gallery, edits, measured, forms)
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
        self.forms = [_forms_of(content) for content in self.contents]
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

    def best(self, distances: Distances) -> list[int]:
        """Returns the places of the best, as a search has them. Of variants, the nearest counts."""
        named = {
            name: {f"{i:06d}": far for i, far in enumerate(some.min(axis=0).tolist())}
            for name, some in distances.items()
        }
        best = fuse(
            named, self.cards, self.weights, limit=N_VERIFIED, calibrations=self._calibrations
        )
        return [int(one.image_id) for one in best]

    def proven(self, query: Forms, best: Sequence[int], stored: Mapping[int, Forms]) -> list[int]:
        """Returns those of the best that are proven to be copies.

        Args:
            query: Of what is looked for.
            best: Places.
            stored: Of those that are not the gallery's own.
        """
        whole = [(stored.get(place) or self.forms[place]).upright for place in best]
        return [place for place, one in zip(best, whole, strict=True) if locate_any(query, one)]

    def put(self, place: int, edit: Variants, distances: Distances) -> Distances:
        """Returns the distances of the picture where its edit lies in its place."""
        changed = {name: some.copy() for name, some in distances.items()}
        for name, card in self.cards.items():
            stored = pairwise_distances(self.variants[place][name], edit[name][:1], card)
            changed[name][:, place] = stored[:, 0]
        return changed


def _show_recall(
    gallery: _Gallery, edits: Edits, measured: dict[Edit, Distances], forms: dict[Edit, Forms]
) -> None:
    originals = {place: gallery.measure(gallery.variants[place]) for place, _ in edits}
    grouped, joined = _grouped(gallery, edits, forms)
    ways = "as it is   variants   verified"
    print(f"\n{'':13}edit finds original{'':14}original finds edit")
    print(f"{'':13}{ways}   {ways}   in its group   verified")
    for kind in EDITS:
        finds = []
        for place, original in originals.items():
            edit = (place, kind)
            there = gallery.put(place, edits[edit], original)
            finds.append(
                [
                    *_found(gallery, place, measured[edit], forms[edit], {}),
                    *_found(gallery, place, there, gallery.forms[place], {place: forms[edit]}),
                    grouped.is_joined[edit],
                    joined.is_joined[edit],
                ]
            )
        shares = "   ".join(f"{share:8.3f}" for share in np.mean(finds, axis=0))
        print(f"{kind:10}   {shares}")
    print(f"\nduplicates at {MAX_DISTANCE} bits and cosine {MIN_COSINE}, and verified:")
    for one in (grouped, joined):
        print(
            f"{one.n_groups} groups; {one.precision:.4f} of the pairs in one are of one picture, "
            f"{one.n_strangers} groups have another picture"
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
    n_strangers: int
    precision: float


def _grouped(
    gallery: _Gallery, edits: Edits, forms: dict[Edit, Forms]
) -> tuple[_Grouped, _Grouped]:
    """Groups by hashes, and joins what is proven to be a copy as well."""
    owners = [*range(len(gallery.contents)), *(place for place, _ in edits)]
    rows = {
        name: np.stack([*stored, *(variants[name][0] for variants in edits.values())])
        for name, stored in gallery.rows.items()
    }
    ids = [f"{number:06d}" for number in range(len(owners))]
    confirm = confirm_by_cosine(rows[NETWORK])
    groups = group_duplicates(ids, rows[HASH], MAX_DISTANCE, confirm)
    leaders = sorted({*ids} - {one for group in groups for one in group[1:]})
    leader_of = {one: group[0] for group in groups for one in group}
    cosines = rows[NETWORK] @ rows[NETWORK].T
    every = [*gallery.forms, *forms.values()]
    proven = []
    for one in leaders:
        nearest = np.argsort(-cosines[int(one)], kind="stable")[: N_NEIGHBOURS + 1]
        others = {leader_of.get(ids[place], ids[place]) for place in nearest} - {one}
        proven += [
            (one, other)
            for other in others
            if locate_any(every[int(one)], every[int(other)].upright)
        ]
    joined = join_proven(groups, proven)
    return _judged(groups, owners, edits, gallery), _judged(joined, owners, edits, gallery)


def _judged(
    groups: list[list[str]], owners: list[int], edits: Edits, gallery: _Gallery
) -> _Grouped:
    group_of = {int(image_id): number for number, group in enumerate(groups) for image_id in group}
    is_joined = {
        edit: number in group_of and group_of[number] == group_of.get(edit[0])
        for number, edit in enumerate(edits, start=len(gallery.contents))
    }
    n_pairs = sum(len(group) * (len(group) - 1) // 2 for group in groups)
    counts = [
        np.unique([owners[int(i)] for i in group], return_counts=True)[1].tolist()
        for group in groups
    ]
    n_right = sum(count * (count - 1) // 2 for some in counts for count in some)
    n_strangers = sum(len(some) > 1 for some in counts)
    return _Grouped(is_joined, len(groups), n_strangers, n_right / n_pairs if n_pairs else 1.0)


def _without_copies(rows: dict[str, Any]) -> list[int]:
    ids = [f"{number:06d}" for number in range(len(rows[HASH]))]
    groups = group_duplicates(ids, rows[HASH], SAME_BITS, confirm_by_cosine(rows[NETWORK]))
    copies = {int(image_id) for group in groups for image_id in sorted(group)[1:]}
    return [place for place in range(len(ids)) if place not in copies]


def _embed(models: Sequence[Embedder], content: bytes) -> Variants:
    wanted_px = max(model.card.input.wanted_px for model in models)
    picture = open_picture(content, wanted_px=wanted_px)
    return {m.card.name: m.embed_batch(variants_of(picture, m.card)) for m in models}


def _forms_of(content: bytes) -> Forms:
    return find_forms(open_picture(content, wanted_px=SIDE_PX))


def _found(
    gallery: _Gallery, place: int, distances: Distances, query: Forms, stored: Mapping[int, Forms]
) -> list[bool]:
    """Tells if a picture comes first: as it is, in its variants, and verified."""
    as_it_is, best = gallery.best(_as_it_is(distances)), gallery.best(distances)
    proven = gallery.proven(query, best, stored)
    return [one[0] == place for one in (as_it_is, best, proven or best)]


def _as_it_is(distances: Distances) -> Distances:
    return {name: some[:1] for name, some in distances.items()}


if __name__ == "__main__":
    main()
