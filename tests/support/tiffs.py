"""TIFF files written by hand, of any kind that the format knows: what Pillow cannot write."""

from __future__ import annotations

import struct
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

NEW_SUBFILE_TYPE, SUBFILE_TYPE, ORIENTATION = 254, 255, 274
WIDTH, HEIGHT, BITS, COMPRESSION, PHOTOMETRIC, FILL_ORDER = 256, 257, 258, 259, 262, 266
STRIP_OFFSETS, N_SAMPLES, ROWS_PER_STRIP, STRIP_BYTES, PLANES = 273, 277, 278, 279, 284
PREDICTOR, COLOUR_MAP, SUB_DIRECTORIES, EXTRA, FORMAT, SUBSAMPLING = 317, 320, 330, 338, 339, 530
TILE_WIDTH, TILE_HEIGHT, TILE_OFFSETS, TILE_BYTES = 322, 323, 324, 325
WHITE_IS_ZERO, BLACK_IS_ZERO, RGB, PALETTE, CMYK, YCBCR = 0, 1, 2, 3, 5, 6

# Numbers become SHORT or LONG, whichever they fit; text and other bytes are UNDEFINED.
Values = int | Sequence[int] | bytes
Tags = Mapping[int, Values]


@dataclass(frozen=True)
class Page:
    tags: Tags
    strips: Sequence[bytes]
    # Its sub-directories.
    below: Sequence[Page] = ()


def page(
    samples: NDArray[Any],
    n_bits: int = 8,
    tags: Tags | None = None,
    *,
    order: str = "<",
    strips: Sequence[bytes] | None = None,
    below: Sequence[Page] = (),
) -> Page:
    """Returns a page of [height, width] or [height, width, channels].

    Args:
        samples: Not larger than `n_bits` allow.
        n_bits: Of each sample.
        tags: Added to those that the samples give, or in place of them.
        order: That of samples of more than 8 bits, as `struct` calls it.
        strips: The pixels where they are coded; by default all rows, as they are.
        below: Its sub-directories.
    """
    height, width, n_channels = samples.reshape(*samples.shape[:2], -1).shape
    made = {
        WIDTH: width,
        HEIGHT: height,
        BITS: [n_bits] * n_channels,
        COMPRESSION: 1,
        PHOTOMETRIC: RGB if n_channels >= 3 else BLACK_IS_ZERO,
        N_SAMPLES: n_channels,
        ROWS_PER_STRIP: height,
    }
    return Page(made | dict(tags or {}), strips or [pack(samples, n_bits, order)], below)


def pack(samples: NDArray[Any], n_bits: int, order: str = "<") -> bytes:
    """Returns rows of samples as they are stored: each row begins with a byte of its own."""
    rows = samples.reshape(len(samples), -1)
    if n_bits in (8, 16, 32):
        kind = samples.dtype.kind if samples.dtype.kind in "if" else "u"
        return rows.astype(f"{order}{kind}{n_bits // 8}").tobytes()
    bits = (rows[..., np.newaxis] >> np.arange(n_bits - 1, -1, -1)) & 1
    return np.packbits(bits.reshape(len(rows), -1).astype(np.uint8), axis=1).tobytes()


def tiff(*pages: Page, order: str = "<") -> bytes:
    """Returns a file of pages, in the byte order that `struct` calls so."""
    file = bytearray(b"II*\0" if order == "<" else b"MM\0*") + bytes(4)
    link = 4
    for each in pages:
        start, end = _append(file, each, order)
        struct.pack_into(order + "I", file, link, start)
        link = end - 4
    return bytes(file)


def _append(file: bytearray, page: Page, order: str) -> tuple[int, int]:
    """Writes a page; returns where its directory starts and ends."""
    starts = [_add(file, strip) for strip in page.strips]
    n_bytes = [len(strip) for strip in page.strips]
    where = (TILE_OFFSETS, TILE_BYTES) if TILE_WIDTH in page.tags else (STRIP_OFFSETS, STRIP_BYTES)
    tags = dict(page.tags) | dict(zip(where, (starts, n_bytes), strict=True))
    if page.below:
        tags[SUB_DIRECTORIES] = [_append(file, each, order)[0] for each in page.below]
    entries = b"".join(_entry(file, tag, tags[tag], order) for tag in sorted(tags))
    start = _add(file, struct.pack(order + "H", len(tags)) + entries + bytes(4))
    return start, start + 2 + len(entries) + 4


def _entry(file: bytearray, tag: int, values: Values, order: str) -> bytes:
    if isinstance(values, bytes):
        kind, n_values, content = 7, len(values), values
    else:
        numbers = [values] if isinstance(values, int) else list(values)
        kind, code = (3, "H") if max(numbers) < 1 << 16 else (4, "I")
        n_values, content = len(numbers), struct.pack(f"{order}{len(numbers)}{code}", *numbers)
    if len(content) > 4:
        content = struct.pack(order + "I", _add(file, content))
    return struct.pack(order + "HHI", tag, kind, n_values) + content.ljust(4, b"\0")


def _add(file: bytearray, content: bytes) -> int:
    """Appends, at an even offset, and returns that."""
    file += bytes(len(file) % 2)
    start = len(file)
    file += content
    return start
