"""JPEG: codings that are refused by name, and metadata that changes nothing."""

from __future__ import annotations

import io
import struct

import numpy as np
import pytest
from PIL import Image
from support.photos import jpeg

from twinlens.models.cards import SHIPPED_CARDS
from twinlens.models.pictures import open_picture
from twinlens.shared.errors import BrokenPicture, UnsupportedPicture

ORIENTATION = 0x0112


@pytest.fixture(scope="module")
def photo() -> bytes:
    with Image.open(SHIPPED_CARDS / "golden" / "chelsea.png") as cat:
        return jpeg(cat.convert("RGB"))


def segment(marker: int, content: bytes) -> bytes:
    return struct.pack(">BBH", 0xFF, marker, len(content) + 2) + content


def with_segments(photo: bytes, *segments: bytes) -> bytes:
    return photo[:2] + b"".join(segments) + photo[2:]


def exif(*entries: tuple[int, int, int, int]) -> bytes:
    """EXIF of entries: tag, type, number of values, and a value or where it is."""
    listed = b"".join(struct.pack("<HHII", *entry) for entry in entries)
    return b"Exif\0\0II*\0\x08\0\0\0" + struct.pack("<H", len(entries)) + listed + bytes(4)


@pytest.mark.parametrize(
    ("marker", "why"),
    [
        (0xC3, "lossless JPEG"),
        (0xC5, "hierarchical JPEG"),
        (0xC7, "lossless JPEG"),
        (0xC9, "arithmetic-coded JPEG"),
        (0xCA, "arithmetic-coded JPEG"),
        (0xCB, "arithmetic-coded JPEG"),
        (0xF7, "JPEG-LS"),
    ],
)
def test_rare_codings_are_unsupported_and_told_by_name(photo: bytes, marker: int, why: str) -> None:
    with pytest.raises(UnsupportedPicture, match=f"not supported: {why}"):
        open_picture(photo.replace(b"\xff\xc0", bytes([0xFF, marker])))


@pytest.mark.parametrize("n_bits", [2, 12, 16])
def test_other_samples_than_of_8_bits_are_unsupported(photo: bytes, n_bits: int) -> None:
    place = photo.find(b"\xff\xc0") + 4

    with pytest.raises(UnsupportedPicture, match=f"not supported: {n_bits}-bit JPEG"):
        open_picture(photo[:place] + bytes([n_bits]) + photo[place + 1 :])


def test_two_channels_are_unsupported(photo: bytes) -> None:
    place = photo.find(b"\xff\xc0") + 9

    with pytest.raises(UnsupportedPicture, match="JPEG of 2 channels"):
        open_picture(photo[:place] + b"\2" + photo[place + 1 :])


def test_metadata_changes_no_pixel(photo: bytes) -> None:
    plain = np.asarray(open_picture(photo).stored)
    noisy = with_segments(
        photo,
        segment(0xE1, b"http://ns.adobe.com/xap/1.0/\0<x/>"),
        segment(0xE2, b"ICC_PROFILE\0\1\1junk"),
        segment(0xE2, b"MPF\0junk"),
        segment(0xED, b"Photoshop 3.0\x008BIMjunk"),
        segment(0xFE, b"a comment"),
        b"\xff\xff",
        b"\0between segments",
    )

    assert (np.asarray(open_picture(noisy).stored) == plain).all()


def test_what_says_how_colours_are_stored_is_kept() -> None:
    with Image.open(SHIPPED_CARDS / "golden" / "chelsea.png") as cat:
        inks = cat.convert("RGB").convert("CMYK")
    stream = io.BytesIO()
    inks.save(stream, "JPEG", comment=b"leads to a shorter file", quality=95)
    assert b"Adobe" in stream.getvalue()

    pixels = np.asarray(open_picture(stream.getvalue()).stored, np.int16)

    assert np.abs(pixels - np.asarray(inks.convert("RGB"), np.int16)).mean() < 3


def test_jfif_says_what_channels_are_whatever_they_are_called(photo: bytes) -> None:
    assert photo[2:4] == b"\xff\xe0"
    frame, scan = photo.find(b"\xff\xc0") + 10, photo.find(b"\xff\xda") + 5
    renamed = bytearray(with_segments(photo[:2], segment(0xFE, b"comment")) + photo[2:])
    shift = len(renamed) - len(photo)
    for i, letter in enumerate(b"RGB"):  # without JFIF, these would be red, green and blue
        renamed[shift + frame + 3 * i] = letter
        renamed[shift + scan + 2 * i] = letter

    pixels = np.asarray(open_picture(bytes(renamed)).stored)

    assert (pixels == np.asarray(open_picture(photo).stored)).all()


@pytest.mark.parametrize("orientation", range(1, 9))
def test_orientation_is_that_of_the_first_exif(photo: bytes, orientation: int) -> None:
    picture = open_picture(
        with_segments(
            photo,
            segment(0xE1, b"http://ns.adobe.com/xap/1.0/\0<x tiff:Orientation='7'/>"),
            segment(0xE1, exif((ORIENTATION, 3, 1, orientation), (ORIENTATION, 3, 1, 2))),
            segment(0xE1, exif((ORIENTATION, 3, 1, 3))),
        )
    )

    assert picture.orientation == orientation


def test_orientation_in_xmp_alone_is_not_applied_as_browsers_do_not(photo: bytes) -> None:
    xmp = segment(0xE1, b'http://ns.adobe.com/xap/1.0/\0<x tiff:Orientation="6"/>')

    assert open_picture(with_segments(photo, xmp)).orientation == 1
    for unsaid in (exif((0x010F, 2, 4, 0)), exif(), exif((ORIENTATION, 2, 1, 6))):
        both = with_segments(photo, segment(0xE1, unsaid), xmp)
        assert open_picture(both).orientation == 1


def test_thousands_of_broken_tags_warn_of_nothing(
    photo: bytes, recwarn: pytest.WarningsRecorder, caplog: pytest.LogCaptureFixture
) -> None:
    broken = [(tag, 2, 1 << 20, 1 << 30) for tag in range(0x1000, 0x1000 + 5000)]
    content = with_segments(photo, segment(0xE1, exif((ORIENTATION, 3, 1, 6), *broken)))

    with caplog.at_level("INFO"):
        picture = open_picture(content)

    assert picture.orientation == 6
    assert not recwarn.list
    assert not caplog.records


@pytest.mark.parametrize("n_bytes", [3, 20, 150, 400])
def test_a_file_that_ends_before_its_pixels_is_broken(photo: bytes, n_bytes: int) -> None:
    with pytest.raises(BrokenPicture):
        open_picture(photo[:n_bytes])
