"""Single images: removal, thumbnails, counts."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import TYPE_CHECKING

from twinlens.models.pictures import PictureLimits, thumbnail
from twinlens.shared.blobs import image_key, thumbnail_key
from twinlens.shared.errors import ContentMissing

if TYPE_CHECKING:
    from twinlens.shared.libraries import Library
    from twinlens.workers.process.runtime import Runtime


def delete_image(runtime: Runtime, job_id: str, library: str, image_id: str) -> None:
    """Removes an image from Milvus, the catalogue and the store, in this order.

    While it is catalogued, a chunk that has the same picture skips it, so that nobody writes
    its vectors between their removal and the record's: only who builds another edition of the
    library may, and looks into the catalogue after that, so they are removed once more. Its bytes
    stay if the same picture was posted again after the removal was asked for.
    """
    asked_at: datetime = runtime.jobs.get(job_id).created_at
    _delete_vectors(runtime, runtime.catalog.library(library), image_id)
    runtime.catalog.remove(library, image_id)
    record = runtime.catalog.library(library)
    if len(record.editions) > 1:
        _delete_vectors(runtime, record, image_id)
    since = asked_at.astimezone(UTC).timestamp()
    runtime.blobs.delete(thumbnail_key(library, image_id))
    runtime.blobs.delete(image_key(library, image_id), unless_touched_since=since)


def _delete_vectors(runtime: Runtime, library: Library, image_id: str) -> None:
    for edition in library.editions:
        for _, collection in runtime.targets_of(edition):
            runtime.vectors.delete(collection, [image_id])


def make_stored_thumbnail(runtime: Runtime, library: str, image_id: str) -> None:
    """Stores an image's thumbnail.

    Raises:
        ImageNotFound: The library has no such image.
        ContentMissing: Its bytes are gone.
    """
    content = read_stored(runtime, library, image_id)
    limits = PictureLimits(max_pixels=runtime.settings.max_picture_px)
    small = thumbnail(content, limits=limits)
    runtime.blobs.put(thumbnail_key(library, image_id), small)


def read_stored(runtime: Runtime, library: str, image_id: str) -> bytes:
    """Reads an image's bytes.

    Raises:
        ImageNotFound: The library has no such image.
        ContentMissing: Its bytes are gone.
    """
    try:
        return runtime.blobs.get(runtime.catalog.get(library, image_id).path)
    except FileNotFoundError:
        raise ContentMissing(f"The bytes of image {image_id!r} are not in the store.") from None


def count_vectors(runtime: Runtime, library: str) -> dict[str, int]:
    """Returns how many vectors each model of the library has in Milvus."""
    targets = runtime.targets_of(runtime.catalog.library(library))
    return {model.card.name: runtime.vectors.count(collection) for model, collection in targets}
