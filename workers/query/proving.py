"""Proves which pictures of a library are copies or parts of others that look alike."""

from __future__ import annotations

import threading
from collections import defaultdict
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from cachetools import LRUCache, cached

from twinlens.models.geometry import SIDE_PX, find_features, find_forms, locate_any

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from concurrent.futures import Executor

    from twinlens.models.duplicates import Pair
    from twinlens.models.geometry import Features, Forms, Placement
    from twinlens.workers.library.images import Images
    from twinlens.workers.milvus.collection import Collection
    from twinlens.workers.milvus.vectors import Vectors

# Of each picture, so many of its nearest are compared with it.
N_NEIGHBOURS = 6
# The likeliest, of a library: some minutes' work.
MAX_PAIRS = 50_000
# Asked for in one call of Milvus.
SEARCH_ROWS = 100
# Pictures whose features are kept in memory, 60 kB each.
N_KEPT = 1_000


class Proven(NamedTuple):
    """Where the first of a pair lies in the second, by pair; and how many were not compared."""

    placements: dict[Pair, Placement]
    n_unverified: int

    def placement(self, one: str, first: str) -> Placement | None:
        """Returns where a picture lies in another, if that is proven."""
        if (placement := self.placements.get((one, first))) is not None:
            return placement
        reverse = self.placements.get((first, one))
        return None if reverse is None else reverse.inverse


@dataclass(frozen=True, kw_only=True)
class Proving:
    """Compares each picture of a library, point by point, with those that are nearest to it."""

    images: Images
    vectors: Vectors
    threads: Executor  # decoders and OpenCV release the GIL

    def prove(
        self,
        library_id: str,
        collection: Collection,
        leader_of: Mapping[str, str],
        check_wanted: Callable[[], None],
    ) -> Proven:
        """Compares the leaders of groups, and pictures that are in none.

        Args:
            library_id: The library.
            collection: Whose embeddings tell what is near.
            leader_of: By image, the first of its group; itself, of one that is in none.
            check_wanted: Called again and again; raises where the result is no longer wanted.

        Raises:
            Unavailable: Milvus does not answer.
        """
        pairs = self._near_pairs(collection, leader_of, check_wanted)
        others_of: defaultdict[str, list[str]] = defaultdict(list)
        for one, other in pairs[:MAX_PAIRS]:
            others_of[one].append(other)

        @cached(LRUCache(N_KEPT), lock=threading.Lock())
        def find(image_id: str) -> Features | None:
            picture = self.images.open(library_id, image_id, SIDE_PX)
            return None if picture is None else find_features(picture)

        def locate(forms: Forms, image_id: str) -> Placement | None:
            features = find(image_id)
            return None if features is None else locate_any(forms, features)

        placements: dict[Pair, Placement] = {}
        for one, others in others_of.items():
            check_wanted()
            picture = self.images.open(library_id, one, SIDE_PX)
            if picture is None:
                continue
            placed = self.threads.map(partial(locate, find_forms(picture)), others)
            placements |= {
                (one, other): placement
                for other, placement in zip(others, placed, strict=True)
                if placement is not None
            }
        return Proven(placements, max(0, len(pairs) - MAX_PAIRS))

    def _near_pairs(
        self, collection: Collection, leader_of: Mapping[str, str], check_wanted: Callable[[], None]
    ) -> list[Pair]:
        """Returns pairs of leaders that are near, each once, the nearest first."""
        sign = collection.card.metric.sign
        far: dict[Pair, float] = {}
        leaders = sorted(set(leader_of.values()))
        for start in range(0, len(leaders), SEARCH_ROWS):
            check_wanted()
            rows = self.vectors.fetch(collection, leaders[start : start + SEARCH_ROWS])
            if not rows:
                continue
            near = self.vectors.nearest(collection, np.stack(list(rows.values())), N_NEIGHBOURS + 1)
            for one, distances in zip(rows, near, strict=True):
                for other, distance in distances.items():
                    leader = leader_of.get(other, one)
                    if leader != one:
                        pair = (min(one, leader), max(one, leader))
                        far[pair] = min(far.get(pair, np.inf), sign * distance)
        return sorted(far, key=lambda pair: (far[pair], pair))
