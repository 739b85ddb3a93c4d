"""Images get other names and metadata, in the catalogue and in Milvus alike."""

from __future__ import annotations

import contextlib
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

from twinlens.shared.errors import ContentMissing, ImageNotFound, PictureError
from twinlens.shared.filters.fields import fields_of
from twinlens.shared.messages import now

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Mapping, Sequence
    from datetime import datetime

    from twinlens.shared.libraries import Library
    from twinlens.shared.messages import CatalogEntry, Description, Image
    from twinlens.shared.redis.catalog import Catalog, ChunkRun
    from twinlens.workers.library.images import Images
    from twinlens.workers.library.journaling import Journaling
    from twinlens.workers.milvus.vectors import Vectors
    from twinlens.workers.targets import Target, Targets


class Amendment(NamedTuple):
    """What is to be changed of an image."""

    description: Description
    tag: str = ""  # the item that says so, job:chunk:index
    collections: Collection[str] = ()  # whose rows were written under another record

    def of(self, entry: CatalogEntry, library: Library) -> CatalogEntry | None:
        """Returns an image's record as it is to be; None if it is so, and so are its rows."""
        is_told = not self.description.changes(entry.image)
        if is_told and not self.collections:
            return None
        collections = entry.collections.union(self.collections)
        image = self.description.of(entry.image)
        image.models = library.models_of(collections)
        changed_by = entry.changed_by if is_told else self.tag
        changes = {"image": image, "collections": collections, "changed_by": changed_by}
        return entry.model_copy(update=changes)

    def is_news(self, before: CatalogEntry) -> bool:
        """Tells if an image is described otherwise by this, or was so by this very item."""
        was_told_by_this = self.tag != "" and before.changed_by == self.tag
        return was_told_by_this or self.description.changes(before.image)


@dataclass(frozen=True, kw_only=True)
class Amendments:
    """Changes what is kept of images beside their embeddings. Repeating it changes nothing."""

    catalog: Catalog
    vectors: Vectors
    targets: Targets
    images: Images
    journaling: Journaling

    def make(
        self,
        library: Library,
        amendments: Mapping[str, Amendment],
        told_at: datetime,
        run: ChunkRun | None = None,
    ) -> dict[str, CatalogEntry]:
        """Changes some images of a library; the last to do so counts.

        Milvus is written first, then the catalogue, unless the image has been changed in between:
        then both again. So they tell the same, whoever was last. What is told otherwise of an image
        than when it was added goes into the journal.

        Args:
            library: The library.
            amendments: What is to be changed, by image id.
            told_at: When that was accepted.
            run: Of the chunk that they come from, if they do.

        Returns:
            The images as they are now, by image id. One that is not there is left out, and what
            Milvus may have got of it goes.

        Raises:
            LibraryNotFound: The library has been removed.
            Unavailable: Milvus does not answer; to be made again.
            ChunkIsOver: The catalogue was not changed: the chunk is over.
        """
        entries: dict[str, CatalogEntry] = {}
        news: set[str] = set()
        left = dict(amendments)
        while left:
            known = self.catalog.find(library.id, list(left))
            # Not before: it has every edition that these were embedded for.
            library = self.catalog.library(library.name, library.id)
            entries |= known
            amended = {
                image_id: after
                for image_id, before in known.items()
                if (after := left[image_id].of(before, library)) is not None
            }
            entries |= amended
            news |= {image_id for image_id, one in known.items() if left[image_id].is_news(one)}
            self._write_fields(library, list(amended.values()))
            not_written = self.catalog.put(library.id, amended.values(), run) if amended else []
            left = {image_id: left[image_id] for image_id in not_written}
            for image_id in not_written:
                del entries[image_id]
        self.journaling.note(library.id, dict.fromkeys(sorted(news), told_at))
        if gone := sorted(amendments.keys() - entries.keys()):
            self.images.withdraw(library, gone)
        return entries

    def change(self, library: str, image_id: str, description: Description) -> Image:
        """Changes one image's name or metadata, and returns it as it is then.

        Raises:
            ImageNotFound: The library has no such image.
            Unavailable: Milvus does not answer; to be made again.
        """
        amendment = {image_id: Amendment(description)}
        entries = self.make(self.catalog.library(library), amendment, now())
        if image_id not in entries:
            raise ImageNotFound(f"Library {library!r} has no image {image_id!r}.")
        return entries[image_id].image

    def _write_fields(self, library: Library, entries: Sequence[CatalogEntry]) -> None:
        """Writes images' rows anew: Milvus Lite has no way to change a part of one."""
        for name, target in self.targets.of_editions(library).items():
            fields = {e.image.id: fields_of(e.image) for e in entries if name in e.collections}
            if not fields:
                continue
            rows = self.vectors.fetch(target.collection, list(fields))
            # It loses a row whose writing is broken off by its end, as a first try of this.
            rows |= self._embed_again(library, target, fields.keys() - rows.keys())
            if rows:
                self.vectors.upsert(
                    target.collection, list(rows), rows.values(), [fields[i] for i in rows]
                )

    def _embed_again(
        self, library: Library, target: Target, image_ids: Iterable[str]
    ) -> dict[str, Any]:
        """Returns embeddings, made from pictures. One that is damaged, or gone, has none."""
        rows: dict[str, Any] = {}
        for image_id in sorted(image_ids):
            with contextlib.suppress(ImageNotFound, ContentMissing, PictureError):
                content = self.images.read(library.id, image_id)
                _, [pixels] = self.images.decoder.decode(content, [target.model])
                [rows[image_id]] = target.model.embed_batch(pixels[None])
        return rows
