"""BMP files written by hand."""

from __future__ import annotations

import struct
from collections.abc import Sequence

UNCOMPRESSED, RLE8, RLE4, BIT_FIELDS, JPEG = 0, 1, 2, 3, 4


def bmp(
    size: tuple[int, int],
    n_bits: int,
    rows: bytes,
    *,
    compression: int = UNCOMPRESSED,
    masks: Sequence[int] = (),
    palette: bytes = b"",
    n_header_bytes: int = 40,
) -> bytes:
    """Returns a file.

    Args:
        size: Width and height.
        n_bits: Of each pixel.
        rows: From the lowest, each filled up to 4 bytes.
        compression: As the format counts it.
        masks: Of red, green, blue and alpha, for BIT_FIELDS.
        palette: Four bytes a colour: blue, green, red, 0.
        n_header_bytes: Of the second header; 40 has masks behind it.
    """
    fields = (*size, 1, n_bits, compression, len(rows), 2835, 2835, len(palette) // 4, 0)
    head = struct.pack("<IiiHHIIiiII", n_header_bytes, *fields)
    head = (head + struct.pack(f"<{len(masks)}I", *masks)).ljust(n_header_bytes, b"\0")
    start = 14 + len(head) + len(palette)
    return struct.pack("<2sIHHI", b"BM", start + len(rows), 0, 0, start) + head + palette + rows
