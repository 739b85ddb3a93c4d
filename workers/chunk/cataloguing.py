"""Catalogues pictures that were embedded, unless their library has gained an edition since."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from redis import WatchError

from twinlens.shared.messages import CatalogEntry
from twinlens.shared.redis.catalog import put_answer

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from redis.client import Pipeline

    from twinlens.shared.libraries import Library
    from twinlens.shared.messages import Image
    from twinlens.shared.redis.catalog import Catalog, ChunkRun
    from twinlens.shared.redis.client import Redis
    from twinlens.workers.chunk.pending import Pending


@dataclass(frozen=True, kw_only=True)
class Cataloguing:
    """Writes images' records. Repeating it changes nothing."""

    redis: Redis
    catalog: Catalog

    def write(
        self, run: ChunkRun, library: Library, pending: Sequence[Pending], took_s: float
    ) -> list[str] | None:
        """Catalogues a chunk's embedded pictures, in one transaction.

        Args:
            run: The chunk's.
            library: The pictures' library, as it was read before.
            pending: The chunk's pictures.
            took_s: How long it took to embed them, in seconds.

        Returns:
            The images that were not written, because somebody has added, changed or removed them
            since they were read. None, with nothing written, unless all are embedded for every
            edition of the library.

        Raises:
            LibraryNotFound: The library has been removed.
            ChunkIsOver: Nothing was written: the chunk is over.
            Unavailable: Nothing was written: the chunk must be run again.
        """
        # One that was embedded may have been removed before it was embedded for a new edition.
        done = [one for one in pending if one.image is not None and one.error is None]
        if not done:
            return []
        with self.redis.pipeline() as pipeline:
            library = self.catalog.watch_library(pipeline, library.name, library.id)
            wanted = library.all_collections
            if not all(wanted <= one.collections for one in done):
                return None
            pipeline.multi()
            self._put(pipeline, run, library, done)
            if n_decoded := sum(bool(one.pixels) for one in done):
                # Of those that were computed from vectors no picture's cost can be learned.
                self.catalog.note_cost(pipeline, library.id, took_s / n_decoded)
            try:
                answer = pipeline.execute()[0]
            except WatchError:
                return None
        return put_answer(answer)

    def write_one(self, run: ChunkRun, library: Library, one: Pending) -> None:
        """Catalogues one picture with the embeddings that it has.

        Raises:
            ChunkIsOver: It was not written: the chunk is over.
            Unavailable: It was not written: the chunk must be run again.
        """
        if one.image is not None:
            entry = _entry_of(library, one, one.image)
            if not self.catalog.put(library.id, [entry], run):
                one.read_as = entry.model_dump_json()

    def _put(
        self, pipeline: Pipeline, run: ChunkRun, library: Library, pending: Iterable[Pending]
    ) -> None:
        entries = [_entry_of(library, one, one.image) for one in pending if one.image is not None]
        self.catalog.queue_put(pipeline, library.id, entries, run)


def _entry_of(library: Library, one: Pending, image: Image) -> CatalogEntry:
    image.models = library.models_of(one.collections)
    if one.known is None:
        return CatalogEntry(
            image=image,
            added_by=one.tag,
            collections=one.collections,
            read_as=one.read_as,
        )
    changes = {
        "image": image,
        "collections": one.collections,
        "changed_by": one.tag if one.is_changed else one.known.changed_by,
        "read_as": one.read_as,
    }
    return one.known.model_copy(update=changes)
