"""The catalogue gets the pictures that were embedded, unless the library wants more by then."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import chain
from typing import TYPE_CHECKING

from redis import WatchError

from twinlens.shared.blobs import image_key
from twinlens.shared.messages import CatalogEntry

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from redis.client import Pipeline

    from twinlens.shared.libraries import Library
    from twinlens.shared.redis.catalog import Catalog
    from twinlens.shared.redis.client import Redis
    from twinlens.workers.chunk.pending import Pending


@dataclass(frozen=True, kw_only=True)
class Cataloguing:
    """Writes images' records. Repeating it changes nothing."""

    redis: Redis
    catalog: Catalog

    def write(self, library_name: str, pending: Sequence[Pending], took_s: float) -> bool:
        """Catalogues what was embedded of a chunk, in one transaction.

        Args:
            library_name: Where the pictures belong.
            pending: The chunk's pictures.
            took_s: How long it took to embed them, in seconds.

        Returns:
            False, with nothing done, if one of them is not embedded for an edition of the library.
        """
        # One that was embedded may have been removed before it was for a new edition.
        done = [one for one in pending if one.image is not None and one.error is None]
        if not done:
            return True
        with self.redis.pipeline() as pipeline:
            library = self.catalog.watch_library(pipeline, library_name)
            wanted = library.all_collections
            if not all(wanted <= one.collections for one in done):
                return False
            pipeline.multi()
            self._add(pipeline, library, done)
            self.catalog.note_cost(pipeline, library_name, took_s / len(done))
            try:
                pipeline.execute()
            except WatchError:
                return False
        return True

    def write_one(self, library: Library, one: Pending) -> None:
        """Catalogues a picture as it is."""
        with self.redis.pipeline() as pipeline:
            self._add(pipeline, library, [one])
            pipeline.execute()

    def gone(self, library_name: str, pending: Iterable[Pending]) -> list[str]:
        """Returns the images, of those that were there before, that somebody removed meanwhile."""
        again = [one.image_id for one in pending if one.known is not None]
        return sorted(set(again) - self.catalog.find(library_name, again).keys())

    def _add(self, pipeline: Pipeline, library: Library, pending: Iterable[Pending]) -> None:
        for one in pending:
            if one.image is None:
                continue
            entry = one.known or CatalogEntry(
                image=one.image, path=image_key(library.name, one.image_id), added_by=one.tag
            )
            entry.collections = one.collections
            entry.image.models = [
                ref
                for ref in dict.fromkeys(chain(*(edition.models for edition in library.editions)))
                if any(e.collections.get(ref) in one.collections for e in library.editions)
            ]
            self.catalog.add(pipeline, entry, is_new=one.known is None)
