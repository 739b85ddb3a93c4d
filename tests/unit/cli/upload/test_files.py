"""Which files are uploaded, and in which batches."""

from __future__ import annotations

import os
import tracemalloc
import zipfile
from pathlib import Path, PurePath
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from twinlens.cli.errors import CommandFailed
from twinlens.cli.upload.coco import Annotations
from twinlens.cli.upload.files import (
    PictureFile,
    Unreadable,
    archive_type,
    find_files,
    find_pictures,
    pictures_in_zip,
)
from twinlens.cli.upload.plan import Plan, make_batches


def test_pictures_and_archives_are_told_apart_and_named_once(tmp_path: Path) -> None:
    for name in ("b.JPG", "a.png", ".c.jpg", "notes.txt", "more.zip", "x.tar.GZ", "l.ndjson"):
        (tmp_path / name).touch()
    (tmp_path / "below").mkdir()
    (tmp_path / "below" / "d.webp").touch()
    names = ("a.png", "notes.txt", "more.zip", "x.tar.GZ", "l.ndjson", "below", "a.png")
    files = find_files([tmp_path, *(tmp_path / name for name in names)])
    # What is named is sent, whatever it is called: the service says what it thinks of it.
    assert [path.name for path in files.pictures] == ["a.png", "b.JPG", "d.webp", "notes.txt"]
    assert [path.name for path in files.archives] == ["l.ndjson", "more.zip", "x.tar.GZ"]


def test_nothing_to_upload_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(CommandFailed, match="there is no picture in"):
        find_files([tmp_path])
    with pytest.raises(CommandFailed, match="there is no picture in"):
        Plan([tmp_path], None).measure()


@pytest.mark.parametrize(
    "suffix", ["jpg", "jpeg", "jpe", "png", "gif", "webp", "tif", "tiff", "bmp", "avif", "TIFF"]
)
def test_pictures_of_every_format_are_found_in_a_folder(tmp_path: Path, suffix: str) -> None:
    (tmp_path / f"a.{suffix}").touch()
    (tmp_path / suffix).touch()
    (tmp_path / f"{suffix}.txt").touch()
    assert [path.name for path in find_pictures([tmp_path])] == [f"a.{suffix}"]


@pytest.mark.parametrize(
    ("name", "media_type"),
    [
        ("a.zip", "application/zip"),
        ("a.b.ZIP", "application/zip"),
        ("a.tar", "application/x-tar"),
        ("a.tar.gz", "application/gzip"),
        ("a.tgz", "application/gzip"),
        ("a.tar.zst", "application/zstd"),
        ("a.ndjson", "application/x-ndjson"),
        ("a.gz", None),
        ("zip", None),
        ("a.jpg", None),
    ],
)
def test_an_archive_is_known_by_its_name(name: str, media_type: str | None) -> None:
    assert archive_type(Path(name)) == media_type


def test_hidden_folders_are_passed_over_and_links_are_not_followed(tmp_path: Path) -> None:
    photos, elsewhere = tmp_path / "photos", tmp_path / "elsewhere"
    for folder in (photos / ".git", photos / "below" / ".cache", photos / "a.jpg", elsewhere):
        folder.mkdir(parents=True)
        (folder / "b.jpg").touch()
    (photos / "below" / "c.jpg").touch()
    (photos / "round").symlink_to(photos)
    (photos / "linked.jpg").symlink_to(elsewhere / "b.jpg")
    names = {str(path.relative_to(photos)) for path in find_pictures([photos])}
    assert names == {"a.jpg/b.jpg", "below/c.jpg", "linked.jpg"}


def test_a_folder_that_is_called_like_an_archive_is_a_folder(tmp_path: Path) -> None:
    (tmp_path / "photos.zip").mkdir()
    (tmp_path / "photos.zip" / "a.jpg").touch()
    files = find_files([tmp_path / "photos.zip"])
    assert ([path.name for path in files.pictures], files.archives) == (["a.jpg"], [])


def test_what_is_named_beside_its_folder_is_uploaded_once(tmp_path: Path) -> None:
    (tmp_path / "below").mkdir()
    for name in ("a.jpg", "b.jpg", "below/c.jpg"):
        (tmp_path / name).touch()
    paths = [tmp_path, tmp_path / "below", tmp_path / "a.jpg", tmp_path / "a.jpg"]
    assert sorted(path.name for path in find_pictures(paths)) == ["a.jpg", "b.jpg", "c.jpg"]
    assert Plan(paths, None).measure().n_pictures == 3


def test_what_is_uploaded_is_measured_before(tmp_path: Path) -> None:
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos" / "a.jpg").write_bytes(b"12345")
    (tmp_path / "photos" / "gone.jpg").symlink_to("nowhere")
    (tmp_path / "more.zip").write_bytes(b"123")
    paths = [tmp_path / "photos", tmp_path / "more.zip"]
    assert Plan(paths, None).measure() == (2, 8)
    assert Plan(paths[1:], None).measure() == (0, 3)


def test_why_there_is_no_picture_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def scandir(path: Path) -> Any:
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr(os, "scandir", scandir)
    with pytest.raises(CommandFailed) as raised:
        Plan([tmp_path], None).measure()
    assert raised.value.message.endswith(f"({tmp_path}: Permission denied)")


def test_a_batch_holds_no_more_than_is_held_in_memory() -> None:
    sizes = [40, 40, 10, 100, 1]
    sources = [source(str(n), size * 1024 * 1024) for n, size in enumerate(sizes)]
    assert [len(batch) for batch in make_batches(sources)] == [1, 2, 1, 1]
    assert [len(batch) for batch in make_batches([source("a")] * 600)] == [256, 256, 88]


def source(name: str, size: int = 1) -> PictureFile:
    return PictureFile(PurePath(name), size, lambda: b"x" * size)


@given(st.lists(st.integers(0, 50), max_size=40), st.integers(1, 8), st.integers(1, 100))
def test_batches_keep_all_files_in_order_and_under_both_limits(
    sizes: list[int], max_files: int, max_bytes: int
) -> None:
    sources = [source(str(n), size) for n, size in enumerate(sizes)]
    batches = list(make_batches(sources, max_files, max_bytes))
    assert [one for batch in batches for one in batch] == sources
    for batch in batches:
        assert 0 < len(batch) <= max_files
        assert len(batch) == 1 or sum(one.n_bytes for one in batch) <= max_bytes


def test_a_name_that_is_not_utf8_can_be_sent() -> None:
    assert source(os.fsdecode(b"\xe9t\xe9.jpg")).name == "\ufffdt\ufffd.jpg"


def test_memory_does_not_grow_with_the_folder(tmp_path: Path) -> None:
    def peak_bytes(folder: Path) -> int:
        plan = Plan([folder], None)
        tracemalloc.start()
        n_files = sum(len(batch) for batch in make_batches(plan.pictures(lambda _: None)))
        _, peak = tracemalloc.get_traced_memory()
        tracemalloc.stop()
        assert n_files == len(list(folder.iterdir()))
        return peak

    for name, n_files in (("few", 512), ("many", 3072)):
        (tmp_path / name).mkdir()
        for n in range(n_files):
            (tmp_path / name / f"{n}.jpg").touch()
    assert peak_bytes(tmp_path / "many") < 1.5 * peak_bytes(tmp_path / "few")


# Zip archives that are read on this side.


def test_pictures_of_a_zip_are_read_one_by_one(tmp_path: Path) -> None:
    path = tmp_path / "val.zip"
    with zipfile.ZipFile(path, "w") as archive:
        for name in ("val/1.jpg", "val/", "README.txt", "__MACOSX/._1.jpg", "2.PNG"):
            archive.writestr(name, f"bytes of {name}")
    pictures = list(pictures_in_zip(path))
    assert [(one.name, one.read()) for one in pictures] == [
        ("1.jpg", b"bytes of val/1.jpg"),
        ("2.PNG", b"bytes of 2.PNG"),
    ]
    assert pictures[0].path == path / "val" / "1.jpg"


def test_a_damaged_zip_entry_cannot_be_read_alone(tmp_path: Path) -> None:
    path = tmp_path / "val.zip"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("a.jpg", "first one")
        archive.writestr("b.jpg", "second one")
    path.write_bytes(path.read_bytes().replace(b"first one", b"first ONE", 1))
    bad, good = pictures_in_zip(path)
    with pytest.raises(Unreadable, match="CRC"):
        bad.read()
    assert good.read() == b"second one"


def test_an_entry_that_cannot_be_unpacked_is_told_alone(tmp_path: Path) -> None:
    path = tmp_path / "val.zip"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name in ("cut.jpg", "locked.jpg", "odd.jpg", "/good.jpg"):
            archive.writestr(name, name * 99)
        places = {one.filename: one.header_offset for one in archive.infolist()}
    content = bytearray(path.read_bytes())
    listing = content.index(b"PK\x01\x02")
    # Behind its header: what no deflated stream begins with.
    content[places["cut.jpg"] + 37 : places["cut.jpg"] + 41] = b"\xff" * 4
    for name, offset, value in (("locked.jpg", 8, 1), ("odd.jpg", 10, 99)):
        content[content.index(name.encode(), listing) - 46 + offset] = value
        content[places[name] + offset - 2] = value
    path.write_bytes(content)
    *bad, good = pictures_in_zip(path)
    reasons = []
    for one in bad:
        with pytest.raises(Unreadable) as raised:
            one.read()
        reasons.append(str(raised.value))
    assert ["decompress" in reasons[0], "encrypted" in reasons[1]] == [True, True]
    assert "compression" in reasons[2]
    assert good.read() == b"/good.jpg" * 99
    assert good.path == path / "good.jpg"
    assert good.n_bytes == 9 * 99


def test_what_is_no_zip_is_told(tmp_path: Path) -> None:
    (tmp_path / "no.zip").write_text("no archive")
    with pytest.raises(CommandFailed, match=r"no\.zip cannot be read as a zip archive"):
        Plan([tmp_path / "no.zip"], Annotations({"1.jpg": {"coco_id": 1}})).measure()


def test_annotations_of_other_pictures_are_refused(tmp_path: Path) -> None:
    (tmp_path / "1.jpg").touch()
    annotations = Annotations({"2.jpg": {"coco_id": 2}})
    with pytest.raises(CommandFailed, match="none of the 1 pictures is named"):
        Plan([tmp_path], annotations).measure()
    with pytest.raises(CommandFailed, match=r"unpack .*x\.tar first"):
        Plan([tmp_path, tmp_path / "x.tar"], annotations)


def test_a_folder_that_cannot_be_read_is_told(tmp_path: Path) -> None:
    (tmp_path / "photos").mkdir()
    for name in "abc":
        (tmp_path / "photos" / f"{name}.jpg").touch()
    totals_of: list[str] = []
    plan = Plan([tmp_path / "photos"], None)
    # As root every folder can be read, so one goes away meanwhile.
    (tmp_path / "photos" / "below").mkdir()
    sources = plan.pictures(lambda error: totals_of.append(str(error.filename)))
    next(sources)
    (tmp_path / "photos" / "below").rmdir()
    assert len(list(sources)) == 2
    assert totals_of == [str(tmp_path / "photos" / "below")]
