"""Compares what each store says of a library's images."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import chain
from typing import TYPE_CHECKING

from twinlens.shared.blobs import image_key
from twinlens.shared.redis.catalog import READ_ENTRIES
from twinlens.workers.reconcile.shards import Notes

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence
    from datetime import datetime

    from twinlens.shared.answers import DifferenceKind
    from twinlens.shared.blobs import BlobStore
    from twinlens.shared.libraries import Library
    from twinlens.shared.messages import CatalogEntry
    from twinlens.shared.redis.catalog import Catalog
    from twinlens.workers.milvus.vectors import Vectors
    from twinlens.workers.reconcile.told import Told
    from twinlens.workers.targets import Targets


@dataclass
class Seen:
    """An image, as each store has it."""

    image_id: str
    told: Told
    entry: CatalogEntry | None
    # When its bytes were put last, in Unix time; None where there are none.
    touched_at: float | None
    present: set[str]  # the collections that have its embeddings
    difference: DifferenceKind | None = None

    @property
    def label(self) -> str:
        """What people know it by."""
        image = self.told.image if self.entry is None else self.entry.image
        return (image.name if image else self.told.description.name) or self.image_id


@dataclass(frozen=True)
class Wanted:
    """What is to be true of a library's images, unless they came since a moment."""

    of_all: set[str]  # the collections of all editions
    of_finished: set[str]  # without those of one that is being built
    since: datetime

    def difference(self, seen: Seen) -> DifferenceKind | None:
        """Returns what is wrong with an image; None if nothing is, or somebody is at it."""
        if seen.entry is not None:
            return self._of_catalogued(seen, seen.entry)
        if seen.told.is_open:
            return None
        if seen.touched_at is None:
            return "stray_vectors" if seen.present else None
        if seen.told.is_wanted:
            return "not_catalogued"
        if seen.told.is_known or seen.touched_at >= self.since.timestamp():
            return None
        return self._of_unwanted(seen, seen.touched_at)

    def _of_unwanted(self, seen: Seen, touched_at: float) -> DifferenceKind:
        if seen.told.is_gone and seen.told.at is not None:
            return "half_removed" if touched_at < seen.told.at.timestamp() else "orphans"
        # Of a job that was cancelled, say: it was an image if Milvus has it whole.
        return "not_catalogued" if self.of_all <= seen.present else "orphans"

    def _of_catalogued(self, seen: Seen, entry: CatalogEntry) -> DifferenceKind | None:
        if entry.image.added_at >= self.since:
            return None
        if seen.touched_at is None:
            return "no_content"
        claimed = self.of_finished | (self.of_all & entry.collections)
        return None if claimed <= seen.present else "not_embedded"


def wanted_of(library: Library, since: datetime) -> Wanted:
    finished = [one for one in library.editions if one is not library.next]
    return Wanted(
        library.all_collections,
        set(chain.from_iterable(one.collections.values() for one in finished)),
        since,
    )


@dataclass(frozen=True, kw_only=True)
class Comparing:
    """Looks at all stores, and changes none."""

    catalog: Catalog
    blobs: BlobStore
    vectors: Vectors
    targets: Targets

    def compare(
        self, library: Library, begin: str, notes: Mapping[str, Notes], wanted: Wanted
    ) -> list[Seen]:
        """Looks at images whose ids begin so.

        The catalogue is read before Milvus: what it says that Milvus has was there before. What
        differs is looked up once more at the end, and passed over if anybody is at it.

        Raises:
            ModelNotFound: A model of the library is not there.
            Unavailable: Milvus does not answer.
        """
        catalogued = [image_id for image_id, note in notes.items() if note.is_catalogued]
        entries = self._find(library.id, catalogued)
        vectors = {
            name: self.vectors.ids(target.collection, begin)
            for name, target in self.targets.of_editions(library).items()
        }
        stored = dict(self._stored(library.id, begin))
        seen = [
            Seen(
                image_id,
                notes.get(image_id, Notes()).told,
                entries.get(image_id),
                stored.get(image_id),
                {name for name, ids in vectors.items() if image_id in ids},
            )
            for image_id in sorted(notes.keys() | stored.keys() | set().union(*vectors.values()))
        ]
        for one in seen:
            one.difference = wanted.difference(one)
        self._pass_over_changed(library.id, [one for one in seen if one.difference])
        return seen

    def _pass_over_changed(self, library_id: str, differing: list[Seen]) -> None:
        ids = [one.image_id for one in differing]
        after, removed = self._find(library_id, ids), self.catalog.removed_lately(library_id, ids)
        for one in differing:
            now = after.get(one.image_id)
            is_same = (now and now.read_as) == (one.entry and one.entry.read_as)
            # A removal may still be on its way from the catalogue to the bytes.
            if not is_same or (one.entry is None and one.image_id in removed):
                one.difference = None

    def _find(self, library_id: str, ids: Sequence[str]) -> dict[str, CatalogEntry]:
        entries: dict[str, CatalogEntry] = {}
        for start in range(0, len(ids), READ_ENTRIES):
            entries |= self.catalog.find(library_id, ids[start : start + READ_ENTRIES])
        return entries

    def _stored(self, library_id: str, begin: str) -> Iterator[tuple[str, float]]:
        folder = f"images/{library_id}"
        for name in [begin] if begin else self.blobs.names(folder):
            for image_id in self.blobs.names(f"{folder}/{name}"):
                touched_at = self.blobs.touched_at(image_key(library_id, image_id))
                if touched_at is not None:
                    yield image_id, touched_at
