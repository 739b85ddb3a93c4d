"""HEIF, which phones take photos in: by pillow-heif, where it is installed.

It is called for files that begin like HEIF, and not registered with Pillow: other formats are
decoded as without it. Why it is this library: docs/decisions/0016-pixels.md.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from functools import partial
from math import ceil, prod
from typing import TYPE_CHECKING

from PIL import Image

from twinlens.models.decoders.flatten import STRIP_PIXELS, to_rgb
from twinlens.models.decoders.header import Header, Loaded
from twinlens.models.formats import unsupported
from twinlens.shared.errors import UnsupportedPicture

if TYPE_CHECKING:
    from pillow_heif import HeifImage

_BOX_BYTES = 8
# At the top of a file; cameras write less than ten.
_MOST_BOXES = 64
# The size of an image, or of a tile of one, before it is cropped and turned.
_SIZE = re.compile(rb"ispe\0{4}(.{4})(.{4})", re.DOTALL)


def open_heif(content: bytes) -> Header:
    """Reads the header of the primary image, which libheif turns as it is looked at.

    Raises:
        UnsupportedPicture: pillow-heif is not installed, or the pixels are of a rare kind.
        ValueError: The file was cut off; libheif would leave out what is missing.
    """
    try:
        import pillow_heif  # noqa: PLC0415 - an extra
    except ImportError as error:
        raise UnsupportedPicture(
            "not supported by this installation: HEIF; send the picture as JPEG, or install what "
            'reads it: pip install "twinlens[heif]"'
        ) from error
    coded_size = _largest_size(content)
    file = pillow_heif.open_heif(content)
    image = file[file.primary_index]
    return Header(*image.size, partial(_load, image), coded_size=coded_size)


def _largest_size(content: bytes) -> tuple[int, int] | None:
    """Of all images and tiles: what is decoded may be larger than what is shown of it."""
    sizes = [
        (int.from_bytes(width, "big"), int.from_bytes(height, "big"))
        for name, box in _boxes(content)
        if name != b"mdat"
        for width, height in _SIZE.findall(box)
    ]
    return max(sizes, key=prod, default=None)


def _boxes(content: bytes) -> Iterator[tuple[bytes, memoryview]]:
    """What a file consists of, at its top; all are whole."""
    view, start = memoryview(content), 0
    for _ in range(_MOST_BOXES):
        n_bytes = int.from_bytes(view[start : start + 4], "big")
        if n_bytes == 1:  # more than fits there
            n_bytes = int.from_bytes(view[start + 8 : start + 16], "big")
        end = start + max(n_bytes, _BOX_BYTES) if n_bytes else len(content)
        if end > len(content):
            raise ValueError("a HEIF whose last box was cut off")
        yield bytes(view[start + 4 : start + 8]), view[start:end]
        start = end
        if start == len(content):
            return
    raise ValueError("a HEIF of too many boxes")


def _load(image: HeifImage, least_px: int) -> Loaded:
    """Decodes, and shrinks strip by strip: what is larger than wanted does not become an image."""
    try:
        pixels = memoryview(image.data)
    except (SyntaxError, RuntimeError) as error:
        # As pillow-heif tells it that the file is whole, and coded otherwise than by HEVC.
        if isinstance(error, SyntaxError) or "compression format" in str(error):
            raise unsupported("HEIF with other contents than HEVC") from error
        raise
    width, height = image.size
    factor = max(1, min(image.size) // least_px)
    shrunk = Image.new("RGB", (ceil(width / factor), ceil(height / factor)))
    n_rows = factor * max(1, STRIP_PIXELS // (width * factor))
    for top in range(0, height, n_rows):
        size = (width, min(n_rows, height - top))
        rows = pixels[top * image.stride : (top + size[1]) * image.stride]
        strip = Image.frombytes(image.mode, size, rows, "raw", image.mode, image.stride)
        shrunk.paste(to_rgb(strip).reduce(factor), (0, top // factor))
    return shrunk, (width / factor, height / factor)
