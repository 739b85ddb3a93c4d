"""Brings libraries of a backup back into a running service.

Each page goes the way of a chunk: pictures, then vectors, then the catalogue. So what is catalogued
has all that the backup has of it, and a restore that broke off goes on where it was. Vectors that
cannot be carried, because the model is another or their file is damaged, are computed by a job.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, NamedTuple

from twinlens.models.card import OutputKind
from twinlens.shared.blobs import image_key
from twinlens.shared.disk import has_room
from twinlens.shared.errors import (
    BadBackup,
    LibraryConflict,
    ModelNotFound,
    StorageFull,
)
from twinlens.shared.filters.fields import fields_of
from twinlens.shared.indexes import check_index
from twinlens.shared.libraries import DEFAULT_LIBRARY, Index, Library, new_library
from twinlens.shared.messages import CatalogEntry, now
from twinlens.workers.backup.layout import read_records, read_vectors
from twinlens.workers.milvus.collection import Collection, collection_of

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence
    from typing import Any

    from twinlens.models.card import Card
    from twinlens.shared.messages import Image
    from twinlens.shared.settings import Settings
    from twinlens.workers.backup.folder import BackupFolder
    from twinlens.workers.backup.layout import Contents, Page, SavedLibrary
    from twinlens.workers.backup.stores import Stores

# As many vectors as a chunk writes at most.
WRITE_ROWS = 256
ADDED_BY = "restore"


class Chosen(NamedTuple):
    """A library of a backup, and how it is to be called."""

    saved: SavedLibrary
    name: str


@dataclass
class Restored:
    """What became of a restore."""

    n_restored: int = 0
    n_there: int = 0  # from an earlier try
    n_carried: int = 0  # embeddings
    n_lacking: int = 0  # images that are embedded again
    jobs: list[str] = field(default_factory=list)  # that do so
    notes: list[str] = field(default_factory=list)  # what is not as it was
    failures: list[str] = field(default_factory=list)


class Restoring:
    """One restore."""

    def __init__(
        self,
        stores: Stores,
        folder: BackupFolder,
        settings: Settings,
        embed: Callable[[Library], str],
        on_images: Callable[[int], None],
    ) -> None:
        """Reads what the backup has.

        Args:
            stores: Where to.
            folder: The backup; it is being read.
            settings: Where the pictures go, and how much of the disk is to stay free.
            embed: Queues the embedding of what a library lacks, and returns the job's id.
            on_images: Told of how many more images are done.

        Raises:
            BadBackup: It is not whole, of a newer format, or its list of contents is damaged.
        """
        self._catalog, self._blobs, self._vectors, self._registry, self._journaling = stores
        self._folder = folder
        self._settings = settings
        self._embed = embed
        self._on_images = on_images
        head = folder.head()
        if head is None:
            raise BadBackup(
                f"{folder.root} has no backup that is whole; run `twinlens backup` again."
            )
        self._sha256 = head.contents
        self.contents: Contents = folder.contents(head)
        self._restored = Restored()

    def check(self, chosen: Sequence[Chosen]) -> None:
        """Makes sure that libraries can be restored, before anything is written.

        Raises:
            LibraryConflict: There is already one of that name.
            ModelNotFound: A model is neither here nor in the backup.
            Unavailable: Milvus does not answer.
        """
        for saved, name in chosen:
            self._check_name(name)
            for ref in saved.models:
                if not self._has_model(ref) and not self._is_packed(ref):
                    raise ModelNotFound(
                        f"Model {ref} of library {saved.name!r} is neither in"
                        f" {self._registry.directory} nor in the backup: add it"
                        " (`twinlens models add`), and restore again."
                    )
        self._vectors.ping(self._settings.milvus_timeout_s)

    def restore(self, chosen: Iterable[Chosen]) -> Restored:
        """Restores libraries.

        Raises:
            LibraryConflict: There is another library of that name by now.
            StorageFull: The data directory has no room for the pictures.
            Unavailable: Milvus does not answer. To be done again: it goes on.
        """
        for saved, name in chosen:
            for ref in saved.models:
                self._ensure_model(ref)
            self._restore_library(saved, name)
        return self._restored

    def _check_name(self, name: str) -> None:
        there = {one.name: one for one in self._catalog.libraries()}.get(name)
        if there is not None and not self._is_ours(there):
            raise LibraryConflict(
                f"There is already a library {name!r}, with"
                f" {self._catalog.count(there.id)} images: restore with --into ANOTHER-NAME, or"
                " remove it first."
            )

    def _is_ours(self, library: Library) -> bool:
        """Tells if a library is one that this backup was being restored into, or may be."""
        if library.restoring is not None:
            return library.restoring == self._sha256
        is_untouched = library.next is None and not library.has_lost_images
        is_default = library.name == DEFAULT_LIBRARY
        return is_default and is_untouched and self._catalog.count(library.id) == 0

    def _has_model(self, ref: str) -> bool:
        return any(card.ref == ref for card in self._registry.cards())

    def _is_packed(self, ref: str) -> bool:
        return ref in self.contents.models and bool(self.contents.models[ref].files)

    def _ensure_model(self, ref: str) -> None:
        if self._has_model(ref):
            return
        files = self.contents.models[ref].files
        packed = {name: self._folder.read("models", sha256) for name, sha256 in files.items()}
        self._registry.unpack(ref, packed)
        self._restored.notes.append(f"model {ref} was added")

    def _restore_library(self, saved: SavedLibrary, name: str) -> None:
        cards = {ref: self._registry.card(ref) for ref in saved.models}
        library = self._open_library(saved, name, cards)
        targets = [collection_of(library, card) for card in cards.values()]
        carried = [one for one in targets if self._is_carried(one.card, saved)]
        n_lacking = sum(self._restore_page(library, carried, page) for page in saved.pages)
        if n_lacking:
            self._restored.n_lacking += n_lacking
            self._restored.jobs.append(self._embed(library))
        self._catalog.change_library(name, _end_restore, library.id)

    def _open_library(self, saved: SavedLibrary, name: str, cards: Mapping[str, Card]) -> Library:
        """Makes a library; or finds the one that an earlier try made."""
        fresh = new_library(
            name,
            saved.models,
            weights=saved.weights,
            metric=saved.metric,
            index=self._index_of(saved, cards),
        )
        fresh.restoring = self._sha256
        if self._catalog.ensure_library(fresh):
            return fresh
        self._check_name(name)

        def take(library: Library) -> Library | None:
            if library.restoring == self._sha256:
                return None
            return fresh.model_copy(update={"id": library.id})

        return self._catalog.change_library(name, take)

    def _index_of(self, saved: SavedLibrary, cards: Mapping[str, Card]) -> Index:
        """Returns the library's index, or where this Milvus does not have it, its default."""
        dimensions = {
            ref: card.dimension for ref, card in cards.items() if card.output is OutputKind.FLOAT32
        }
        errors = check_index(saved.index, dimensions, self._vectors.server)
        if not errors:
            return saved.index
        self._restored.notes.append(
            f"library {saved.name} gets the index AUTO: {errors[0].message.rstrip('.')}"
        )
        return Index()

    def _is_carried(self, card: Card, saved: SavedLibrary) -> bool:
        model = self.contents.models.get(card.ref)
        is_same = model is not None and (model.sha256, model.dimension) == (
            card.sha256,
            card.dimension,
        )
        if not is_same:
            self._restored.notes.append(
                f"model {card.ref} is another here: what it makes of the pictures of"
                f" {saved.name} is computed again"
            )
        return is_same

    def _restore_page(self, library: Library, carried: Sequence[Collection], page: Page) -> int:
        """Restores a page; returns how many of its images lack an embedding then."""
        try:
            content = self._folder.read("records", page.records)
            images = read_records(content, library.name)
        except (BadBackup, ValueError) as error:
            self._restored.failures.append(f"{error} It tells of {page.n_images} images.")
            return 0
        there = self._catalog.find(library.id, [one.id for one in images])
        left = self._store_pictures(library.id, [one for one in images if one.id not in there])
        rows = {one.name: self._rows(one, page, images) for one in carried if left}
        entries = [_entry_of(one, library, rows) for one in left]
        self._write(library, carried, entries, rows)
        known = [*there.values(), *entries]
        # No manifest tells of them. An earlier try may have been stopped before it wrote this down.
        ours = [one.image.id for one in known if one.added_by == ADDED_BY]
        self._journaling.note(library.id, dict.fromkeys(ours, now()))
        self._restored.n_there += len(there)
        self._restored.n_restored += len(entries)
        self._restored.n_carried += sum(len(one.collections) for one in entries)
        self._on_images(page.n_images)
        return sum(not library.all_collections <= one.collections for one in known)

    def _write(
        self,
        library: Library,
        carried: Sequence[Collection],
        entries: Sequence[CatalogEntry],
        rows: Mapping[str, Mapping[str, Any]],
    ) -> None:
        """Writes images to Milvus, then to the catalogue."""
        for collection in carried if entries else ():
            self._write_rows(collection, entries, rows[collection.name])
        if late := self._catalog.put(library.id, entries):
            # Uploaded meanwhile: Milvus gets what is said of them by now.
            newer = list(self._catalog.find(library.id, late).values())
            for collection in carried:
                self._write_rows(collection, newer, rows[collection.name])

    def _store_pictures(self, library_id: str, images: Sequence[Image]) -> list[Image]:
        """Stores pictures, and returns those that the backup has."""
        stored = []
        self._check_room(sum(one.bytes for one in images))
        with self._blobs.batch() as batch:
            for image in images:
                try:
                    content = self._folder.read("pictures", image.id)
                except BadBackup as error:
                    self._restored.failures.append(f"{error} It is {image.name!r}.")
                    continue
                batch.put(image_key(library_id, image.id), content)
                stored.append(image)
        return stored

    def _check_room(self, n_bytes: int) -> None:
        if not has_room(self._settings, n_bytes):
            raise StorageFull(
                f"{self._settings.data_dir} has no room for more pictures"
                " (TWINLENS_DISK_RESERVE_BYTES is left free); make room, and restore again."
            )

    def _rows(self, collection: Collection, page: Page, images: Iterable[Image]) -> dict[str, Any]:
        """Returns a page's vectors under a model by image, none where the file is damaged."""
        ref = collection.card.ref
        file = page.vectors.get(ref)
        ids = [one.id for one in images if ref in one.models]
        if file is None or not ids:
            return {}
        try:
            rows = read_vectors(self._folder.read("vectors", file.sha256))
            return dict(zip(ids, rows, strict=True))
        except (BadBackup, ValueError) as error:
            self._restored.notes.append(f"{error} Its vectors are computed again.")
            return {}

    def _write_rows(
        self, collection: Collection, entries: Iterable[CatalogEntry], rows: Mapping[str, Any]
    ) -> None:
        images = [one.image for one in entries if one.image.id in rows]
        for start in range(0, len(images), WRITE_ROWS):
            some = images[start : start + WRITE_ROWS]
            ids = [one.id for one in some]
            fields = map(fields_of, some)
            self._vectors.upsert(collection, ids, [rows[image_id] for image_id in ids], fields)


def _entry_of(
    image: Image, library: Library, rows: Mapping[str, Mapping[str, Any]]
) -> CatalogEntry:
    """Returns an image's record, given the vectors that are carried, by collection and image."""
    collections = {name for name, by_id in rows.items() if image.id in by_id}
    models = library.models_of(collections)
    return CatalogEntry(
        image=image.model_copy(update={"models": models}),
        added_by=ADDED_BY,
        collections=collections,
    )


def _end_restore(library: Library) -> Library:
    library.restoring = None
    return library
