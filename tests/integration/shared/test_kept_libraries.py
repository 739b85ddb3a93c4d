"""A library's record outlives Redis: it lies beside the pictures, as it is by now."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from support.between import before_transaction
from support.disk import Disk

from twinlens.shared.blobs import BlobStore, library_key
from twinlens.shared.errors import LibraryNotFound
from twinlens.shared.kept_libraries import KeptLibraries
from twinlens.shared.libraries import Library, new_library
from twinlens.shared.redis.catalog import Catalog

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from twinlens.shared.redis.client import Redis

ART = new_library("art", ["phash@1"])


@pytest.fixture
def blobs(tmp_path: Path) -> BlobStore:
    return BlobStore(tmp_path)


@pytest.fixture
def kept(blobs: BlobStore) -> KeptLibraries:
    return KeptLibraries(blobs)


@pytest.fixture
def catalog(redis: Redis, kept: KeptLibraries) -> Catalog:
    redis.flushall()
    return Catalog(redis, kept)


def weighing(weight: float) -> Callable[[Library], Library]:
    return lambda library: library.model_copy(update={"weights": {"phash": weight}})


def test_each_change_is_on_the_disk_when_it_is_told(
    catalog: Catalog, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    disk = Disk(monkeypatch, tmp_path)
    assert catalog.ensure_library(ART)
    for weight in (1.0, 2.0):  # as many bytes
        library = catalog.change_library("art", weighing(weight))
        [text] = disk.after_power_cut().values()
        assert Library.model_validate_json(text) == library == catalog.library("art")


def test_a_library_that_redis_has_lost_is_the_one_that_it_was(
    catalog: Catalog, redis: Redis
) -> None:
    catalog.ensure_library(ART)
    catalog.ensure_library(new_library("cars", ["phash@1"]))
    catalog.change_library("art", weighing(2.0))
    before = catalog.libraries()
    redis.flushall()
    assert not catalog.ensure_library(new_library("art", ["phash@1"])), "it is not new"
    assert catalog.libraries() == before


def test_a_library_that_is_there_is_not_replaced(catalog: Catalog, redis: Redis) -> None:
    catalog.ensure_library(ART)
    redis.flushall()
    other = new_library("art", ["phash@2"])
    Catalog(redis).ensure_library(other)
    catalog.restore_libraries()
    assert catalog.library("art") == other


def test_a_library_that_is_removed_stays_so(
    catalog: Catalog, redis: Redis, kept: KeptLibraries
) -> None:
    catalog.ensure_library(ART)
    catalog.remove_library("art")
    assert list(kept.all()) == []
    kept.put(ART)  # read just before it was removed
    catalog.restore_libraries()
    assert catalog.libraries() == []
    redis.flushall()
    kept.delete(ART.id)
    catalog.restore_libraries()
    assert catalog.libraries() == []


def test_a_library_that_is_removed_while_it_is_restored_stays_so(
    catalog: Catalog, redis: Redis, kept: KeptLibraries
) -> None:
    catalog.ensure_library(ART)
    redis.flushall()
    Catalog(redis).ensure_library(ART)
    other = Catalog(redis, kept)
    redis.hdel("tl:libraries", "art")

    def make_and_remove() -> None:
        other.ensure_library(ART)
        other.remove_library("art")

    before_transaction(redis, make_and_remove)
    catalog.restore_libraries()
    with pytest.raises(LibraryNotFound):
        catalog.library("art")
    assert list(kept.all()) == []


@pytest.mark.parametrize("is_removed", [False, True])
def test_of_two_changes_at_once_the_last_is_kept(
    catalog: Catalog,
    redis: Redis,
    kept: KeptLibraries,
    monkeypatch: pytest.MonkeyPatch,
    is_removed: bool,
) -> None:
    """The first is in Redis, and not yet on the disk, when the second is both."""
    catalog.ensure_library(ART)
    other = Catalog(redis, kept)
    really_put = KeptLibraries.put

    def put_late(self: KeptLibraries, library: Library) -> None:
        monkeypatch.setattr(KeptLibraries, "put", really_put)
        if is_removed:
            other.remove_library("art")
        else:
            other.change_library("art", weighing(2.0))
        really_put(self, library)

    monkeypatch.setattr(KeptLibraries, "put", put_late)
    catalog.change_library("art", weighing(1.0))
    assert list(kept.all()) == catalog.libraries()
    assert [one.weights for one in kept.all()] == ([] if is_removed else [{"phash": 2.0}])


def test_what_is_lost_as_redis_is_emptied_is_no_removal(
    catalog: Catalog, redis: Redis, kept: KeptLibraries, monkeypatch: pytest.MonkeyPatch
) -> None:
    really_put = KeptLibraries.put

    def put_then_empty(self: KeptLibraries, library: Library) -> None:
        really_put(self, library)
        redis.flushall()

    monkeypatch.setattr(KeptLibraries, "put", put_then_empty)
    catalog.ensure_library(ART)
    assert list(kept.all()) == [ART]


def test_a_record_that_is_not_kept_is_in_the_end(
    catalog: Catalog, redis: Redis, kept: KeptLibraries, blobs: BlobStore
) -> None:
    Catalog(redis).ensure_library(ART)  # as a version did that kept none, or one that was stopped
    blobs.replace(library_key("cars"), b"{")
    catalog.keep_libraries()
    assert list(kept.all()) == [ART]
