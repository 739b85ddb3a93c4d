"""What a file is, by its name and by its first bytes."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from twinlens.cli.upload.kinds import kind_by_head, kind_by_name, kind_of_folder, says_picture

REST = bytes(100)


@pytest.mark.parametrize(
    ("name", "head", "kind"),
    [
        ("a", b"\xff\xd8\xff\xe1" + REST, None),
        ("a.nef", b"\xff\xd8\xff\xe1" + REST, None),  # a JPEG, whatever it is called
        ("a.nef", b"II*\0" + REST, "raw photo"),
        ("a.DNG", b"MM\0*" + REST, "raw photo"),
        ("a", b"II*\0" + REST, None),
        ("a", b"FUJIFILMCCD-RAW" + REST, "raw photo"),
        ("a.cr3", b"\0\0\0\x18ftypcrx \0\0\0\1" + REST, "raw photo"),
        ("a", b"\0\0\0\x18ftypheic\0\0\0\0mif1heic" + REST, None),
        ("a", b"\0\0\0\x18ftypmif1\0\0\0\0mif1heic" + REST, None),
        ("a", b"\0\0\0\x18ftypavif\0\0\0\0mif1avif" + REST, None),
        ("a", b"\0\0\0\x18ftypisom\0\0\0\0isomavc1" + REST, "other file"),
        ("a", b"8BPS\0\1" + REST, "PSD picture"),
        ("a.jp2", b"\0\0\0\x0cjP  \r\n\x87\n" + REST, "JPEG 2000 picture"),
        ("a.jxl", b"\xff\x0a" + REST, "JPEG XL picture"),
        ("a.svg", b"<?xml version='1.0'?><svg" + REST, "drawing"),
        ("favicon.ico", b"\0\0\1\0" + REST, "icon"),
        ("a.psd", b"no picture", "PSD picture"),
        ("a.py", b"import os", "other file"),
        ("a", b"", "empty file"),
    ],
)
def test_the_first_bytes_decide_and_then_the_name(name: str, head: bytes, kind: str | None) -> None:
    assert kind_by_head(name, head) == kind


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("a.jpg", None),
        ("a", None),
        ("../a.jpg", None),
        (".a.jpg", "hidden file"),
        ("b/.cache/a.jpg", "hidden file"),
        (".DS_Store", "system file"),
        ("a.jpg.json", "sidecar"),
    ],
)
def test_what_is_no_picture_by_its_name_is_named(name: str, kind: str | None) -> None:
    assert kind_by_name(name) == kind


@pytest.mark.parametrize(
    ("name", "kind"),
    [("2019", None), ("a.txt", None), (".git", "hidden folder"), ("__MACOSX", "system folder")],
)
def test_folders_that_are_not_entered_are_named(name: str, kind: str | None) -> None:
    assert kind_of_folder(name) == kind


@pytest.mark.parametrize(
    ("name", "is_one"),
    [("a.JPG", True), ("a.b/c.heic", True), ("jpg", False), ("a.jpg.bak", False)],
)
def test_some_names_say_picture(name: str, is_one: bool) -> None:
    assert says_picture(name) is is_one


@given(st.text(), st.binary(max_size=600))
def test_any_file_is_something(name: str, head: bytes) -> None:
    kind = kind_by_head(name, head)
    assert kind is None or kind
    assert head or kind
