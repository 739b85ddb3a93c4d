"""Brings back what a store has lost of images, and removes what should not be there any more."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING

from twinlens.shared.blobs import image_key, thumbnail_key
from twinlens.shared.filters.fields import OwnField, fields_of
from twinlens.shared.messages import CatalogEntry, Description, Image, ManifestItem
from twinlens.workers.library.amendments import Amendment
from twinlens.workers.library.plans import item_of
from twinlens.workers.milvus.expressions import own_fields, to_stored

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from twinlens.shared.blobs import BlobStore
    from twinlens.shared.libraries import Library
    from twinlens.shared.redis.catalog import Catalog, ChunkRun
    from twinlens.workers.library.amendments import Amendments
    from twinlens.workers.library.images import Images
    from twinlens.workers.library.journaling import Journaling
    from twinlens.workers.milvus.expressions import StoredFields
    from twinlens.workers.milvus.vectors import Vectors
    from twinlens.workers.reconcile.comparing import Seen
    from twinlens.workers.targets import Targets


@dataclass(frozen=True, kw_only=True)
class Repairs:
    """Each can be repeated, and undoes nothing that others do meanwhile."""

    catalog: Catalog
    blobs: BlobStore
    vectors: Vectors
    targets: Targets
    images: Images
    amendments: Amendments
    journaling: Journaling

    def catalogue(
        self, run: ChunkRun, library: Library, seen: Sequence[Seen], since: datetime
    ) -> set[str]:
        """Catalogues images that Milvus has whole: nothing is embedded.

        Returns:
            Those that are catalogued now.

        Raises:
            ChunkIsOver: The job has ended: nothing is written.
            Unavailable: Milvus does not answer.
        """
        first = next(iter(self.targets.of_editions(library).values()))
        stored = self.vectors.fields(first.collection, [one.image_id for one in seen])
        entries = {
            one.image_id: CatalogEntry(
                image=_image_of(library, one, stored[one.image_id]),
                added_by=f"{run.job_id}:restored",
                collections=library.all_collections,
            )
            for one in seen
            if one.image_id in stored
        }
        if not entries:
            return set()
        written = entries.keys() - self.catalog.put(library.id, entries.values(), run)
        # Whoever removes an image that is not catalogued leaves no trace, but that its bytes go.
        gone = [one for one in written if not self._is_stored(library, one)]
        if gone:
            self.catalog.remove(library.id, *gone)
        written -= set(gone)
        self._write_rows(library, {i: entries[i] for i in written}, stored, since)
        told_at = {one.image_id: one.told.at or since for one in seen if one.image_id in written}
        self.journaling.note(library.id, told_at)
        return written

    def _write_rows(
        self,
        library: Library,
        entries: Mapping[str, CatalogEntry],
        stored: Mapping[str, StoredFields],
        since: datetime,
    ) -> None:
        """Has Milvus tell the same of images as the catalogue, for filters."""
        otherwise = {
            image_id: Amendment(Description(), collections=entry.collections)
            for image_id, entry in entries.items()
            if to_stored(fields_of(entry.image)) != stored[image_id]
        }
        self.amendments.make(library, otherwise, since)

    def admit_losses(self, library: Library, seen: Sequence[Seen]) -> list[ManifestItem]:
        """Has images' records say which embeddings there really are.

        Returns:
            The images, to be embedded for the collections that lack them; without those that
            somebody else has changed meanwhile.
        """
        entries = {}
        for one in seen:
            assert one.entry is not None
            left = one.entry.collections & one.present
            image = one.entry.image.model_copy(update={"models": library.models_of(left)})
            changes = {"image": image, "collections": left}
            entries[one.image_id] = one.entry.model_copy(update=changes)
        not_written = self.catalog.put(library.id, entries.values()) if entries else []
        return [item_of(one) for image_id, one in entries.items() if image_id not in not_written]

    def remove_strays(self, library: Library, seen: Sequence[Seen]) -> list[str]:
        """Removes embeddings of what is nowhere else. Returns of which images.

        One that is posted at this very moment is looked at again the next time.
        """
        known = self.catalog.find(library.id, [one.image_id for one in seen])
        strays = [
            one
            for one in seen
            if one.image_id not in known and not self._is_stored(library, one.image_id)
        ]
        self._delete_vectors(library, strays)
        return [one.image_id for one in strays]

    def finish_removals(self, library: Library, seen: Sequence[Seen]) -> None:
        """Removes what is left of images that were removed."""
        self._delete_vectors(library, seen)
        for one in seen:
            assert one.told.at is not None
            self._delete_bytes(library, one, one.told.at.timestamp())

    def remove_orphans(self, library: Library, seen: Sequence[Seen], before: float) -> list[str]:
        """Removes bytes that nothing names, if they are from before a time. Returns which."""
        old = [one for one in seen if one.touched_at is not None and one.touched_at < before]
        self._delete_vectors(library, old)
        for one in old:
            self._delete_bytes(library, one, before)
        return [one.image_id for one in old]

    def write_journal(self, library: Library, seen: Sequence[Seen], since: datetime) -> None:
        """Notes images that are catalogued, if nothing on the disk will tell that."""
        untold = {
            one.image_id: one.told.at or since
            for one in seen
            if one.entry is not None and not one.told.is_known and not _is_told(one, one.entry)
        }
        self.journaling.note(library.id, untold)

    def _delete_vectors(self, library: Library, seen: Sequence[Seen]) -> None:
        ids = [one.image_id for one in seen if one.present]
        if ids:
            self.images.withdraw(library, ids)

    def _delete_bytes(self, library: Library, one: Seen, before: float) -> None:
        self.blobs.delete(thumbnail_key(library.id, one.image_id))
        self.blobs.delete(image_key(library.id, one.image_id), unless_touched_since=before)

    def _is_stored(self, library: Library, image_id: str) -> bool:
        return self.blobs.touched_at(image_key(library.id, image_id)) is not None


def lost_item(seen: Seen) -> ManifestItem:
    """Returns an image whose record and embeddings are lost, to be embedded as it was."""
    image, said = seen.told.image, seen.told.description
    return ManifestItem(
        name=said.name or "",
        image_id=seen.image_id,
        metadata=said.metadata,
        added_at=image.added_at if image else None,
    )


def _image_of(library: Library, seen: Seen, stored: StoredFields) -> Image:
    """Returns a lost image as it was: from the disk, and what of it only Milvus has."""
    image, said = seen.told.image, seen.told.description
    own = own_fields(stored)
    if image is None:
        image = Image(
            id=seen.image_id,
            name=str(own.get(OwnField.NAME, "")),
            library=library.name,
            width=int(own[OwnField.WIDTH]),
            height=int(own[OwnField.HEIGHT]),
            format=str(own[OwnField.FORMAT]),
            bytes=int(own[OwnField.BYTES]),
            models=[],
            added_at=datetime.fromtimestamp(float(own[OwnField.ADDED_AT]), UTC),
        )
    models = library.models_of(library.all_collections)
    return said.of(image).model_copy(update={"models": models})


def _is_told(seen: Seen, entry: CatalogEntry) -> bool:
    image = seen.told.image
    return (
        image is not None and image.model_copy(update={"models": entry.image.models}) == entry.image
    )
