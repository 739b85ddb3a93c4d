"""Writes a backup while the service runs.

What is catalogued is backed up: a picture has its bytes and its embeddings before it is, and one
that is gone by the time its page is written is left out. So a picture that comes or goes meanwhile
is in the backup whole, or not at all. One that a job has not embedded yet is in the next backup.
"""

from __future__ import annotations

import contextlib
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from twinlens.shared.blobs import image_key
from twinlens.shared.errors import (
    BadBackup,
    LibraryDamaged,
    LibraryNotFound,
    ModelError,
    ModelNotFound,
)
from twinlens.shared.libraries import Edition
from twinlens.shared.redis.catalog import READ_ENTRIES
from twinlens.workers.backup.layout import (
    Contents,
    Page,
    SavedLibrary,
    SavedModel,
    VectorFile,
    digest,
    read_records,
    split_pages,
    write_records,
    write_vectors,
)
from twinlens.workers.milvus.collection import Collection, collection_of

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence

    from twinlens.models.card import Card
    from twinlens.shared.libraries import Library
    from twinlens.shared.messages import CatalogEntry, Cursor, Image
    from twinlens.workers.backup.folder import BackupWriter
    from twinlens.workers.backup.stores import Stores

_EDITION = set(Edition.model_fields)


@dataclass
class Saved:
    """What became of a backup."""

    n_libraries: int = 0
    n_images: int = 0
    n_copied: int = 0  # pictures that were not in the folder before
    n_without: int = 0  # embeddings that Milvus should have and has not
    failures: list[str] = field(default_factory=list)


class Saving:
    """One backup."""

    def __init__(
        self, stores: Stores, folder: BackupWriter, on_images: Callable[[int], None]
    ) -> None:
        """Begins a backup.

        Args:
            stores: What is backed up.
            folder: Where to; it is being written.
            on_images: Told of how many more images are done.
        """
        self._catalog, self._blobs, self._vectors, self._registry, _ = stores
        self._folder = folder
        self._on_images = on_images
        self._n_copied = 0
        self._models: dict[str, SavedModel] = {}
        # By the model's SHA-256, the kind of number and the images: a model always makes the same
        # of a picture, so Milvus is not asked again.
        self._there: dict[tuple[str, str, str], VectorFile] = {}

    def save(self) -> Saved:
        """Backs up every library.

        Raises:
            BadBackup: What is in the folder is damaged, or is of another service.
            LibraryDamaged: A library lacks images that it had.
            Unavailable: Milvus does not answer; what is written stays, for the next try.
        """
        self._note_earlier()
        saved = Saved()
        libraries = []
        for one in self._catalog.libraries():
            library = self._save_library(one.name, saved)
            if library is not None:
                libraries.append(library)
        self._folder.finish(Contents(models=self._models, libraries=libraries))
        saved.n_libraries, saved.n_copied = len(libraries), self._n_copied
        saved.n_images = sum(one.n_images for one in libraries)
        return saved

    def _note_earlier(self) -> None:
        head = self._folder.head()
        if head is None:
            return
        contents = self._folder.contents(head)
        self._check_ours(contents)
        for library in contents.libraries:
            for page in library.pages:
                for ref, file in page.vectors.items():
                    self._note(contents.models[ref].sha256, page.ids, file)

    def _check_ours(self, contents: Contents) -> None:
        """Refuses to put a service that was begun anew in place of what it is to be restored from.

        Raises:
            BadBackup: The service has none of the images of an earlier backup.
        """
        if not any(library.pages for library in contents.libraries):
            return
        there = self._catalog.libraries()
        for page in (page for library in contents.libraries for page in library.pages):
            with contextlib.suppress(BadBackup, ValueError):
                records = read_records(self._folder.read("records", page.records), "")
                ids = [one.id for one in records]
                if any(self._catalog.find(one.id, ids) for one in there):
                    return
        raise BadBackup(
            f"This service has none of the images that are in {self._folder.root}: restore them"
            " first, or name another folder."
        )

    def _note(self, model_sha256: str, ids: str, file: VectorFile) -> None:
        self._there[model_sha256, file.dtype, ids] = file

    def _save_library(self, name: str, saved: Saved) -> SavedLibrary | None:
        """Backs up a library; again, where another edition of it has been switched on meanwhile."""
        while self._has(name):
            attempt = Saved()
            with contextlib.suppress(LibraryNotFound):
                library = self._catalog.library(name)
                _check_whole(library)
                done = self._save_edition(library, attempt)
                now = self._catalog.library(name, library.id)
                if _edition_of(now) == _edition_of(library):
                    saved.n_without += attempt.n_without
                    saved.failures += attempt.failures
                    return done
        return None

    def _has(self, name: str) -> bool:
        return any(one.name == name for one in self._catalog.libraries())

    def _save_edition(self, library: Library, saved: Saved) -> SavedLibrary:
        collections = self._save_models(library, saved)
        pages = []
        for entries in split_pages(self._entries(library.id)):
            page = self._save_page(library, collections, entries, saved)
            if page is not None:
                pages.append(page)
            self._on_images(len(entries))
        return SavedLibrary(
            **library.model_dump(include={"name", "models", "metric", "index", "weights"}),
            n_images=sum(page.n_images for page in pages),
            pages=pages,
        )

    def _entries(self, library_id: str) -> Iterator[CatalogEntry]:
        """Yields a library's images, the oldest first; some are read at a time."""
        after: Cursor | None = None
        while True:
            some, after = self._catalog.page(library_id, READ_ENTRIES, after, first="oldest")
            yield from some
            if after is None:
                return

    def _save_models(self, library: Library, saved: Saved) -> list[Collection]:
        """Backs up a library's models, and returns the collections of those that there are."""
        collections = []
        for ref in library.models:
            try:
                card = self._registry.card(ref)
            except ModelNotFound:
                saved.failures.append(
                    f"model {ref} of library {library.name} is not in {self._registry.directory}:"
                    " neither it nor its vectors are in the backup"
                )
                continue
            collections.append(collection_of(library, card))
            if ref not in self._models:
                self._models[ref] = self._save_model(card, saved)
        return collections

    def _save_model(self, card: Card, saved: Saved) -> SavedModel:
        files: dict[str, str] = {}
        try:
            packed = self._registry.pack(card.ref)
            files = {name: self._folder.put("models", one) for name, one in packed.items()}
        except ModelError as error:
            saved.failures.append(f"{error}; the model is not in the backup")
        return SavedModel(sha256=card.sha256, dimension=card.dimension, files=files)

    def _save_page(
        self,
        library: Library,
        collections: Sequence[Collection],
        entries: Sequence[CatalogEntry],
        saved: Saved,
    ) -> Page | None:
        """Backs up a page; there is none where all of its images are gone."""
        images = self._copy_all(library, entries, saved)
        if not images:
            return None
        ids = digest("".join(images).encode())
        vectors = {}
        for collection in collections:
            ref = collection.card.ref
            file, with_rows = self._save_vectors(collection, ids, list(images))
            saved.n_without += len(images) - len(with_rows)
            if file is not None:
                vectors[ref] = file
            for image_id in with_rows:
                images[image_id].models.append(ref)
        records = self._folder.put("records", write_records(images.values()))
        self._folder.sync()
        return Page(n_images=len(images), ids=ids, records=records, vectors=vectors)

    def _copy_all(
        self, library: Library, entries: Iterable[CatalogEntry], saved: Saved
    ) -> dict[str, Image]:
        """Copies pictures; returns their images by id, without models, but for what is gone."""
        ids = [one.image.id for one in entries]
        copied = {one.image.id for one in entries if self._copy(library.id, one.image)}
        there = self._catalog.find(library.id, ids)
        saved.failures += [
            f"picture {image_id} of library {library.name} is missing, or was changed on the disk"
            for image_id in there
            if image_id not in copied
        ]
        return {
            image_id: entry.image.model_copy(update={"models": []})
            for image_id, entry in there.items()
            if image_id in copied
        }

    def _copy(self, library_id: str, image: Image) -> bool:
        """Copies a picture; tells if the folder has it now."""
        if self._folder.has("pictures", image.id, image.bytes):
            return True
        try:
            content = self._blobs.get(image_key(library_id, image.id))
        except FileNotFoundError:
            return False
        if digest(content) != image.id:
            return False
        self._folder.put("pictures", content)
        self._n_copied += 1
        return True

    def _save_vectors(
        self, collection: Collection, ids: str, image_ids: Sequence[str]
    ) -> tuple[VectorFile | None, Sequence[str]]:
        """Writes a page's vectors under a model; returns the images that have one, in order."""
        model_sha256, dtype = collection.card.sha256, str(collection.dtype)
        earlier = self._there.get((model_sha256, dtype, ids))
        is_whole = earlier is not None and earlier.n_rows == len(image_ids)
        if earlier is not None and is_whole and self._folder.has("vectors", earlier.sha256):
            return earlier, image_ids
        rows = self._vectors.read_stored(collection, image_ids)
        with_rows = [image_id for image_id in image_ids if image_id in rows]
        if not with_rows:
            return None, []
        content = write_vectors([rows[image_id] for image_id in with_rows])
        sha256 = self._folder.put("vectors", content)
        file = VectorFile(sha256=sha256, dtype=dtype, n_rows=len(with_rows))
        self._note(model_sha256, ids, file)
        return file, with_rows


def _check_whole(library: Library) -> None:
    """Refuses to put less in place of what an earlier backup has.

    Raises:
        LibraryDamaged: The library lacks images that it had.
    """
    if library.has_lost_images:
        raise LibraryDamaged(
            f"Redis has lost the images of library {library.name!r}: run `twinlens reconcile`, then"
            " back up. An earlier backup stays as it was."
        )
    if library.restoring is not None:
        raise LibraryDamaged(
            f"Library {library.name!r} is not restored whole yet: run `twinlens restore` again, or"
            f" give it up with `twinlens libraries rollback {library.name}`."
        )


def _edition_of(library: Library) -> Edition:
    return Edition(**library.model_dump(include=_EDITION))
