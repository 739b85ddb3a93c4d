"""BMP: rare kinds are refused; those that Pillow takes for another are put right, or refused."""

from __future__ import annotations

import struct
from collections.abc import Callable
from typing import IO, TYPE_CHECKING

from twinlens.models.decoders.header import Header, Loaded, open_with_pillow
from twinlens.models.decoders.splice import splice
from twinlens.models.formats import unsupported

if TYPE_CHECKING:
    from PIL.ImageFile import ImageFile

# The oldest header has its fields in other places, and no number of colours.
_OLD_HEADER_BYTES = 12
_COLOURS_START, _COLOURS_END = 46, 50
# The bits of a pixel that Pillow takes for granted, once a palette has only greys.
_GREY_BITS = {"1": 1, "L": 8}
_COMPRESSION = 30
_RLE = {1, 2}
# Pillow's decoder of these is written in Python: half a second for a million pixels.
_RLE_COST = 10.0


def open_bmp(content: bytes) -> Header:
    """Reads the header of a BMP.

    Raises:
        UnsupportedPicture: Its compression, depth, bit masks or palette are of a rare kind.
    """
    is_old = content[14] == _OLD_HEADER_BYTES
    (n_bits,) = struct.unpack_from("<H", content, 24 if is_old else 28)
    try:
        image = open_with_pillow(_count_colours(content, is_old, n_bits), "BMP")
    except OSError as error:
        # Pillow's own list of what it reads. What is broken has another message.
        if str(error).startswith("Unsupported BMP"):
            raise unsupported(str(error).removeprefix("Unsupported ")) from error
        raise
    if _GREY_BITS.get(image.mode, n_bits) != n_bits:
        raise unsupported(f"BMP of {n_bits} bits with these greys as its palette")
    is_rle = not is_old and content[_COMPRESSION] in _RLE
    return Header(*image.size, _load_opaque(image), cost=_RLE_COST if is_rle else 1.0)


def _count_colours(content: bytes, is_old: bool, n_bits: int) -> IO[bytes]:
    """The file; of two colours, as if it did not count them: Pillow takes these for single bits."""
    n_colours = content[_COLOURS_START:_COLOURS_END]
    if is_old or n_bits not in (4, 8) or n_colours != b"\2\0\0\0":
        return splice([content])
    view = memoryview(content)
    return splice([view[:_COLOURS_START], bytes(4), view[_COLOURS_END:]])


def _load_opaque(image: ImageFile) -> Callable[[int], Loaded]:
    def load(least_px: int) -> Loaded:  # noqa: ARG001
        image.load()
        # Many programs name alpha and leave it empty. Nobody stores what cannot be seen.
        if image.mode == "RGBA" and image.getbbox(alpha_only=True) is None:
            image.putalpha(255)
        return image, image.size

    return load
