"""Small files that would cost a decoder much, each in a way of its own."""

from __future__ import annotations

import io
import struct
import zlib
from typing import Any

import numpy as np
from PIL import Image
from support.bmps import RLE8, bmp
from support.pngs import chunk, png
from support.tiffs import COMPRESSION, TILE_HEIGHT, TILE_WIDTH, Page, page, tiff

_JPEG, _DEFLATE = 7, 8


def saved(
    format_name: str, size: tuple[int, int] = (16, 16), mode: str = "RGB", **how: Any
) -> bytes:
    """Returns a picture of one colour, as Pillow writes it."""
    stream = io.BytesIO()
    Image.new(mode, size).save(stream, format_name, **how)
    return stream.getvalue()


def jpeg_of_scans(n_scans: int, size: tuple[int, int] = (16, 16)) -> bytes:
    """Returns a progressive JPEG, whose further scans refine what is 0 everywhere.

    Each costs some bytes for 32,767 blocks of 64 pixels, and a look at each number of them.
    """
    plain = saved("JPEG", size, "L", progressive=True)
    n_own = plain.count(b"\xff\xda")
    n_blocks = -(-size[0] // 8) * -(-size[1] // 8)
    bits = ("0" + "1" * 14) * -(-n_blocks // 0x7FFF)
    bits += "1" * (-len(bits) % 8)
    coded = int(bits, 2).to_bytes(len(bits) // 8, "big").replace(b"\xff", b"\xff\0")
    # One code: the longest run of blocks to which a scan adds nothing.
    table = jpeg_segment(0xC4, bytes([0x10, 1, *[0] * 15, 0xE0]))
    scan = jpeg_segment(0xDA, bytes([1, 1, 0, 1, 63, 0x10])) + coded
    return plain[:-2] + table + scan * (n_scans - n_own) + b"\xff\xd9"


def jpeg_segment(marker: int, content: bytes = b"") -> bytes:
    return struct.pack(">BBH", 0xFF, marker, len(content) + 2) + content


def jpeg_of_segments(n_segments: int, marker: int) -> bytes:
    """Returns a JPEG with empty segments before its own."""
    plain = saved("JPEG")
    return plain[:2] + jpeg_segment(marker) * n_segments + plain[2:]


def png_of_chunks(n_chunks: int) -> bytes:
    """Returns a PNG with empty chunks of pixels."""
    return png(np.zeros((4, 4), np.uint8), before=[chunk(b"IDAT", b"") * n_chunks])


def tiff_of_tile(size: tuple[int, int], tile: tuple[int, int]) -> bytes:
    """Returns a TIFF of grey whose tiles are one and the same."""
    (width, height), (across, down) = size, tile
    n_tiles = -(-width // across) * -(-height // down)
    coded = zlib.compress(bytes(across * down), 1)
    tags = {COMPRESSION: _DEFLATE, TILE_WIDTH: across, TILE_HEIGHT: down}
    small = page(np.zeros((height, width), np.uint8), tags=tags, strips=[coded])
    return tiff(Page(small.tags, [coded] * n_tiles))


def bmp_of_runs(size: tuple[int, int]) -> bytes:
    """Returns a BMP of whose rows only the first pixel is there."""
    return bmp(size, 8, bytes([1, 0, 0, 0]) * size[1], compression=RLE8, palette=bytes(1024))


def tiff_of_jpeg(content: bytes) -> bytes:
    """Returns a TIFF whose only strip is a grey JPEG of 16 x 16 pixels."""
    samples = np.zeros((16, 16), np.uint8)
    return tiff(page(samples, tags={COMPRESSION: _JPEG}, strips=[content]))
