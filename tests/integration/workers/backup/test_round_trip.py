"""A backup brings everything back, to the bit, and between one Milvus and another."""

from __future__ import annotations

import itertools
import json
from collections import Counter
from typing import TYPE_CHECKING

import numpy as np
import pytest
from support.backups import (
    ART,
    MOVES,
    PLAIN,
    Two,
    assert_same,
    back_up,
    contents_of,
    restore,
    run_job,
)
from support.places import Place, picture_of

from twinlens.cli.backup.run import embed_by
from twinlens.shared.blobs import image_id_of
from twinlens.shared.errors import LibraryConflict, StorageFull, Unavailable
from twinlens.shared.filters.language import parse_filter
from twinlens.workers.backup.folder import BackupWriter
from twinlens.workers.backup.layout import ends_page, key_of
from twinlens.workers.backup.saving import Saving
from twinlens.workers.milvus.vectors import Vectors

if TYPE_CHECKING:
    from pathlib import Path

    from twinlens.workers.backup.layout import Page

# A picture after which another page begins.
PAGE_END = next(
    name for n in itertools.count() if ends_page(image_id_of(picture_of(name := f"{n}.png")))
)


@pytest.mark.parametrize("two", MOVES, indirect=True)
def test_all_of_it_comes_back_to_the_bit_and_nothing_is_computed(two: Two, folder: Path) -> None:
    full, empty = two
    saved = back_up(full, folder)
    assert (saved.n_libraries, saved.n_images, saved.n_copied) == (2, 5, 5)
    assert (saved.failures, saved.n_without) == ([], 0)
    restored = restore(empty, folder)
    assert (restored.n_restored, restored.n_carried) == (5, 3 * 3 + 2)
    assert (restored.failures, restored.notes, restored.jobs) == ([], [], [])
    for library in ("art", "default"):
        assert_same(full, empty, library)
    assert empty.runtime.counts.n_pictures == 0
    for where, n in (('tags contains "青" and city == "Zürich"', 1), ("not exists year", 2)):
        assert empty.runtime.images.count("art", parse_filter(where)) == n
    assert empty.runtime.catalog.library("art").restoring is None


@pytest.mark.parametrize("two", MOVES[:2], indirect=True)
def test_half_floats_are_carried_to_the_bit_or_widened(two: Two, folder: Path) -> None:
    full, empty = two
    full.make("half", ["colours@1", "phash@1"], metric="COSINE", index={"vector": "FLOAT16"})
    full.add("half", ART)
    back_up(full, folder)
    restored = restore(empty, folder)
    assert restored.n_lacking == 0
    if empty.runtime.vectors.server.is_lite:
        assert restored.notes == []
        assert_same(full, empty, "half")
        return
    [note] = restored.notes
    assert note.startswith("library half gets the index AUTO")
    before, after = full.vectors("half"), empty.vectors("half")
    assert after["phash@1"] == before["phash@1"]
    for image_id, (kind, numbers) in before["colours@1"].items():
        assert kind == "float16"
        wide = np.frombuffer(numbers, np.float16).astype(np.float32)
        assert after["colours@1"][image_id] == ("float32", wide.tobytes())


def files(folder: Path) -> dict[str, int]:
    """Returns the files that are named by their content, with when each was written."""
    paths = (path for path in folder.rglob("*") if path.is_file())
    names = {str(path.relative_to(folder)): path.stat().st_mtime_ns for path in paths}
    return {name: written for name, written in names.items() if "/" in name}


def test_a_second_backup_copies_what_is_new_and_drops_what_is_gone(two: Two, folder: Path) -> None:
    full, empty = two
    back_up(full, folder)
    before = files(folder)
    assert (again := back_up(full, folder)).n_copied == 0
    assert again.n_images == 5
    assert files(folder) == before

    [new] = full.add("art", {"new.png": {"city": "Oslo"}})
    gone = image_id_of(picture_of("b.png"))
    full.delete("art", gone)
    saved = back_up(full, folder)
    assert (saved.n_images, saved.n_copied) == (5, 1)
    after = files(folder)
    pictures = {name for name in after.keys() - before.keys() if name.startswith("pictures/")}
    assert pictures == {key_of("pictures", new)}
    assert key_of("pictures", gone) not in after
    # One page of one library. All plain pictures have one hash; two models make the same of each.
    changed = [name.partition("/")[0] for name in after.keys() ^ before.keys()]
    assert Counter(changed) == dict.fromkeys(("contents", "pictures", "records", "vectors"), 2)
    restore(empty, folder)
    assert_same(full, empty, "art")


def test_a_library_of_several_pages_comes_back_and_its_pages_stay(two: Two, folder: Path) -> None:
    full, empty = two
    full.add("default", {PAGE_END: {}})
    [gone] = full.add("default", {"on the next page.png": {}})
    full.add("default", {"last.png": {}})
    back_up(full, folder)
    [first, second] = pages_of(folder, "default")
    assert (first.n_images, second.n_images) == (len(PLAIN) + 1, 2)
    full.delete("default", gone)
    back_up(full, folder)
    [same, other] = pages_of(folder, "default")
    assert same == first
    assert other.n_images == 1
    restore(empty, folder)
    assert_same(full, empty, "default")
    newest, _ = empty.runtime.catalog.page("default", 1, None)
    assert newest[0].image.name == "last.png"


def pages_of(folder: Path, library: str) -> list[Page]:
    [pages] = [one.pages for one in contents_of(folder).libraries if one.name == library]
    return pages


def test_milvus_is_not_asked_for_what_the_backup_has(two: Two, folder: Path) -> None:
    back_up(two.full, folder)
    nowhere = Vectors(two.full.settings.model_copy(update={"milvus_uri": "http://127.0.0.1:1"}))
    stores = two.full.stores._replace(vectors=nowhere)
    writer = BackupWriter(folder)
    with writer.writing():
        assert Saving(stores, writer, lambda _: None).save().n_images == 5
    two.full.add("art", {"new.png": {}})
    with writer.writing(), pytest.raises(Unavailable):
        Saving(stores, writer, lambda _: None).save()
    assert restore(two.empty, folder).n_restored == 5, "the earlier one is still whole"


@pytest.mark.parametrize("name", ["art", "default"])
def test_a_library_that_is_there_is_left_alone(two: Two, folder: Path, name: str) -> None:
    full, empty = two
    back_up(full, folder)
    if name == "art":
        empty.make("art", ["phash@1"])
    [image_id] = empty.add(name, {"own.png": {"kept": True}})
    with pytest.raises(LibraryConflict, match=f"already a library '{name}', with 1 images"):
        restore(empty, folder)
    assert [one.name for one in empty.runtime.catalog.libraries()] == sorted({"default", name})
    restore(empty, folder, **{name: "other"})
    assert_same(full, empty, name, into="other")
    assert list(empty.images(name)) == [image_id]


def test_no_more_is_restored_than_there_is_room_for(two: Two, folder: Path) -> None:
    back_up(two.full, folder)
    full_disk = two.empty.settings.model_copy(update={"disk_reserve_bytes": 2**62})
    with pytest.raises(StorageFull, match="has no room"):
        restore(Place(full_disk, two.empty.client, two.empty.runtime), folder)
    restored = restore(two.empty, folder)
    assert (restored.n_restored, restored.n_there) == (5, 0)


def test_what_is_restored_outlives_a_redis_that_is_emptied(two: Two, folder: Path) -> None:
    full, empty = two
    back_up(full, folder)
    restore(empty, folder)
    empty.runtime.redis.flushdb()
    empty.runtime.publish()
    for name in ("art", "default"):
        run_job(empty, embed_by(empty.settings)(empty.runtime.catalog.library(name)))
        assert_same(full, empty, name)
    assert empty.runtime.counts.n_pictures == 0


def test_it_can_be_read_without_twinlens(two: Two, folder: Path) -> None:
    back_up(two.full, folder)

    def path(kind: str, sha256: str, ending: str = "") -> Path:
        return folder / kind / sha256[:2] / f"{sha256}{ending}"

    head = json.loads((folder / "twinlens-backup.json").read_text())
    contents = json.loads(path("contents", head["contents"], ".json").read_text())
    art, default = contents["libraries"]
    assert (art["name"], art["weights"], default["n_images"]) == ("art", {"tint": 0.25}, 2)
    [page] = art["pages"]
    records = path("records", page["records"], ".jsonl").read_text().splitlines()
    images = [json.loads(line) for line in records]
    assert {image["name"]: image["metadata"] for image in images} == ART
    rows = np.load(path("vectors", page["vectors"]["colours@1"]["sha256"], ".npy"))
    vectors = two.full.vectors("art")["colours@1"]
    for image, row in zip(images, rows, strict=True):
        assert path("pictures", image["id"]).read_bytes() == picture_of(image["name"])
        assert vectors[image["id"]] == ("float32", row.tobytes())
