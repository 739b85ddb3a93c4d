"""Formats whose metadata Pillow hands out: broken EXIF changes nothing, and nobody hears of it."""

from __future__ import annotations

import io
import struct
from typing import Any

import numpy as np
import pytest
from PIL import Image

from twinlens.models.pictures import open_picture

ORIENTATION = 0x0112
# Orientation 6, and 3,000 tags whose values are behind the end.
BROKEN_EXIF = (
    b"Exif\0\0II*\0\x08\0\0\0"
    + struct.pack("<H", 3001)
    + struct.pack("<HHIHH", ORIENTATION, 3, 1, 6, 0)
    + b"".join(struct.pack("<HHII", 0x1000 + i, 2, 1 << 20, 1 << 30) for i in range(3000))
    + bytes(4)
)


def save(kind: str, **options: Any) -> bytes:
    stream = io.BytesIO()
    Image.linear_gradient("L").resize((60, 40)).convert("RGB").save(stream, kind, **options)
    return stream.getvalue()


def avif_with(exif: bytes) -> bytes:
    """Pillow parses what it writes; so it writes something else, of which this takes the place."""
    other = Image.Exif()
    other[0x010F] = "x" * 2 * len(exif)
    content = save("AVIF", exif=other)
    place = content.find(b"MM\0*")
    return content[:place] + exif + content[place + len(exif) :]


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "AVIF"])
def test_thousands_of_broken_tags_warn_of_nothing(
    kind: str, recwarn: pytest.WarningsRecorder, caplog: pytest.LogCaptureFixture
) -> None:
    bare = BROKEN_EXIF.removeprefix(b"Exif\0\0")
    content = avif_with(bare) if kind == "AVIF" else save(kind, exif=BROKEN_EXIF)
    assert bare in content

    with caplog.at_level("INFO"):
        picture = open_picture(content)

    # In AVIF, a turn is a property of the picture, which EXIF may only repeat.
    assert picture.orientation == (1 if kind == "AVIF" else 6)
    assert (np.asarray(picture.stored) == np.asarray(open_picture(save(kind)).stored)).all()
    assert not recwarn.list
    assert not caplog.records


@pytest.mark.parametrize("orientation", range(1, 9))
def test_avif_is_turned_by_its_property(orientation: int) -> None:
    exif = Image.Exif()
    exif[ORIENTATION] = orientation

    assert open_picture(save("AVIF", exif=exif)).orientation == orientation


@pytest.mark.parametrize("kind", ["WEBP", "AVIF"])
def test_orientation_in_xmp_alone_is_not_applied_as_browsers_do_not(kind: str) -> None:
    assert open_picture(save(kind, xmp=b'<x tiff:Orientation="6"/>')).orientation == 1


@pytest.mark.parametrize(
    "exif",
    [
        b"Exif\0\0",
        b"Exif\0\0II*\0",
        b"Exif\0\0II*\0\xff\xff\xff\x7f",
        b"Exif\0\0junk",
        b"Exif\0\0MM\0*\0\0\0\x08\0\x01\x01\x12\0\x03\0\0\0\x09\0\0\0\x20",
    ],
)
def test_exif_without_an_end_is_none(exif: bytes) -> None:
    assert open_picture(save("WEBP", exif=exif)).orientation == 1
