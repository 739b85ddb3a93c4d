"""A backup while others upload, remove and change: a picture is in it whole, or not at all."""

from __future__ import annotations

import itertools
from dataclasses import replace
from typing import TYPE_CHECKING

import pytest
from support.backups import ART, Two, back_up, contents_of, restore
from support.between import BusyRedis
from support.places import Place

from twinlens.shared.blobs import BlobStore
from twinlens.shared.filters.language import parse_filter
from twinlens.shared.redis.catalog import Catalog
from twinlens.workers.backup.folder import BackupFolder, BackupWriter
from twinlens.workers.backup.layout import key_of, read_records
from twinlens.workers.backup.saving import Saving

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from twinlens.shared.blobs import BlobBatch
    from twinlens.workers.backup.saving import Saved
    from twinlens.workers.backup.stores import Stores


class BusyBlobs(BlobStore):
    """A store before whose every use somebody else does something."""

    def __init__(self, root: Path, meanwhile: Callable[[], object]) -> None:
        super().__init__(root)
        self._meanwhile = meanwhile

    def get(self, key: str) -> bytes:
        self._meanwhile()
        return super().get(key)

    def batch(self) -> BlobBatch:
        self._meanwhile()
        return super().batch()


def busy(place: Place, meanwhile: Callable[[], object]) -> Stores:
    """Returns a service's stores where something happens before each step of a backup."""
    redis = BusyRedis.from_url(place.settings.redis_url, decode_responses=True)
    redis.meanwhile = meanwhile
    blobs = BusyBlobs(place.settings.blob_dir, meanwhile)
    return place.stores._replace(catalog=Catalog(redis), blobs=blobs)


def back_up_busy(place: Place, folder: Path, meanwhile: Callable[[], object]) -> Saved:
    writer = BackupWriter(folder)
    with writer.writing():
        return Saving(busy(place, meanwhile), writer, lambda _: None).save()


def changes(place: Place) -> Iterator[None]:
    """Uploads, describes anew, and removes, in turn."""
    for number in itertools.count():
        place.add("art", {f"new {number}.png": {"n": number}})
        yield
        newest, oldest = (list(place.images("art"))[end] for end in (-1, 0))
        said = {"metadata": {"changed": number}}
        place.change("art", newest, said)
        yield
        place.delete("art", oldest)
        yield


def test_each_picture_is_in_it_whole_or_not_at_all(two: Two, folder: Path) -> None:
    full, empty = two
    happening = changes(full)
    saved = back_up_busy(full, folder, lambda: next(happening))
    assert saved.failures == []
    backup = BackupFolder(folder)
    for library in contents_of(folder).libraries:
        for page in library.pages:
            for image in read_records(backup.read("records", page.records), "any"):
                assert (folder / key_of("pictures", image.id)).is_file()
    # What was going just then has lost its vectors first, and is computed again.
    restored = restore(empty, folder)
    assert restored.failures == []
    assert restored.n_restored == saved.n_images
    assert sum(len(rows) for rows in empty.vectors("art").values()) == restored.n_carried - 2


def test_an_edition_that_is_switched_on_meanwhile_is_the_one_that_is_saved(
    two: Two, folder: Path
) -> None:
    full, empty = two
    steps = itertools.count()

    def switch() -> None:
        if next(steps) == 6:
            plan = {"models": ["phash@1"], "weights": {"phash": 2.0}}
            assert full.client.put("/v1/libraries/art", json=plan).status_code == 200

    back_up_busy(full, folder, switch)
    assert next(steps) > 6
    [art] = [one for one in contents_of(folder).libraries if one.name == "art"]
    assert (art.models, art.weights) == (["phash@1"], {"phash": 2.0})
    restore(empty, folder)
    assert empty.vectors("art") == full.vectors("art")
    assert {tuple(one.models) for one in empty.images("art").values()} == {("phash@1",)}


@pytest.mark.parametrize("is_made_anew", [False, True])
def test_a_library_that_is_removed_meanwhile_is_not_in_it(
    two: Two, folder: Path, *, is_made_anew: bool
) -> None:
    full, _ = two
    steps = itertools.count()

    def remove() -> None:
        if next(steps) == 6:
            full.remove_library("art")
            if is_made_anew:
                full.make("art", ["phash@1"])

    saved = back_up_busy(full, folder, remove)
    assert next(steps) > 6
    libraries = {one.name: one.n_images for one in contents_of(folder).libraries}
    assert libraries == {"default": 2} | ({"art": 0} if is_made_anew else {})
    assert (saved.n_images, saved.failures) == (2, [])


def test_an_upload_while_it_is_restored_has_the_last_word(two: Two, folder: Path) -> None:
    full, empty = two
    back_up(full, folder)
    upload = {"b.png": {"newer": True}}
    steps = itertools.count()

    def add() -> None:
        if next(steps) == 0:
            empty.add("art", upload)

    blobs = BusyBlobs(empty.settings.blob_dir, add)
    busy_place = replace(empty, runtime=replace(empty.runtime, blobs=blobs))
    assert restore(busy_place, folder, art="art").failures == []
    metadata = {one.name: one.metadata for one in empty.images("art").values()}
    assert metadata == ART | upload
    assert empty.runtime.images.count("art", parse_filter("newer == true")) == 1


def test_what_is_being_embedded_is_in_the_next_backup(two: Two, folder: Path) -> None:
    full, _ = two
    job_id = full.post("art", {"new.png": {}})
    assert back_up(full, folder).n_images == 5
    full.embed(job_id)
    assert back_up(full, folder).n_images == 6
