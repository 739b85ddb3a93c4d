"""Where EXIF lies in a HEIF or AVIF file, which are boxes in boxes; nothing is decoded.

Source:
    ISO/IEC 14496-12, 8.11 (meta, iinf, iloc); ISO/IEC 23008-12, Annex A (the item `Exif`).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Iterator

# JPEG has room for 64 KiB. Parts may overlap, so that a small file could name gigabytes.
MAX_EXIF_BYTES = 1024 * 1024


class _Box(NamedTuple):
    kind: bytes
    body: memoryview


class _Reader:
    """Reads whole numbers, the highest byte first, one after another."""

    def __init__(self, content: memoryview) -> None:
        self._left = content

    def take(self, n_bytes: int) -> bytes:
        if n_bytes > len(self._left):
            raise ValueError("the box is cut short")
        taken, self._left = self._left[:n_bytes], self._left[n_bytes:]
        return taken.tobytes()

    def number(self, n_bytes: int) -> int:
        return int.from_bytes(self.take(n_bytes))


def is_of_boxes(content: bytes) -> bool:
    """Tells if a file is of boxes: HEIF, AVIF, and videos too."""
    return content[4:8] == b"ftyp"


def find_exif(content: bytes) -> bytes:
    """Returns the EXIF of a file of boxes, from its TIFF header on.

    Raises:
        ValueError: It has none, or it is broken or too long.
    """
    meta = _child(memoryview(content), b"meta")[4:]
    item = _exif_item(_child(meta, b"iinf"))
    extents = _extents(_child(meta, b"iloc"), item)
    if sum(n_bytes for _, n_bytes in extents) > MAX_EXIF_BYTES:
        raise ValueError("it is too long")
    block = b"".join(content[start : start + n_bytes] for start, n_bytes in extents)
    return block[4 + int.from_bytes(block[:4]) :]


def _boxes(content: memoryview) -> Iterator[_Box]:
    while len(content) >= 8:
        n_bytes, header = int.from_bytes(content[:4]), 8
        if n_bytes == 1:  # the size is after the kind
            n_bytes, header = int.from_bytes(content[8:16]), 16
        n_bytes = n_bytes or len(content)
        if n_bytes < header:
            raise ValueError("a box is smaller than its header")
        yield _Box(content[4:8].tobytes(), content[header:n_bytes])
        content = content[n_bytes:]


def _child(content: memoryview, kind: bytes) -> memoryview:
    for box in _boxes(content):
        if box.kind == kind:
            return box.body
    raise ValueError(f"there is no box {kind!r}")


def _exif_item(iinf: memoryview) -> int:
    """Returns the number of the item that is EXIF."""
    for box in _boxes(iinf[6 if iinf[0] == 0 else 8 :]):
        reader = _Reader(box.body)
        version = reader.number(4) >> 24
        item = reader.number(4 if version == 3 else 2)
        reader.take(2)
        if version >= 2 and reader.take(4) == b"Exif":
            return item
    raise ValueError("no item is EXIF")


def _extents(iloc: memoryview, item: int) -> list[tuple[int, int]]:
    """Returns where in the file the parts of an item begin, and how long they are."""
    reader = _Reader(iloc)
    version = reader.number(4) >> 24
    sizes = reader.number(2)
    n_offset, n_length, n_base, n_index = (sizes >> shift & 15 for shift in (12, 8, 4, 0))
    for _ in range(reader.number(4 if version == 2 else 2)):
        number = reader.number(4 if version == 2 else 2)
        is_in_file = version == 0 or reader.number(2) & 15 == 0
        reader.take(2)
        base = reader.number(n_base)
        extents = []
        for _ in range(reader.number(2)):
            reader.take(n_index if version else 0)
            extents.append((base + reader.number(n_offset), reader.number(n_length)))
        if number == item and is_in_file:
            return extents
    raise ValueError("the item of EXIF is not in the file")
