"""Images: removal, thumbnails, counts."""

from __future__ import annotations

import contextlib
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

from twinlens.shared.answers import Vector
from twinlens.shared.blobs import image_key, thumbnail_key
from twinlens.shared.errors import ContentMissing, ImageNotFound, PictureError, Unavailable

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from twinlens.models.pictures import Picture
    from twinlens.shared.blobs import BlobStore
    from twinlens.shared.filters.tree import Filter
    from twinlens.shared.journal import Journal
    from twinlens.shared.libraries import Library
    from twinlens.shared.redis.catalog import Catalog
    from twinlens.shared.redis.jobs import Job
    from twinlens.workers.decoding import Decoder
    from twinlens.workers.milvus.vectors import Vectors
    from twinlens.workers.targets import Targets

# How long one that closes images waits for another: that removes a chunk's rows meanwhile.
CLOSING_S = 5.0
CLOSING_PAUSE_S = 0.02


@dataclass(frozen=True, kw_only=True)
class Images:
    """What is stored of libraries' images."""

    catalog: Catalog
    blobs: BlobStore
    journal: Journal
    vectors: Vectors
    targets: Targets
    decoder: Decoder

    def delete(self, job: Job, image_ids: Sequence[str]) -> None:
        """Removes images from Milvus, the catalogue and the store, in this order.

        While one is catalogued, a chunk that has the same picture skips it, so nobody writes its
        vectors between their removal and the record's. Only a job that builds another edition may,
        and it checks the catalogue afterwards; so the vectors are removed once more.

        Args:
            job: The removal. It is of what was there when it was requested: a picture that was
                posted again since, and added, stays; of one that is not added yet, the bytes do.
            image_ids: The images; at least one.

        Raises:
            LibraryNotFound: The library has been removed.
            Unavailable: Milvus does not answer, the disk is full, or somebody else is removing one
                of them; to be done again.
        """
        library = self.catalog.library(job.library, job.library_id)
        with self._closed(library, image_ids):
            there = self.catalog.find(library.id, image_ids)
            newer = {i for i, one in there.items() if one.image.added_at > job.created_at}
            meant = [image_id for image_id in image_ids if image_id not in newer]
            if not meant:
                return
            self._delete_vectors(library, meant)
            self.catalog.remove(job.library_id, *meant)
            library = self.catalog.library(job.library, job.library_id)
            if len(library.editions) > 1:
                self._delete_vectors(library, meant)
        since = job.created_at.timestamp()
        for image_id in meant:
            self.blobs.delete(thumbnail_key(library.id, image_id))
            self.blobs.delete(image_key(library.id, image_id), unless_touched_since=since)
        # Last: a full disk has room for it by now.
        self.journal.remove(library.id, meant, job.created_at)

    def withdraw(self, library: Library, image_ids: Sequence[str]) -> None:
        """Removes what was written to Milvus of images that are not catalogued after all.

        Raises:
            Unavailable: As of `delete`.
        """
        with self._closed(library, image_ids):
            there = self.catalog.find(library.id, image_ids)
            if gone := [image_id for image_id in image_ids if image_id not in there]:
                self._delete_vectors(library, gone)

    @contextlib.contextmanager
    def _closed(self, library: Library, image_ids: Sequence[str]) -> Iterator[None]:
        """Lets no chunk add images whose rows are being removed: it would have lost its own."""
        until = self._close(library, image_ids)
        try:
            yield
        finally:
            self.catalog.open_images(library.id, image_ids, until)

    def _close(self, library: Library, image_ids: Sequence[str]) -> str:
        deadline = time.monotonic() + CLOSING_S
        while True:
            try:
                return self.catalog.close_images(library.id, image_ids)
            except Unavailable:
                if time.monotonic() > deadline:
                    raise
                time.sleep(CLOSING_PAUSE_S)

    def _delete_vectors(self, library: Library, image_ids: Sequence[str]) -> None:
        for target in self.targets.of_editions(library).values():
            self.vectors.delete(target.collection, image_ids)

    def make_thumbnail(self, library_id: str, image_id: str) -> None:
        """Stores an image's thumbnail.

        Raises:
            ImageNotFound: The library has no such image.
            ContentMissing: Its bytes are no longer stored.
        """
        small = self.decoder.thumbnail(self.read(library_id, image_id))
        self.blobs.put(thumbnail_key(library_id, image_id), small)

    def read(self, library_id: str, image_id: str) -> bytes:
        """Reads an image's bytes.

        Raises:
            ImageNotFound: The library has no such image.
            ContentMissing: Its bytes are no longer stored.
        """
        self.catalog.get(library_id, image_id)
        try:
            return self.blobs.get(image_key(library_id, image_id))
        except FileNotFoundError:
            message = f"The bytes of image {image_id!r} are no longer stored."
            raise ContentMissing(message) from None

    def open(self, library_id: str, image_id: str, wanted_px: int) -> Picture | None:
        """Decodes an image, for uses that need so long a shorter side.

        Returns:
            None of one that was just removed, or is damaged since.
        """
        try:
            return self.decoder.open_at(self.read(library_id, image_id), wanted_px)
        except (ImageNotFound, ContentMissing, PictureError):
            return None

    def read_vectors(self, library: str, image_id: str, models: Sequence[str]) -> list[Vector]:
        """Reads what models make of an image, as it is stored.

        Args:
            library: The image's.
            image_id: The image.
            models: Of the library's, by name@version.

        Raises:
            LibraryNotFound: There is no such library.
            ModelNotFound: It has no such model, or one that is not there.
            Unavailable: Milvus does not answer.
        """
        vectors = []
        for _, collection in self.targets.of(self.catalog.library(library), models):
            for row in self.vectors.fetch(collection, [image_id]).values():
                card = collection.card
                kind = {"model": card.ref, "metric": card.metric.value, "dtype": str(row.dtype)}
                vectors.append(Vector(**kind, values=row.tolist()))
        return vectors

    def count(self, library: str, where: Filter) -> int:
        """Returns of how many images a filter is true, as searches see it.

        Raises:
            LibraryNotFound: There is no such library.
            ModelNotFound: It has a model that is not there.
            Unavailable: Milvus does not answer.
        """
        # Each image has an embedding of each model.
        first, *_ = self.targets.of(self.catalog.library(library))
        return self.vectors.count(first.collection, where)

    def count_vectors(self, library: str) -> dict[str, int]:
        """Returns how many vectors each model of a library has in Milvus.

        Raises:
            Unavailable: Milvus does not answer.
        """
        return {
            model.card.name: self.vectors.count(collection)
            for model, collection in self.targets.of(self.catalog.library(library))
        }
