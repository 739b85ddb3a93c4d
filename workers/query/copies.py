"""Proves which of a search's candidates are copies of the query, by geometry."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

from twinlens.models.geometry import SIDE_PX, find_features, find_forms, locate_any
from twinlens.shared.queries import CopyEvidence

if TYPE_CHECKING:
    from collections.abc import Sequence
    from concurrent.futures import Executor

    from twinlens.models.geometry import Forms, Placement
    from twinlens.models.pictures import Region
    from twinlens.workers.decoding import Decoder
    from twinlens.workers.library.images import Images

# The best of a ranking. A copy that is not among them is not proven.
N_VERIFIED = 32


@dataclass(frozen=True, kw_only=True)
class Copies:
    """Looks for a query's features in stored pictures."""

    images: Images
    decoder: Decoder
    threads: Executor  # decoders and OpenCV release the GIL
    time_limit_s: float  # for the candidates of one search

    def verify(
        self, content: bytes, region: Region, library_id: str, image_ids: Sequence[str]
    ) -> dict[str, CopyEvidence]:
        """Verifies candidates, in their order, as many as there is time for; the first always.

        Args:
            content: The query picture's file.
            region: The part of it that is looked for.
            library_id: The candidates' library.
            image_ids: The candidates, the likeliest first.

        Returns:
            What was seen, by image; nothing of one whose bytes are not stored.
        """
        picture = self.decoder.open_at(content, SIDE_PX, region)
        query = find_forms(picture)
        deadline = time.monotonic() + self.time_limit_s

        def look(place: int) -> CopyEvidence | None:
            if place > 0 and time.monotonic() > deadline:
                return None
            return self._look(query, library_id, image_ids[place])

        seen = self.threads.map(look, range(len(image_ids)))
        return {
            image_id: evidence
            for image_id, evidence in zip(image_ids, seen, strict=True)
            if evidence is not None
        }

    def _look(self, query: Forms, library_id: str, image_id: str) -> CopyEvidence | None:
        stored = self.images.open(library_id, image_id, SIDE_PX)
        return None if stored is None else evidence_of(locate_any(query, find_features(stored)))


def evidence_of(placement: Placement | None) -> CopyEvidence:
    """Returns what clients are told of a placement."""
    if placement is None:
        return CopyEvidence(verified=False)
    return CopyEvidence(
        verified=True,
        inliers=placement.n_inliers,
        likeness=round(placement.likeness, 3),
        region=placement.region,
        query_region=placement.query_region,
        turned=placement.turned_degrees,
        mirrored=placement.is_mirrored,
        transform=tuple(placement.matrix.ravel().tolist()),
    )
