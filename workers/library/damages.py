"""Finds libraries whose embeddings Milvus has lost, as where its directory was removed.

Their searches would find nothing, and the pictures that are posted again pass for known.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

from twinlens.shared.libraries import Damage

if TYPE_CHECKING:
    from collections.abc import Iterable

    from twinlens.shared.libraries import Library
    from twinlens.shared.redis.catalog import Catalog
    from twinlens.workers.milvus.vectors import Vectors

# A picture has its embeddings before it is catalogued, and loses them just before it is removed:
# while all is well, hardly any are missing.
MIN_SHARE = 0.5
# But a library of few may be emptied and filled again, or switch to other collections, between two
# counts: what is new is a fault only if it stays.
N_LOOKS = 3
LOOK_PAUSE_S = 1.0


@dataclass(frozen=True, kw_only=True)
class Damages:
    """Compares how many images are catalogued with how many embeddings there are."""

    catalog: Catalog
    vectors: Vectors

    def look(self) -> None:
        """Records what every library lacks.

        Raises:
            Unavailable: Milvus does not answer; what was known stays.
        """
        damages = self._damages(self.catalog.libraries())
        known = self.catalog.damages().keys()
        suspects = damages.keys() - known
        for _ in range(N_LOOKS - 1):
            if suspects:
                time.sleep(LOOK_PAUSE_S)
                some = [one for one in self.catalog.libraries() if one.id in suspects]
                suspects &= self._damages(some).keys()
                damages = {i: one for i, one in damages.items() if i in known or i in suspects}
        self.catalog.put_damages(damages)

    def _damages(self, libraries: Iterable[Library]) -> dict[str, Damage]:
        return {
            library.id: damage
            for library in libraries
            if (damage := self._damage_of(library)) is not None
        }

    def _damage_of(self, library: Library) -> Damage | None:
        before = self.catalog.count(library.id)
        n_vectors = {
            ref: self.vectors.count_stored(name) for ref, name in library.collections.items()
        }
        # Pictures may come and go meanwhile.
        n_images = min(before, self.catalog.count(library.id))
        few = {ref: n for ref, n in n_vectors.items() if n < MIN_SHARE * n_images}
        return Damage(n_images=n_images, n_vectors=few) if few else None
