"""A backup or a restore that breaks off, and a backup that is damaged."""

from __future__ import annotations

import shutil
from typing import TYPE_CHECKING

import pytest
from support.backups import (
    Two,
    assert_same,
    back_up,
    contents_of,
    damage,
    remove,
    restore,
    run_job,
    truncate,
)
from support.disk import Disk, disk_with_room_for
from support.places import picture_of

from twinlens.cli.backup.run import embed_by
from twinlens.shared.blobs import image_id_of
from twinlens.shared.errors import BadBackup, LibraryConflict, LibraryDamaged
from twinlens.workers.backup.folder import BackupFolder, BackupWriter
from twinlens.workers.backup.layout import HEAD, BackupHead, Contents, key_of, read_records

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from pathlib import Path


class BrokenOff(BaseException):
    """As a signal ends a command."""


def break_off(_: int) -> None:
    raise BrokenOff


def test_a_backup_that_broke_off_is_none_and_goes_on(two: Two, folder: Path) -> None:
    with pytest.raises(BrokenOff):
        back_up(two.full, folder, break_off)
    with pytest.raises(BadBackup, match="has no backup that is whole"):
        restore(two.empty, folder)
    assert back_up(two.full, folder).n_copied == 2
    restore(two.empty, folder)
    assert_same(two.full, two.empty, "art")


def test_a_backup_that_broke_off_leaves_the_earlier_one(two: Two, folder: Path) -> None:
    back_up(two.full, folder)
    gone = two.full.images("art")
    for image_id in gone:
        two.full.delete("art", image_id)
    with pytest.raises(BrokenOff):
        back_up(two.full, folder, break_off)
    restore(two.empty, folder)
    assert two.empty.images("art") == gone


def test_a_library_is_not_changed_until_it_is_restored_or_that_is_given_up(
    two: Two, folder: Path
) -> None:
    full, empty = two
    back_up(full, folder)
    with pytest.raises(BrokenOff):
        restore(empty, folder, break_off)
    plan = {"models": ["phash@1"]}
    problem = empty.client.put("/v1/libraries/art", json=plan).json
    assert problem["type"].endswith("library-conflict")
    assert "is being restored" in problem["detail"]
    given_up = empty.client.post("/v1/libraries/art/rollback").json
    assert (given_up["restoring"], len(empty.images("art"))) == (None, 3)
    assert empty.client.put("/v1/libraries/art", json=plan).status_code == 200


def test_a_service_that_lacks_what_it_had_is_not_put_in_place_of_its_backup(
    two: Two, folder: Path
) -> None:
    full, empty = two
    back_up(full, folder)
    empty.add("default", {"its own.png": {}})
    for _ in range(2):
        with pytest.raises(BadBackup, match="has none of the images that are in"):
            back_up(empty, folder)
    with pytest.raises(BrokenOff):
        restore(empty, folder, break_off, art="art")
    with pytest.raises(LibraryDamaged, match="'art' is not restored whole yet"):
        back_up(empty, folder)
    assert restore(empty, folder, art="art").n_there == 3
    full.runtime.redis.flushdb()
    full.runtime.publish()
    with pytest.raises(LibraryDamaged, match="lost the images of library 'art'"):
        back_up(full, folder.with_name("another"))
    with pytest.raises(LibraryConflict, match="already a library 'default'"):
        restore(full, folder, default="default")
    for name in ("art", "default"):
        run_job(full, embed_by(full.settings)(full.runtime.catalog.library(name)))
    assert back_up(full, folder).n_images == 5


def test_no_power_cut_leaves_a_head_without_all_that_it_names(
    two: Two, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder.mkdir()
    disk = Disk(monkeypatch, folder)
    n_heads = 0

    def look() -> None:
        nonlocal n_heads
        files = disk.after_power_cut()
        if HEAD in files:
            n_heads += 1
            assert_whole(files)

    disk.look = look
    back_up(two.full, folder)
    two.full.delete("art", image_id_of(picture_of("b.png")))
    two.full.add("art", {"new.png": {}})
    back_up(two.full, folder)
    assert n_heads > 10


def assert_whole(files: Mapping[str, bytes]) -> None:
    """Checks that all is there which a backup's head names."""
    head = BackupHead.model_validate_json(files[HEAD])
    contents = Contents.model_validate_json(files[key_of("contents", head.contents)])
    for model in contents.models.values():
        assert {key_of("models", one) for one in model.files.values()} <= files.keys()
    for page in (page for library in contents.libraries for page in library.pages):
        assert {key_of("vectors", one.sha256) for one in page.vectors.values()} <= files.keys()
        for image in read_records(files[key_of("records", page.records)], "any"):
            assert image_id_of(files[key_of("pictures", image.id)]) == image.id


def test_a_full_disk_ends_it_and_it_goes_on_once_there_is_room(two: Two, folder: Path) -> None:
    full, empty = two
    with disk_with_room_for(100), pytest.raises(OSError, match="File too large"):
        back_up(full, folder)
    assert back_up(full, folder).failures == []
    with disk_with_room_for(80), pytest.raises(OSError, match="File too large"):
        restore(empty, folder)
    restored = restore(empty, folder)
    assert restored.failures == []
    assert_same(full, empty, "art")
    for path in folder.glob("*/*/*"):
        assert path.name.partition(".")[0] == image_id_of(path.read_bytes())


def test_a_restore_that_broke_off_goes_on_and_no_other_may(
    two: Two, folder: Path, tmp_path: Path
) -> None:
    full, empty = two
    back_up(full, folder)
    with pytest.raises(BrokenOff):
        restore(empty, folder, break_off)
    assert empty.runtime.catalog.library("art").restoring
    full.add("default", {"later.png": {}})
    back_up(full, tmp_path / "other")
    with pytest.raises(LibraryConflict, match="already a library 'art', with 3 images"):
        restore(empty, tmp_path / "other", art="art")
    restored = restore(empty, folder)
    assert (restored.n_there, restored.n_restored) == (3, 2)
    assert_same(full, empty, "art")
    with pytest.raises(LibraryConflict, match="already a library 'art'"):
        restore(empty, folder, art="art")


@pytest.mark.parametrize("harm", [damage, truncate, remove])
def test_a_damaged_picture_is_named_and_the_rest_comes_back(
    two: Two, folder: Path, harm: Callable[[Path], None]
) -> None:
    full, empty = two
    back_up(full, folder)
    path = folder / key_of("pictures", image_id_of(picture_of("b.png")))
    harm(path)
    restored = restore(empty, folder)
    [failure] = restored.failures
    assert failure.startswith(str(path))
    assert failure.endswith("It is 'b.png'.")
    assert [one.name for one in empty.images("art").values()] == ["Été/写真 1.png", "c.png"]


@pytest.mark.parametrize("harm", [damage, truncate, remove])
def test_damaged_vectors_are_named_and_computed_again(
    two: Two, folder: Path, harm: Callable[[Path], None]
) -> None:
    full, empty = two
    back_up(full, folder)
    by_name = {one.name: one for one in contents_of(folder).libraries}
    path = folder / key_of("vectors", by_name["art"].pages[0].vectors["phash@1"].sha256)
    harm(path)
    restored = restore(empty, folder)
    assert restored.failures == []
    [note] = restored.notes
    assert note.startswith(str(path))
    assert (restored.n_lacking, restored.n_carried) == (3, 2 * 3 + 2)
    [job_id] = restored.jobs
    run_job(empty, job_id)
    assert empty.runtime.counts.n_pictures == 3
    assert_same(full, empty, "art")


def test_damaged_records_are_named_and_the_rest_comes_back(two: Two, folder: Path) -> None:
    back_up(two.full, folder)
    by_name = {one.name: one for one in contents_of(folder).libraries}
    path = folder / key_of("records", by_name["art"].pages[0].records)
    damage(path)
    restored = restore(two.empty, folder)
    [failure] = restored.failures
    assert failure.startswith(str(path))
    assert "3 images" in failure
    assert len(two.empty.images("default")) == 2


def test_a_damaged_list_of_contents_is_named(two: Two, folder: Path) -> None:
    back_up(two.full, folder)
    [path] = folder.glob("contents/*/*")
    damage(path)
    with pytest.raises(BadBackup, match=path.name):
        restore(two.empty, folder)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (
            '{"format": 2, "anything": 1}',
            "says format 2, and this version of Twinlens reads up to 1",
        ),
        ("{}", "cannot be read"),
        ("", "cannot be read"),
    ],
)
def test_a_head_that_is_no_head_is_refused(two: Two, folder: Path, text: str, said: str) -> None:
    back_up(two.full, folder)
    (folder / HEAD).write_text(text)
    for use in (back_up, restore):
        with pytest.raises(BadBackup, match=said):
            use(two.full, folder)


def test_what_is_damaged_in_a_backup_is_mended_where_it_is_asked_for(
    two: Two, folder: Path
) -> None:
    full, empty = two
    back_up(full, folder)
    for path in (*folder.glob("pictures/*/*"), *folder.glob("vectors/*/*")):
        damage(path)
    assert back_up(full, folder).n_copied == 0, "sizes are as they were"
    assert back_up(full, folder, is_verifying=True).n_copied == 5
    restored = restore(empty, folder)
    assert (restored.notes, restored.failures) == ([], [])
    assert_same(full, empty, "art")


def test_a_folder_with_something_else_is_not_touched(two: Two, folder: Path) -> None:
    folder.mkdir()
    (folder / "notes.txt").write_text("mine")
    with pytest.raises(BadBackup, match=r"is not empty, and no backup: there is notes\.txt in it"):
        back_up(two.full, folder)
    assert [path.name for path in folder.iterdir()] == ["notes.txt"]
    with pytest.raises(BadBackup, match="There is no folder"):
        restore(two.empty, folder / "nowhere")


def test_no_link_is_followed(two: Two, folder: Path, tmp_path: Path) -> None:
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    back_up(two.full, folder)
    [path, *_] = folder.glob("pictures/*/*")
    content = path.read_bytes()
    (elsewhere / path.name).write_bytes(content)
    path.unlink()
    path.symlink_to(elsewhere / path.name)
    with pytest.raises(BadBackup, match="no regular file"):
        back_up(two.full, folder)
    assert path.name in restore(two.empty, folder).failures[0]
    shutil.move(folder / "vectors", elsewhere)
    (folder / "vectors").symlink_to(elsewhere / "vectors")
    for use in (back_up, restore):
        with pytest.raises(BadBackup, match="vectors is no folder of a backup"):
            use(two.full, folder)


def test_one_at_a_time_uses_a_folder(two: Two, folder: Path) -> None:
    back_up(two.full, folder)
    with BackupFolder(folder).reading(), pytest.raises(BadBackup, match="is using"):
        back_up(two.full, folder)
    with BackupWriter(folder).writing(), pytest.raises(BadBackup, match="is using"):
        restore(two.empty, folder)
