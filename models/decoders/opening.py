"""Reads the header of any picture that is served."""

from __future__ import annotations

import io
import re

from twinlens.models.decoders.bmp import open_bmp
from twinlens.models.decoders.directories import find_orientation
from twinlens.models.decoders.header import Header, load_whole, open_with_pillow
from twinlens.models.decoders.heif import open_heif
from twinlens.models.decoders.jpeg import open_jpeg
from twinlens.models.decoders.png import open_png
from twinlens.models.decoders.splice import splice
from twinlens.models.decoders.tiff import open_tiff

_OPENERS = {
    "JPEG": open_jpeg,
    "PNG": open_png,
    "TIFF": open_tiff,
    "BMP": open_bmp,
    "HEIF": open_heif,
}
# These decode in one call, which nothing ends, and hold a picture three or four times meanwhile.
_COSTS = {"WEBP": 3.0, "AVIF": 3.0}
# Says which item of the file is EXIF. Pillow would parse that, and warn of each tag that is broken.
# It is not missed: in AVIF a turn is a property of the picture, which EXIF may only repeat.
_AVIF_EXIF = re.compile(rb"(infe[\x02\x03]...(?:..|....)..)Exif", re.DOTALL)


def read_header(content: bytes, format_name: str) -> Header:
    """Reads the header of a file of a format, one of `formats.SERVED`.

    Raises:
        UnsupportedPicture: It is of a kind of the format that is not served.
        PictureTooLarge: It has more parts than are read.
        Exception: Whatever else a decoder raises for a broken file.
    """
    if opener := _OPENERS.get(format_name):
        return opener(content)
    if format_name == "AVIF":
        content = _AVIF_EXIF.sub(rb"\1skip", content, count=1)
    if cost := _COSTS.get(format_name):
        image = open_with_pillow(io.BytesIO(content), format_name)
        orientation = find_orientation(image.info.get("exif", b""))
        return Header(*image.size, load_whole(image), orientation, cost=cost)
    image = open_with_pillow(splice([content]), format_name)
    return Header(*image.size, load_whole(image))
