"""Reads the header of any picture that is served."""

from __future__ import annotations

import re

from twinlens.models.decoders.bmp import open_bmp
from twinlens.models.decoders.directories import find_orientation
from twinlens.models.decoders.header import Header, load_whole, open_with_pillow
from twinlens.models.decoders.heif import open_heif
from twinlens.models.decoders.jpeg import open_jpeg
from twinlens.models.decoders.png import open_png
from twinlens.models.decoders.tiff import open_tiff

_OPENERS = {
    "JPEG": open_jpeg,
    "PNG": open_png,
    "TIFF": open_tiff,
    "BMP": open_bmp,
    "HEIF": open_heif,
}
# Says which item of the file is EXIF. Pillow would parse that, and warn of each tag that is broken.
# It is not missed: in AVIF a turn is a property of the picture, which EXIF may only repeat.
_AVIF_EXIF = re.compile(rb"(infe[\x02\x03]...(?:..|....)..)Exif", re.DOTALL)


def read_header(content: bytes, format_name: str) -> Header:
    """Reads the header of a file of a format, one of `formats.SERVED`.

    Raises:
        UnsupportedPicture: It is of a kind of the format that is not served.
        Exception: Whatever else a decoder raises for a broken file.
    """
    if opener := _OPENERS.get(format_name):
        return opener(content)
    if format_name == "AVIF":
        content = _AVIF_EXIF.sub(rb"\1skip", content, count=1)
    image = open_with_pillow(content, format_name)
    return Header(*image.size, load_whole(image), find_orientation(image.info.get("exif", b"")))
