"""First bytes: what is told by name though it is not served, and what only looks like that."""

from __future__ import annotations

import pytest

from twinlens.models.formats import find_format
from twinlens.shared.errors import UnsupportedPicture

REST = bytes(64)


@pytest.mark.parametrize("start", [b"II+\0\x08\0\0\0", b"MM\0+\0\x08\0\0"])
def test_bigtiff_is_told_by_name(start: bytes) -> None:
    with pytest.raises(UnsupportedPicture, match="not supported: BigTIFF"):
        find_format(start + REST)


@pytest.mark.parametrize(
    "start",
    [
        b"II*\0\x10\0\0\0CR\x02\0",
        b"\0\0\0\x18ftypcrx \0\0\0\1crx isom",
        b"IIRO\x08\0\0\0",
        b"IIRS\x08\0\0\0",
        b"MMOR\0\0\0\x08",
        b"IIU\0\x18\0\0\0",
        b"FUJIFILMCCD-RAW 0201",
        b"II\x1a\0\0\0HEAPCCDR",
        b"\0MRM",
        b"FOVb",
    ],
)
def test_a_cameras_raw_file_is_told_by_name(start: bytes) -> None:
    with pytest.raises(UnsupportedPicture, match="not supported: a camera's raw file"):
        find_format(start + REST)


@pytest.mark.parametrize(
    ("start", "name"),
    [
        (b"II*\0\x10\0\0\0CRACKLE", "TIFF"),
        (b"\0\0\0\x18ftypheic\0\0\0\0mif1heic", "HEIF"),
        (b"\0\0\0\x18ftypheix\0\0\0\0mif1heix", "HEIF"),
        (b"\0\0\0\x18ftypmif1\0\0\0\0mif1heic", "HEIF"),
        (b"\0\0\0\x18ftypmif1\0\0\0\0mif1avif", "AVIF"),
        (b"\0\0\0\x1cftypavif\0\0\0\0mif1miaf", "AVIF"),
        (b"\0\0\0\x18ftypmsf1\0\0\0\0hevc", "HEIF"),
    ],
)
def test_what_begins_alike_is_told_apart(start: bytes, name: str) -> None:
    assert find_format(start + REST) == name


@pytest.mark.parametrize(
    "start", [b"\0\0\0\x18ftypisom\0\0\0\0mp42", b"\0\0\0\x18ftypqt  ", b"\0\0\0\x10ftypjxl "]
)
def test_videos_are_no_pictures(start: bytes) -> None:
    with pytest.raises(UnsupportedPicture, match="no picture type that is served"):
        find_format(start + REST)
