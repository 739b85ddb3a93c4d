"""TIFF: one page, and of it only what is pixels, reaches Pillow, if its kind is read right.

A directory of ours with those tags is put behind the file, and the file's head leads to it. Of
other kinds Pillow makes pictures too: dark, negative, striped (docs/decisions/0016-pixels.md).
"""

from __future__ import annotations

import os
import struct
from math import ceil

from PIL import ImagePalette

from twinlens.models.decoders.directories import Directory, Tag, TagEntry, orientation_of
from twinlens.models.decoders.header import (
    Header,
    Samples,
    load_whole,
    open_with_pillow,
    too_many,
)
from twinlens.models.decoders.pages import choose_page
from twinlens.models.decoders.splice import splice
from twinlens.models.decoders.tiff_kinds import (
    BLACK_IS_ZERO,
    PALETTE,
    WHITE_IS_ZERO,
    PixelKind,
    read_kind,
)

# Orientation is applied by us; the rest is not about pixels, or was looked at.
_NOT_KEPT = {
    Tag.NEW_SUBFILE_TYPE,
    Tag.SUBFILE_TYPE,
    Tag.ORIENTATION,
    Tag.SUB_DIRECTORIES,
    Tag.INKS,
    Tag.DNG_VERSION,
}
_SHORT = 3
# A strip for each row; Pillow makes a Python object of each: a million took 23 s.
_MOST_VALUES = 65_536
# Of a JPEG in a TIFF, libtiff goes through 100 by default, as often through all pixels.
os.environ.setdefault("LIBTIFF_JPEG_MAX_ALLOWED_SCAN_NUMBER", "20")


def open_tiff(content: bytes) -> Header:
    """Reads the directories of a TIFF, and chooses its picture.

    Raises:
        UnsupportedPicture: It is of a kind that would be read wrongly, or has no picture.
        PictureTooLarge: It has too many strips or tiles.
    """
    page = choose_page(content)
    kind = read_kind(page)
    _check_whole(page, kind)
    if any(page.entries[tag].n_values > _MOST_VALUES for tag in page.entries.keys() - _NOT_KEPT):
        raise too_many("strips, tiles or other values of a tag", _MOST_VALUES)
    image = open_with_pillow(splice(_reduced(page, kind)), "TIFF")
    if kind.photometric == PALETTE:
        image.palette = ImagePalette.raw("RGB;L", _palette(page.numbers(Tag.COLOUR_MAP)))
    samples = Samples(is_inverted=kind.photometric == WHITE_IS_ZERO)
    return Header(
        *image.size, load_whole(image), orientation_of(page), samples, _size_of_tiles(page)
    )


def _size_of_tiles(page: Directory) -> tuple[int, int] | None:
    """Width and height of all tiles together: each is decoded whole."""
    if Tag.TILE_OFFSETS not in page.entries:
        return None
    across, down = page.number(Tag.TILE_WIDTH), page.number(Tag.TILE_HEIGHT)
    width, height = page.number(Tag.WIDTH), page.number(Tag.HEIGHT)
    return ceil(width / across) * across, ceil(height / down) * down


def _check_whole(page: Directory, kind: PixelKind) -> None:
    """What no strip is for would be black."""
    height = page.number(Tag.HEIGHT)
    if (tiled := _size_of_tiles(page)) is not None:
        tile_px = page.number(Tag.TILE_WIDTH) * page.number(Tag.TILE_HEIGHT)
        n_places, offsets = tiled[0] * tiled[1] // tile_px, Tag.TILE_OFFSETS
    else:
        n_places = ceil(height / page.number(Tag.ROWS_PER_STRIP, height))
        offsets = Tag.STRIP_OFFSETS
    if page.entries[offsets].n_values < n_places * kind.n_planes:
        raise ValueError("a TIFF whose directory does not say where all its pixels are")


def _reduced(page: Directory, kind: PixelKind) -> list[bytes | memoryview]:
    """The file's parts: a head, the pixels, a directory that says no more than how to read them."""
    entries = {tag: entry for tag, entry in page.entries.items() if tag not in _NOT_KEPT}
    if kind.photometric == WHITE_IS_ZERO:  # Pillow inverts some depths, not all: we do
        entries[Tag.PHOTOMETRIC] = _short(page.order, BLACK_IS_ZERO)
    if kind.n_planes == 1:  # of one channel, Pillow takes a plane for something else
        entries.pop(Tag.PLANES, None)
    listed = [struct.pack(page.order + "HHI4s", tag, *entries[tag]) for tag in sorted(entries)]
    head = page.content[:4] + struct.pack(page.order + "I", len(page.content))
    directory = struct.pack(page.order + "H", len(listed)) + b"".join(listed) + bytes(4)
    return [head, memoryview(page.content)[len(head) :], directory]


def _short(order: str, number: int) -> TagEntry:
    return TagEntry(_SHORT, 1, struct.pack(order + "HH", number, 0))


def _palette(numbers: tuple[int, ...]) -> bytes:
    """Reds, then greens, then blues, of 16 bits; some programs write 8."""
    surplus_bits = 0 if max(numbers) < 256 else 8
    return bytes(number >> surplus_bits for number in numbers)
