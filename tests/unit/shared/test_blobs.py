"""What is stored is there whole, or not at all, and survives a loss of power."""

from __future__ import annotations

import contextlib
import errno
import os
import shutil
import threading
import time
from typing import TYPE_CHECKING, Any, Literal

import pytest
from support.disk import Disk, disk_with_room_for
from support.servers import wait_until

from twinlens.shared.blobs import (
    CLOCK_TICK_S,
    BlobStore,
    image_id_of,
    image_key,
    journal_key,
    library_key,
    manifest_key,
    thumbnail_key,
)
from twinlens.shared.manifests import (
    read_heads,
    read_manifest,
    read_manifests,
    write_manifest,
)
from twinlens.shared.messages import ManifestItem, now
from twinlens.shared.redis.jobs import Job

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path
    from typing import BinaryIO

CONTENT = b"picture " * 1000
KEY = image_key("default", image_id_of(CONTENT))


@pytest.fixture
def disk(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Disk:
    return Disk(monkeypatch, tmp_path)


@pytest.fixture
def blobs(tmp_path: Path) -> BlobStore:
    return BlobStore(tmp_path / "data" / "blobs")  # made by the first picture


def files_in(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.rglob("*") if path.is_file())


def test_a_picture_that_is_stored_survives_a_power_cut(blobs: BlobStore, disk: Disk) -> None:
    blobs.put(KEY, CONTENT)
    assert disk.after_power_cut() == {f"data/blobs/{KEY}": CONTENT}


def test_each_of_many_pictures_survives_once_they_are_synced(blobs: BlobStore, disk: Disk) -> None:
    contents = {f"data/blobs/images/a/{n:02x}/{n}": b"%d" % n for n in range(40)}
    with blobs.batch() as batch:
        for path, content in contents.items():
            batch.put(path.removeprefix("data/blobs/"), content)
        batch.sync()
        assert disk.after_power_cut() == contents
        n_syncs = disk.n_syncs
        batch.sync()
        assert disk.n_syncs == n_syncs, "what is synced is not synced again"
        batch.put("images/a/00/late", b"late")
    assert disk.after_power_cut() == {**contents, "data/blobs/images/a/00/late": b"late"}


def test_a_picture_that_another_upload_has_not_synced_yet_survives_all_the_same(
    blobs: BlobStore, disk: Disk
) -> None:
    blobs.put(f"{KEY}-beside", b"so that the folder is there")
    with blobs.batch() as unfinished:
        unfinished.put(KEY, CONTENT)
        assert f"data/blobs/{KEY}" not in disk.after_power_cut()
        blobs.put(KEY, CONTENT)
        assert disk.after_power_cut()[f"data/blobs/{KEY}"] == CONTENT


def test_two_uploads_may_make_the_same_folder_at_once(
    blobs: BlobStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    really_make = os.mkdir

    def make_twice(path: Any, *args: Any, **options: Any) -> None:
        really_make(path, *args, **options)  # by the other upload, a moment before
        really_make(path, *args, **options)

    with monkeypatch.context() as patch:
        patch.setattr(os, "mkdir", make_twice)
        blobs.put(KEY, CONTENT)
    assert blobs.get(KEY) == CONTENT
    assert files_in(tmp_path) == [KEY.rpartition("/")[2]]


def test_a_picture_that_is_there_is_not_written_again(blobs: BlobStore, disk: Disk) -> None:
    for _ in range(2):
        blobs.put(KEY, CONTENT)
    assert len(disk.renamed) == 1


def test_a_picture_that_was_cut_short_is_written_anew(
    blobs: BlobStore, disk: Disk, tmp_path: Path
) -> None:
    blobs.put(KEY, CONTENT[:10])
    blobs.put(KEY, CONTENT)
    assert disk.after_power_cut() == {f"data/blobs/{KEY}": CONTENT}
    assert files_in(tmp_path) == [KEY.rpartition("/")[2]]


def test_a_picture_takes_its_place_in_one_step_of_one_file_system(
    blobs: BlobStore, disk: Disk
) -> None:
    blobs.put(KEY, CONTENT)
    [(beside, place)] = disk.renamed
    assert beside.parent == place.parent
    assert beside.name.startswith(".part-")


@pytest.mark.parametrize("old", [None, b"old"])
@pytest.mark.parametrize("step", ["write", "replace"])
def test_an_upload_that_broke_half_way_leaves_the_old_picture_whole(
    blobs: BlobStore, disk: Disk, tmp_path: Path, old: bytes | None, step: str
) -> None:
    if old is not None:
        blobs.put(KEY, old)
    before = files_in(tmp_path)
    if step == "replace":
        disk.fails_at = "replace"
    room_bytes = 1000 if step == "write" else 10**6
    with disk_with_room_for(room_bytes), pytest.raises(OSError, match=r"File too large|is full"):
        blobs.put(KEY, CONTENT)
    assert files_in(tmp_path) == before
    if old is not None:
        assert blobs.get(KEY) == old


def test_a_disk_that_cannot_sync_is_told(blobs: BlobStore, disk: Disk, tmp_path: Path) -> None:
    disk.fails_at = "fsync"
    with pytest.raises(OSError, match="is broken"):
        blobs.put(KEY, CONTENT)
    assert files_in(tmp_path) == [KEY.rpartition("/")[2]]
    assert blobs.get(KEY) == CONTENT


def test_a_picture_survives_if_it_is_posted_again_after_a_sync_that_failed(
    disk: Disk, tmp_path: Path
) -> None:
    """The folders are there by then, but nobody has synced them."""
    blobs = BlobStore(tmp_path)
    disk.fails_at = "fsync"
    with blobs.batch() as batch:
        batch.put(KEY, CONTENT)
        with pytest.raises(OSError, match="is broken"):
            batch.sync()
        disk.fails_at = None
        blobs.put(KEY, CONTENT)
        assert disk.after_power_cut() == {KEY: CONTENT}


def test_a_sync_that_failed_can_be_repeated(blobs: BlobStore, disk: Disk) -> None:
    with blobs.batch() as batch:
        batch.put(KEY, CONTENT)
        disk.fails_at = "fsync"
        with pytest.raises(OSError, match="is broken"):
            batch.sync()
        disk.fails_at = None
    assert disk.after_power_cut() == {f"data/blobs/{KEY}": CONTENT}


@pytest.mark.parametrize("fails_at", ["fsync", "replace", None])
def test_no_upload_leaves_threads_behind(
    blobs: BlobStore, disk: Disk, fails_at: Literal["fsync", "replace"] | None
) -> None:
    error = contextlib.nullcontext() if fails_at is None else pytest.raises(OSError, match="disk")
    with error, blobs.batch() as batch:
        batch.put(f"{KEY}-beside", CONTENT)
        batch.sync()
        disk.fails_at = fails_at
        batch.put(KEY, CONTENT)
    assert not [one for one in threading.enumerate() if one.name.startswith("blob-sync")]


def test_a_manifest_and_its_pictures_survive_once_it_is_written(
    blobs: BlobStore, disk: Disk
) -> None:
    job = Job(id="j", kind="bulk", library="art", created_at=now(), ttl_s=60)
    item = ManifestItem(name="a.jpg", image_id=image_id_of(CONTENT), n_bytes=len(CONTENT))
    with blobs.batch() as batch:
        batch.put(KEY, CONTENT)
        write_manifest(batch, job, 7, [item, item], is_last=True)
        kept = disk.after_power_cut()
        assert set(kept) == {f"data/blobs/{KEY}", "data/blobs/manifests/j/000007.jsonl"}
        head, items = read_manifest(blobs, "j", 7)
    assert (head.job_id, head.kind, head.library, head.chunk) == ("j", "bulk", "art", 7)
    assert head.is_last
    assert items == [item, item]


def test_a_file_among_manifests_that_is_none_is_left_out(blobs: BlobStore) -> None:
    job = Job(id="j", kind="bulk", library="art", created_at=now(), ttl_s=60)
    with blobs.batch() as batch:
        write_manifest(batch, job, 0, [], is_last=True)
    blobs.put(f"manifests/{job.id}/notes.txt", b"from somebody")
    blobs.put("manifests/another/notes.txt", b"from somebody")
    assert [head.chunk for head, _ in read_manifests(blobs, job.id)] == [0]
    assert [head.job_id for head in read_heads(blobs)] == [job.id]


def test_a_blob_is_removed_unless_it_was_put_again_since(blobs: BlobStore, tmp_path: Path) -> None:
    blobs.put(KEY, CONTENT)
    put_at = (tmp_path / "data" / "blobs" / KEY).stat().st_mtime
    # A file's time may be 10 ms late: its clock ticks so.
    for since in (put_at - 1, put_at, put_at + 0.009):
        blobs.delete(KEY, unless_touched_since=since)
        assert blobs.get(KEY) == CONTENT
    blobs.delete(KEY, unless_touched_since=put_at + 1)
    with pytest.raises(FileNotFoundError):
        blobs.open(KEY)
    for or_none in (None, put_at + 1):
        blobs.delete(KEY, unless_touched_since=or_none)  # it is gone already
    blobs.put(KEY, CONTENT)
    blobs.delete(KEY)
    assert files_in(tmp_path) == []


def test_a_blob_that_is_put_again_just_as_it_is_removed_is_there(
    blobs: BlobStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Who removes it has seen that it is old; who puts it again would only renew its time."""
    blobs.put(KEY, CONTENT)
    really_unlink = os.unlink
    others: list[threading.Thread] = []

    def unlink_late(*args: Any, **options: Any) -> None:
        monkeypatch.setattr(os, "unlink", really_unlink)
        others.append(threading.Thread(target=blobs.put, args=(KEY, CONTENT)))
        others[0].start()
        others[0].join(0.2)  # it goes as far as it can
        really_unlink(*args, **options)

    monkeypatch.setattr(os, "unlink", unlink_late)
    blobs.delete(KEY, unless_touched_since=time.time() + 1)
    others[0].join()
    assert blobs.get(KEY) == CONTENT


def test_a_blob_that_is_touched_counts_as_put_again(blobs: BlobStore) -> None:
    blobs.put(KEY, CONTENT)
    put_at = blobs.touched_at(KEY)
    assert put_at is not None
    wait_until(lambda: time.time() > put_at + 3 * CLOCK_TICK_S, 5)
    blobs.touch(KEY)
    blobs.delete(KEY, unless_touched_since=put_at + 2 * CLOCK_TICK_S)
    assert blobs.get(KEY) == CONTENT
    blobs.touch(f"{KEY}-none")
    assert blobs.touched_at(f"{KEY}-none") is None


def test_what_is_replaced_is_written_though_it_is_as_long(blobs: BlobStore, disk: Disk) -> None:
    for text in (b"old", b"new"):
        blobs.replace("libraries/art.json", text)
        assert disk.after_power_cut() == {"data/blobs/libraries/art.json": text}


def test_lines_that_are_added_survive_a_power_cut(blobs: BlobStore, disk: Disk) -> None:
    blobs.append("journal/art.jsonl", ["1", "2"])
    blobs.append("journal/art.jsonl", ["3"])
    [text] = disk.after_power_cut().values()
    assert text.split() == [b"1", b"2", b"3"]


def test_lines_that_were_cut_off_spoil_no_others(blobs: BlobStore) -> None:
    blobs.append("journal/art.jsonl", ["1"])
    with disk_with_room_for(8), pytest.raises(OSError, match=r"No space left|too large"):
        blobs.append("journal/art.jsonl", ["2" * 20])
    blobs.append("journal/art.jsonl", ["3"])
    assert blobs.get("journal/art.jsonl").split() == [b"1", b"2" * 4, b"3"]


JOURNAL = journal_key("art")


def keep_last(lines: Iterator[bytes], file: BinaryIO) -> None:
    """Writes the last line alone."""
    *_, last = lines
    file.write(last)


def test_what_is_rewritten_survives_a_power_cut(blobs: BlobStore, disk: Disk) -> None:
    blobs.append(JOURNAL, ["1", "2"])
    assert blobs.rewrite(JOURNAL, keep_last)
    assert disk.after_power_cut() == {f"data/blobs/{JOURNAL}": b"2\n"}
    blobs.append(JOURNAL, ["3"])
    [text] = disk.after_power_cut().values()
    assert text.split() == [b"2", b"3"]


def test_lines_that_are_added_as_a_file_is_rewritten_come_behind(
    blobs: BlobStore, disk: Disk
) -> None:
    def write_late(lines: Iterator[bytes], file: BinaryIO) -> None:
        blobs.append(JOURNAL, ["3"])
        keep_last(lines, file)

    blobs.append(JOURNAL, ["1", "2"])
    assert blobs.rewrite(JOURNAL, write_late)
    [text] = disk.after_power_cut().values()
    assert text.split() == [b"2", b"3"]


def test_lines_that_are_added_just_as_the_rewritten_file_takes_its_place_come_behind(
    blobs: BlobStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    adding = threading.Thread(target=blobs.append, args=(JOURNAL, ["3"]))
    copy = shutil.copyfileobj

    def copy_late(*args: Any) -> None:
        copy(*args)
        adding.start()
        adding.join(0.2)  # it has to wait

    blobs.append(JOURNAL, ["1", "2"])
    monkeypatch.setattr(shutil, "copyfileobj", copy_late)
    assert blobs.rewrite(JOURNAL, keep_last)
    adding.join()
    assert blobs.get(JOURNAL).split() == [b"2", b"3"]


def test_nobody_rewrites_what_another_has_rewritten_or_removed(
    blobs: BlobStore, tmp_path: Path
) -> None:
    def write_after_another(lines: Iterator[bytes], file: BinaryIO) -> None:
        assert blobs.rewrite(JOURNAL, keep_last)
        blobs.append(JOURNAL, ["3"])
        keep_last(lines, file)

    def write_after_removal(lines: Iterator[bytes], file: BinaryIO) -> None:
        blobs.delete(JOURNAL)
        keep_last(lines, file)

    blobs.append(JOURNAL, ["1", "2"])
    assert not blobs.rewrite(JOURNAL, write_after_another)
    assert blobs.get(JOURNAL).split() == [b"2", b"3"]
    assert not blobs.rewrite(JOURNAL, write_after_removal)
    assert files_in(tmp_path) == []
    with pytest.raises(FileNotFoundError):
        blobs.rewrite(JOURNAL, keep_last)


def test_what_cannot_be_rewritten_is_as_it_was(blobs: BlobStore, tmp_path: Path) -> None:
    def write_much(lines: Iterator[bytes], file: BinaryIO) -> None:
        file.writelines(20 * [*lines])

    blobs.append(JOURNAL, ["1", "2"])
    before = blobs.get(JOURNAL)
    with disk_with_room_for(20), pytest.raises(OSError, match=r"No space left|too large"):
        blobs.rewrite(JOURNAL, write_much)
    assert blobs.get(JOURNAL) == before
    assert files_in(tmp_path) == ["art.jsonl"]


def test_where_no_folder_can_be_locked_nothing_is_rewritten(
    blobs: BlobStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object) -> None:
        raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))

    blobs.append(JOURNAL, ["1", "2"])
    before = blobs.get(JOURNAL)
    monkeypatch.setattr("fcntl.flock", refuse)
    assert not blobs.rewrite(JOURNAL, keep_last)
    assert blobs.get(JOURNAL) == before


def test_names_are_those_of_files_that_are_whole(blobs: BlobStore) -> None:
    assert blobs.names("libraries") == []
    for name in ("b", "a", ".part-1"):
        blobs.put(f"libraries/{name}", b"")
    assert blobs.names("libraries") == ["a", "b"]


def test_a_librarys_pictures_are_removed_and_no_others(blobs: BlobStore, tmp_path: Path) -> None:
    image_id = image_id_of(CONTENT)
    for library in ("art", "cars"):
        blobs.put(image_key(library, image_id), CONTENT)
        blobs.put(thumbnail_key(library, image_id), b"small")
        blobs.append(journal_key(library), ["1"])
        blobs.replace(library_key(library), b"{}")
    blobs.delete_library("art")
    blobs.delete_library("art")  # as its task does that was begun anew
    assert files_in(tmp_path) == [image_id, f"{image_id}.jpg", "cars.json", "cars.jsonl"]
    assert blobs.get(image_key("cars", image_id)) == CONTENT
    assert blobs.get(thumbnail_key("cars", image_id)) == b"small"


def test_a_library_may_be_removed_by_two_at_once(
    blobs: BlobStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Both go through a folder, and find that the other has removed what is in it."""
    really_unlink = os.unlink
    for name in ("a", "b", "c"):
        blobs.put(image_key("art", image_id_of(name.encode())), CONTENT)

    def unlink_after_the_other(*args: Any, **options: Any) -> None:
        monkeypatch.setattr(os, "unlink", really_unlink)
        blobs.delete_library("art")
        really_unlink(*args, **options)

    monkeypatch.setattr(os, "unlink", unlink_after_the_other)
    blobs.delete_library("art")
    assert files_in(tmp_path) == []


@pytest.mark.parametrize(
    "library_id", ["", ".", "..", "../thumbnails", "/nonexistent/twinlens", "a/b", "art\n"]
)
def test_no_id_leads_to_another_folder(blobs: BlobStore, tmp_path: Path, library_id: str) -> None:
    blobs.put(KEY, CONTENT)
    for find in (
        lambda: blobs.delete_library(library_id),
        lambda: image_key(library_id, image_id_of(CONTENT)),
        lambda: thumbnail_key("default", library_id),
        lambda: manifest_key(library_id, 0),
        lambda: journal_key(library_id),
        lambda: library_key(library_id),
        lambda: blobs.delete_manifests(library_id),
    ):
        with pytest.raises(ValueError, match="is no id"):
            find()
    assert files_in(tmp_path) == [image_id_of(CONTENT)]


def test_what_cannot_be_removed_is_told(blobs: BlobStore, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: Any, **__: Any) -> None:
        raise PermissionError(errno.EACCES, "not yours")

    blobs.put(image_key("art", image_id_of(CONTENT)), CONTENT)
    with monkeypatch.context() as broken:
        broken.setattr(os, "unlink", refuse)
        with pytest.raises(PermissionError):
            blobs.delete_library("art")
    assert blobs.get(image_key("art", image_id_of(CONTENT))) == CONTENT
