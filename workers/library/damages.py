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
        known = self.catalog.damages().keys()
        suspects: set[str] | None = None
        for number in range(N_LOOKS):
            if number > 0:
                time.sleep(LOOK_PAUSE_S)
            damages = self._damages(self.catalog.libraries())
            new = damages.keys() - known
            suspects = new if suspects is None else suspects & new
            if not suspects:
                break
        stays = known | (suspects or set())
        self.catalog.put_damages({i: one for i, one in damages.items() if i in stays})

    def check(self, library: Library, refs: Iterable[str]) -> None:
        """Refuses what needs embeddings of these models, if they are still lost.

        Args:
            library: One that was recorded as damaged, which may be over.
            refs: The models, as name@version.

        Raises:
            LibraryDamaged: They are lost.
            Unavailable: Milvus does not answer.
        """
        damage = self._damage_of(library)
        if damage is not None:
            damage.check(refs)

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
