"""Which page of a TIFF is its picture. In a camera's raw file, none is."""

from __future__ import annotations

from collections.abc import Iterator

from twinlens.models.decoders.directories import Directory, Tag, first_offset, read_directory
from twinlens.models.formats import RAW, unsupported

_TAGS = set(Tag)
# Bits of the new type: a smaller copy of another page, and a mask of one. The old one counts.
_COPY, _MASK = 1, 4
_OLD_COPY = 2
# What a sensor saw: behind its filters of colours, or with these put together.
_OF_A_SENSOR = {32803, 34892}
# Sony's, Epson's, Samsung's, Nikon's, Kodak's, Pentax's.
_RAW_COMPRESSIONS = {32767, 32769, 32770, 34713, 65000, 65535}
# Where the picture, and signs of raw data, are looked for. Cameras write less than ten.
_MOST_DIRECTORIES = 32


def choose_page(content: bytes) -> Directory:
    """Returns the first page that is neither a smaller copy of another, nor a mask of it.

    Raises:
        UnsupportedPicture: There is a camera's raw data, or no such page.
        ValueError: The file ends before it.
    """
    pages = list(_directories(content))
    if any(_is_raw(page) for page in pages):
        raise unsupported(RAW)
    pictures = [page for page in pages if not _is_part_of_another(page)]
    if pictures and pictures[0].is_whole:
        return pictures[0]
    if pictures or not pages:
        raise ValueError("a TIFF that ends before its directory")
    raise unsupported("a TIFF that has only smaller copies, or masks, of a picture")


def _directories(content: bytes) -> Iterator[Directory]:
    """Each once: a page, what lies below it, the next page."""
    waiting = [first_offset(content)]
    seen = {0}
    while waiting and len(seen) <= _MOST_DIRECTORIES:
        offset = waiting.pop(0)
        if offset not in seen:
            seen.add(offset)
            directory = read_directory(content, offset, _TAGS)
            yield directory
            below = directory.numbers(Tag.SUB_DIRECTORIES)
            waiting = [*below, directory.next_offset, *waiting]


def _is_raw(page: Directory) -> bool:
    return (
        Tag.DNG_VERSION in page.entries
        or page.number(Tag.PHOTOMETRIC) in _OF_A_SENSOR
        or page.number(Tag.COMPRESSION) in _RAW_COMPRESSIONS
    )


def _is_part_of_another(page: Directory) -> bool:
    kind = page.number(Tag.NEW_SUBFILE_TYPE)
    return bool(kind & (_COPY | _MASK)) or page.number(Tag.SUBFILE_TYPE) == _OLD_COPY
