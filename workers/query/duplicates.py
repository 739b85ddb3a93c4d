"""A library's near-duplicates: hashes that are near, confirmed by a model, and proven copies."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import islice
from typing import TYPE_CHECKING, Any

import numpy as np

from twinlens.models.card import OutputKind
from twinlens.models.duplicates import MAX_DISTANCE, are_copies, group_duplicates, join_proven
from twinlens.shared.errors import BadRequest
from twinlens.shared.queries import WHOLE_SHARE, Duplicates
from twinlens.workers.query.copies import evidence_of
from twinlens.workers.query.proving import Proven

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray

    from twinlens.shared.messages import Image
    from twinlens.shared.queries import CopyEvidence, DuplicateKind, DuplicatesQuery
    from twinlens.shared.redis.catalog import Catalog
    from twinlens.workers.library.damages import Damages
    from twinlens.workers.milvus.collection import Collection
    from twinlens.workers.milvus.vectors import Vectors
    from twinlens.workers.query.proving import Proving
    from twinlens.workers.targets import Targets

# Vectors read at a time: 5 MB at 1,280 numbers each, and a few copies of that on the way.
READ_ROWS = 1_000
MAX_GROUPS = 1_000


@dataclass(frozen=True, kw_only=True)
class NearDuplicates:
    """Groups the near-duplicates among a library's images."""

    catalog: Catalog
    targets: Targets
    vectors: Vectors
    proving: Proving
    damages: Damages

    def find(
        self, query: DuplicatesQuery, check_wanted: Callable[[], None] = lambda: None
    ) -> Duplicates:
        """Groups a library's near-duplicates.

        All hashes are held in memory, 8 bytes per image; embeddings are read only of images whose
        hashes are near.

        Args:
            query: What is asked.
            check_wanted: Called before each read; raises where the result is no longer wanted.

        Raises:
            BadRequest: No model of the library makes hashes, or none other, to verify by.
            LibraryDamaged: A model's embeddings are lost.
            Unavailable: Milvus does not answer.
        """
        library = self.catalog.library(query.library)
        collections = [target.collection for target in self.targets.of(library)]
        hashing = [one for one in collections if one.card.output is OutputKind.BITS]
        confirming = [one for one in collections if one.card.output is OutputKind.FLOAT32]
        if not hashing:
            raise BadRequest(f"Library {query.library!r} has no model that makes hashes.")
        if query.verify and not confirming:
            raise BadRequest(
                f"Library {query.library!r} has only hashes, which see no crops: leave out"
                " `verify`, or give it a model that makes numbers."
            )
        if self.catalog.damage(library.id) is not None:
            self.damages.check(library, library.models)
        ids, hashes = self._read_all(library.id, hashing[0], check_wanted)
        max_distance = MAX_DISTANCE if query.max_distance is None else query.max_distance

        def confirm(place: int, places: NDArray[np.intp]) -> NDArray[np.bool_]:
            if not confirming:
                return np.ones(len(places), np.bool_)
            check_wanted()
            wanted = [ids[place], *(ids[one] for one in places.tolist())]
            stored = self.vectors.fetch(confirming[0], wanted)
            # One that has just been removed is nobody's copy.
            absent = np.zeros(confirming[0].card.dimension, np.float32)
            own, *others = (stored.get(image_id, absent) for image_id in wanted)
            return are_copies(own, np.stack(others))

        groups = group_duplicates(ids, hashes, max_distance, confirm)
        proven, leader_of = Proven({}, 0), _leaders(ids, groups)
        if query.verify:
            proven = self.proving.prove(library.id, confirming[0], leader_of, check_wanted)
            groups = join_proven(groups, proven.placements)
        evidence = {
            one: evidence_of(placement)
            for first, *others in groups[:MAX_GROUPS]
            for one in others
            if (placement := proven.placement(leader_of[one], first)) is not None
        }
        return Duplicates(
            n_images=len(ids),
            n_groups=len(groups),
            groups=groups[:MAX_GROUPS],
            confirmed_by=confirming[0].card.name if confirming else None,
            kinds=self._kinds(library.id, groups[:MAX_GROUPS], evidence),
            evidence=evidence,
            n_unverified=proven.n_unverified,
        )

    def _kinds(
        self, library_id: str, groups: list[list[str]], evidence: dict[str, CopyEvidence]
    ) -> dict[str, list[DuplicateKind]]:
        kinds: dict[str, list[DuplicateKind]] = {}
        for first, *others in groups:
            entries = self.catalog.find(library_id, [first, *others])
            if first in entries:
                kinds |= {
                    one: kinds_of(entries[one].image, entries[first].image, evidence.get(one))
                    for one in others
                    if one in entries
                }
        return kinds

    def _read_all(
        self, library_id: str, collection: Collection, check_wanted: Callable[[], None]
    ) -> tuple[list[str], NDArray[np.uint8]]:
        """Reads all hashes of a library: ids, and uint8 [n, dimension / 8]."""
        hashes: dict[str, Any] = {}
        ids = self.catalog.all_ids(library_id)
        while some := list(islice(ids, READ_ROWS)):
            check_wanted()
            hashes |= self.vectors.fetch(collection, some)
        width = collection.card.dimension // 8
        return list(hashes), np.array(list(hashes.values()), np.uint8).reshape(-1, width)


def _leaders(ids: list[str], groups: list[list[str]]) -> dict[str, str]:
    """Returns by image the first of its group; itself, of one that is in none."""
    return dict(zip(ids, ids, strict=True)) | {one: group[0] for group in groups for one in group}


def kinds_of(one: Image, first: Image, evidence: CopyEvidence | None) -> list[DuplicateKind]:
    """Tells what a duplicate is of the first of its group."""
    kinds: list[DuplicateKind] = []
    if evidence is not None:
        seen: dict[DuplicateKind, bool] = {
            "crop": evidence.shown < WHOLE_SHARE,
            "extended": evidence.filled < WHOLE_SHARE,
            "mirrored": evidence.mirrored,
            "turned": evidence.is_turned,
        }
        kinds = [kind for kind, is_so in seen.items() if is_so]
    if "crop" not in kinds and "extended" not in kinds:
        larger = one.width * one.height / (first.width * first.height)
        if abs(larger - 1) > 1 - WHOLE_SHARE:
            kinds.append("larger" if larger > 1 else "smaller")
    return kinds or ["recompressed"]
