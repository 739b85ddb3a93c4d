"""Models and vectors that are not there, or are others."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from support.backups import Two, assert_same, back_up, damage, restore, run_job
from support.places import picture_of

from twinlens.cli.backup.run import embed_by
from twinlens.models.registry import Registry
from twinlens.shared.blobs import image_id_of, image_key
from twinlens.shared.errors import ModelNotFound

if TYPE_CHECKING:
    from pathlib import Path

    from pymilvus import MilvusClient


def test_a_model_that_is_not_there_is_brought(two: Two, folder: Path) -> None:
    full, empty = two
    back_up(full, folder)
    registry = Registry(empty.runtime.registry.directory)
    registry.remove("colours@1")
    restored = restore(empty, folder)
    assert restored.notes == ["model colours@1 was added"]
    assert_same(full, empty, "art")
    card, mine = registry.card("colours@1"), full.runtime.registry.card("colours@1")
    assert card == mine
    assert registry.open("colours@1").card.ref == "colours@1"
    assert registry.open_text("colours@1") is not None


def test_a_model_that_is_nowhere_is_named_before_anything_is_written(
    two: Two, folder: Path
) -> None:
    full, empty = two
    for place in two:
        Registry(place.runtime.registry.directory).remove("tint@1")
    saved = back_up(full, folder)
    [failure] = saved.failures
    assert failure.startswith("model tint@1 of library art is not in ")
    with pytest.raises(ModelNotFound, match="Model tint@1 of library 'art' is neither in"):
        restore(empty, folder)
    assert [one.name for one in empty.runtime.catalog.libraries()] == ["default"]
    assert empty.images("default") == {}


def test_vectors_of_another_model_of_the_name_are_computed_again(two: Two, folder: Path) -> None:
    full, empty = two
    registry = Registry(empty.runtime.registry.directory)
    card, _ = registry.read("tint@1")
    _, other = registry.read("colours@1")
    registry.remove("tint@1")
    registry.add(card, other)
    back_up(full, folder)
    restored = restore(empty, folder, art="art")
    assert [one for one in restored.notes if "tint@1 is another here" in one]
    assert (restored.n_carried, restored.n_lacking) == (2 * 3, 3)
    [job_id] = restored.jobs
    run_job(empty, job_id)
    before, after = full.vectors("art"), empty.vectors("art")
    assert after["colours@1"] == before["colours@1"]
    assert after["tint@1"].keys() == before["tint@1"].keys()


def test_vectors_that_milvus_has_lost_are_computed_when_they_are_restored(
    two: Two, folder: Path, milvus_clients: dict[str, MilvusClient]
) -> None:
    full, empty = two
    library = full.runtime.catalog.library("art")
    [milvus] = milvus_clients.values()
    milvus.drop_collection(library.collections["tint@1"])
    milvus.delete(library.collections["phash@1"], ids=[image_id_of(picture_of("b.png"))])
    saved = back_up(full, folder)
    assert (saved.n_without, saved.failures) == (3 + 1, [])
    assert not milvus.has_collection(library.collections["tint@1"]), "a backup makes nothing"
    restored = restore(empty, folder)
    assert (restored.n_carried, restored.n_lacking) == (3 + 2 + 2, 3)
    run_job(empty, *restored.jobs)
    assert {ref: len(rows) for ref, rows in empty.vectors("art").items()} == {
        "colours@1": 3,
        "tint@1": 3,
        "phash@1": 3,
    }


def test_vectors_that_milvus_has_again_are_in_the_next_backup(
    two: Two, folder: Path, milvus_clients: dict[str, MilvusClient]
) -> None:
    full, empty = two
    library = full.runtime.catalog.library("art")
    [milvus] = milvus_clients.values()
    lost = image_id_of(picture_of("b.png"))
    for collection in library.collections.values():
        milvus.delete(collection, ids=[lost])
    assert back_up(full, folder).n_without == 3
    run_job(full, embed_by(full.settings)(library))
    assert back_up(full, folder).n_without == 0
    restored = restore(empty, folder)
    assert (restored.n_carried, restored.n_lacking) == (3 * 3 + 2, 0)
    assert_same(full, empty, "art")


def test_pictures_that_the_service_has_lost_are_named(two: Two, folder: Path) -> None:
    full, _ = two
    library_id = full.runtime.catalog.library("art").id
    lost, changed, *_ = full.images("art")
    blobs = full.settings.blob_dir
    (blobs / image_key(library_id, lost)).unlink()
    damage(blobs / image_key(library_id, changed))
    saved = back_up(full, folder)
    assert saved.n_images == 3
    for image_id in (lost, changed):
        assert any(image_id in line for line in saved.failures)
    assert len(saved.failures) == 2
