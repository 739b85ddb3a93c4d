"""What is uploaded, in which order and in which batches."""

from __future__ import annotations

import os
import tracemalloc
import zipfile
from io import BytesIO
from pathlib import Path, PurePath
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from twinlens.cli.errors import CommandFailed
from twinlens.cli.upload.annotations import Annotations
from twinlens.cli.upload.passed import PassedOver
from twinlens.cli.upload.picture_file import PictureFile
from twinlens.cli.upload.plan import Plan, make_batches


def test_what_is_uploaded_is_measured_before(tmp_path: Path) -> None:
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos" / "a.jpg").write_bytes(b"12345")
    (tmp_path / "photos" / "gone.jpg").symlink_to("nowhere")
    (tmp_path / "more.tar").write_bytes(b"123")
    paths = [tmp_path / "photos", tmp_path / "more.tar"]
    assert Plan(paths).measure() == (2, 8)
    assert Plan(paths[1:]).measure() == (0, 3)


def test_why_there_is_no_picture_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def scandir(path: Path) -> Any:
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr(os, "scandir", scandir)
    with pytest.raises(CommandFailed) as raised:
        Plan([tmp_path]).measure()
    assert raised.value.message.endswith(f"({tmp_path}: Permission denied)")


def test_a_batch_holds_no_more_than_is_held_in_memory() -> None:
    sizes = [40, 40, 10, 100, 1]
    sources = [picture(str(n), size * 1024 * 1024) for n, size in enumerate(sizes)]
    assert [len(batch) for batch in make_batches(sources)] == [1, 2, 1, 1]
    assert [len(batch) for batch in make_batches([picture("a")] * 600)] == [256, 256, 88]


def picture(name: str, size: int = 1) -> PictureFile:
    return PictureFile(PurePath(name), PurePath(name), size, lambda: BytesIO(b"x" * size))


@given(st.lists(st.integers(0, 50), max_size=40), st.integers(1, 8), st.integers(1, 100))
def test_batches_keep_all_files_in_order_and_under_both_limits(
    sizes: list[int], max_files: int, max_bytes: int
) -> None:
    sources = [picture(str(n), size) for n, size in enumerate(sizes)]
    batches = list(make_batches(sources, max_files, max_bytes))
    assert [one for batch in batches for one in batch] == sources
    for batch in batches:
        assert 0 < len(batch) <= max_files
        assert len(batch) == 1 or sum(one.n_bytes for one in batch) <= max_bytes


def test_memory_does_not_grow_with_the_folder(tmp_path: Path) -> None:
    def peak_bytes(folder: Path, n_files: int) -> int:
        folder.mkdir()
        for n in range(n_files):
            # Pictures by their names, or by what they hold; the others are none.
            content = b"\xff\xd8\xff\xe0" if n % 2 else b"none"
            (folder / (f"{n}.jpg" if n % 3 else f"{n}")).write_bytes(content)
        plan = Plan([folder])
        tracemalloc.start()
        pictures = plan.pictures(lambda _: None, PassedOver())
        n_pictures = sum(len(batch) for batch in make_batches(pictures))
        _, peak = tracemalloc.get_traced_memory()
        tracemalloc.stop()
        assert n_pictures == sum(bool(n % 3 or n % 2) for n in range(n_files))
        return peak

    assert peak_bytes(tmp_path / "many", 3600) < 1.5 * peak_bytes(tmp_path / "few", 600)


def test_annotations_of_other_pictures_are_refused(tmp_path: Path) -> None:
    (tmp_path / "1.jpg").touch()
    annotations = Annotations([("2.jpg", {"coco_id": 2})])
    with pytest.raises(CommandFailed, match="none of the 1 pictures is named"):
        Plan([tmp_path], annotations).measure()
    with pytest.raises(CommandFailed, match=r"unpack .*x\.tar first"):
        Plan([tmp_path, tmp_path / "x.tar"], annotations)


def test_pictures_of_folders_and_zips_have_what_is_said_of_them(tmp_path: Path) -> None:
    (tmp_path / "val").mkdir()
    (tmp_path / "val" / "1.jpg").touch()
    with zipfile.ZipFile(tmp_path / "val.zip", "w") as archive:
        archive.writestr("val/2.jpg", b"")
        archive.writestr("val/3.jpg", b"")
    annotations = Annotations([(f"{n}.jpg", {"coco_id": n}) for n in (1, 2, 4)])
    plan = Plan([tmp_path / "val", tmp_path / "val.zip"], annotations)
    assert plan.measure() == (3, 0)
    pictures = list(plan.pictures(lambda _: None, PassedOver()))
    assert {picture.name: picture.metadata for picture in pictures} == {
        "1.jpg": {"coco_id": 1},
        "val/2.jpg": {"coco_id": 2},
        "val/3.jpg": {},
    }
    assert str(annotations).splitlines() == [
        "annotations: 2 pictures with, 1 without",
        "  1 image of the file without a picture here",
    ]
