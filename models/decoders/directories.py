"""Reads the directories of TIFF files, which EXIF has too: tags, each with a type and numbers.

Only what is asked for is looked at: a directory of 65,535 broken tags costs some ms.
"""

from __future__ import annotations

import struct
from collections.abc import Collection
from enum import IntEnum
from typing import Any, NamedTuple

EXIF_PREFIX = b"Exif\0\0"

_ORIENTATIONS = range(1, 9)
_ENTRY_BYTES = 12
# How `struct` calls what is in a value of a type: a fraction is two numbers, 13 is an offset.
_NUMBER_CODES = {1: "B", 3: "H", 4: "I", 5: "II", 13: "I"}
# As many as the largest palette has. Of strips, only the count is asked for.
_MOST_VALUES = 768


class Tag(IntEnum):
    """The tags that say what a page is, and how its pixels are stored."""

    NEW_SUBFILE_TYPE = 254
    SUBFILE_TYPE = 255
    WIDTH = 256
    HEIGHT = 257
    BITS = 258
    COMPRESSION = 259
    PHOTOMETRIC = 262
    FILL_ORDER = 266
    STRIP_OFFSETS = 273
    ORIENTATION = 274
    N_SAMPLES = 277
    ROWS_PER_STRIP = 278
    STRIP_BYTES = 279
    PLANES = 284
    FAX3_OPTIONS = 292
    FAX4_OPTIONS = 293
    PREDICTOR = 317
    COLOUR_MAP = 320
    TILE_WIDTH = 322
    TILE_HEIGHT = 323
    TILE_OFFSETS = 324
    TILE_BYTES = 325
    SUB_DIRECTORIES = 330
    INKS = 332
    EXTRA_SAMPLES = 338
    SAMPLE_FORMAT = 339
    JPEG_TABLES = 347
    YCBCR_COEFFICIENTS = 529
    YCBCR_SUBSAMPLING = 530
    YCBCR_POSITIONS = 531
    REFERENCE_BLACK_WHITE = 532
    DNG_VERSION = 50706


class TagEntry(NamedTuple):
    """What a directory says of a tag: its type, how many values, and these, or where they are."""

    type: int
    n_values: int
    # 4 bytes: the values, or the offset of more than fit.
    field: bytes


class Directory(NamedTuple):
    """The entries of a directory that were asked for, by their tags."""

    content: bytes
    # As `struct` calls it: "<" or ">".
    order: str
    entries: dict[int, TagEntry]
    # Where the next directory is; 0 in the last.
    next_offset: int
    # False if the file ends before it does.
    is_whole: bool

    def numbers(self, tag: Tag) -> tuple[int, ...]:
        """Returns the whole numbers of a tag's first 768 values; none where it is broken.

        A fraction gives two: what is above the line, and below.
        """
        entry = self.entries.get(tag)
        if entry is None or entry.type not in _NUMBER_CODES:
            return ()
        code = _NUMBER_CODES[entry.type]
        source, start = entry.field, 0
        if entry.n_values * struct.calcsize(code) > len(entry.field):
            source, start = self.content, _unpack(self.order + "I", entry.field)[0]
        return _unpack(self.order + code * min(entry.n_values, _MOST_VALUES), source, start)

    def number(self, tag: Tag, default: int = 0) -> int:
        """Returns a tag's first number."""
        return next(iter(self.numbers(tag)), default)


def read_directory(content: bytes, offset: int, wanted: Collection[int]) -> Directory:
    """Reads what there is of a directory; of two entries of one tag, the first."""
    order = byte_order(content)
    (n_entries,) = _unpack(order + "H", content, offset) or (0,)
    start = offset + 2
    end = start + n_entries * _ENTRY_BYTES
    n_there = max(0, min(end, len(content)) - start) // _ENTRY_BYTES
    listed = memoryview(content)[start : start + n_there * _ENTRY_BYTES]
    entries: dict[int, TagEntry] = {}
    for tag, *entry in struct.iter_unpack(order + "HHI4s", listed):
        if tag in wanted:
            entries.setdefault(tag, TagEntry(*entry))
    (next_offset,) = _unpack(order + "I", content, end) or (0,)
    return Directory(content, order, entries, next_offset, end <= len(content))


def byte_order(content: bytes) -> str:
    """Returns the order that a file's first two bytes name, as `struct` calls it."""
    return "<" if content[:2] == b"II" else ">"


def first_offset(content: bytes) -> int:
    """Returns where the first directory is; 0 if the file ends before it says so."""
    return next(iter(_unpack(byte_order(content) + "I", content, 4)), 0)


def find_orientation(exif: bytes) -> int:
    """Returns the orientation, from 1 to 8, that EXIF has in its first directory; 1 without one."""
    if not exif:
        return 1
    content = exif.removeprefix(EXIF_PREFIX)
    return orientation_of(read_directory(content, first_offset(content), {Tag.ORIENTATION}))


def orientation_of(directory: Directory) -> int:
    """Returns the orientation, from 1 to 8, that a directory says; 1 if it says none."""
    orientation = directory.number(Tag.ORIENTATION, 1)
    return orientation if orientation in _ORIENTATIONS else 1


def _unpack(layout: str, source: bytes, start: int = 0) -> tuple[Any, ...]:
    """Nothing, where the source ends too early."""
    n_bytes = struct.calcsize(layout)
    return struct.unpack_from(layout, source, start) if start + n_bytes <= len(source) else ()
