"""JPEG: of what lies before the pixels, only what says how to decode them is kept.

So neither EXIF with thousands of broken tags, nor XMP, profiles or further pictures reach Pillow.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING

from twinlens.models.decoders.directories import EXIF_PREFIX, find_orientation
from twinlens.models.decoders.header import Header, Loaded, open_with_pillow, too_many
from twinlens.models.decoders.splice import splice
from twinlens.models.formats import unsupported

if TYPE_CHECKING:
    from PIL.ImageFile import ImageFile

_START_OF_SCAN, _END = 0xDA, 0xD9
# Without those that no length follows: fill, what is left of the pixels before, restarts, start and
# end of image.
_MARKER = re.compile(rb"\xff[^\x00\x01\xd0-\xd9\xff]")
_SCAN = re.compile(rb"\xff\xda")
_MARKER_OR_END = re.compile(rb"\xff[^\x00\x01\xd0-\xd8\xff]")
# Of 64 KiB each, 64 MiB are 1,024. A million took 13 s and 326 MB to read.
_MOST_SEGMENTS = 4_096
# Programs write 10 scans, of CMYK 18. A decoder goes through all pixels once a scan, however few
# bytes it has: 300 times in a file of 1.5 MB.
_USUAL_SCANS, _MOST_SCANS = 20, 100
# Applications' own, and comments; of them JFIF and Adobe say what the colours are.
_METADATA = {*range(0xE0, 0xF0), 0xFE} - {0xE0, 0xEE}
_EXIF = 0xE1
# Baseline, extended and progressive are served, with Huffman codes, as in browsers.
_FRAMES_REFUSED = {
    0xC3: "lossless JPEG",
    0xC5: "hierarchical JPEG",
    0xC6: "hierarchical JPEG",
    0xC7: "lossless JPEG",
    **dict.fromkeys((0xC9, 0xCA, 0xCB, 0xCD, 0xCE, 0xCF), "arithmetic-coded JPEG"),
    0xF7: "JPEG-LS",
}
_PROGRESSIVE = b"\xc2"
_FRAMES_SERVED = {0xC0, 0xC1, 0xC2}
_COMPONENTS_SERVED = {1, 3, 4}


def open_jpeg(content: bytes) -> Header:
    """Reads the header of a JPEG.

    Raises:
        UnsupportedPicture: It has other samples than of 8 bits, or a rare coding.
        PictureTooLarge: It has too many segments, or scans.
    """
    view = memoryview(content)
    head, pixels, exif, frame = [view[:2]], view[:0], b"", b""
    n_scans = 1
    for marker, start, end in _segments(content):
        if marker == _START_OF_SCAN:
            pixels = view[start:]
            if _has_more_scans(frame, content[start:end]):
                n_scans = _count_scans(content, start)
        elif marker not in _METADATA:
            _check_frame(marker, content[start:end])
            if marker in _FRAMES_SERVED:
                frame = content[start:end]
            head.append(view[start:end])
        elif marker == _EXIF and content.startswith(EXIF_PREFIX, start + 4):
            exif = exif or content[start + 4 : end]
    image = open_with_pillow(splice([b"".join(head), pixels]), "JPEG")
    return Header(
        *image.size,
        _load_draft(image),
        find_orientation(exif),
        cost=max(1.0, n_scans / _USUAL_SCANS),
    )


def _segments(content: bytes) -> Iterator[tuple[int, int, int]]:
    """The marker, start and end of those before the pixels, and of the first of the pixels'.

    What lies between segments is passed over, as decoders do.
    """
    for marker, start, end in _walk(content, 2, _MARKER):  # behind the start of the image
        yield marker, start, end
        if marker == _START_OF_SCAN:
            return


def _walk(content: bytes, start: int, pattern: re.Pattern[bytes]) -> Iterator[tuple[int, int, int]]:
    for _ in range(_MOST_SEGMENTS):
        match = pattern.search(content, start)
        if match is None:
            return
        start = match.start()
        end = start + 2 + int.from_bytes(content[start + 2 : start + 4], "big")
        yield content[start + 1], start, end
        start = end
    raise too_many("segments", _MOST_SEGMENTS)


def _has_more_scans(frame: bytes, scan: bytes) -> bool:
    """If the first scan does not have all of the frame: else a decoder refuses further ones."""
    n_components, n_scanned = frame[9:10], scan[4:5]
    return frame[1:2] == _PROGRESSIVE or n_scanned < n_components


def _count_scans(content: bytes, start: int) -> int:
    """How many scans a decoder may go through: exact, where they are many."""
    # What is counted may lie in a segment, or in what follows the picture.
    n_scans = len(_SCAN.findall(content, start))  # thrice as fast as bytes.count
    if n_scans <= _USUAL_SCANS:
        return n_scans
    n_scans = 0
    for marker, _, _ in _walk(content, start, _MARKER_OR_END):
        if marker == _END:
            break
        n_scans += marker == _START_OF_SCAN
        if n_scans > _MOST_SCANS:
            raise too_many("scans", _MOST_SCANS)
    return n_scans


def _check_frame(marker: int, segment: bytes) -> None:
    if marker in _FRAMES_REFUSED:
        raise unsupported(_FRAMES_REFUSED[marker])
    if marker in _FRAMES_SERVED and len(segment) > 9:
        n_bits, n_components = segment[4], segment[9]
        if n_bits != 8:
            raise unsupported(f"{n_bits}-bit JPEG")
        if n_components not in _COMPONENTS_SERVED:
            raise unsupported(f"a JPEG of {n_components} channels")


def _load_draft(image: ImageFile) -> Callable[[int], Loaded]:
    def load(least_px: int) -> Loaded:
        drafted = image.draft(None, (least_px, least_px))
        image.load()
        return image, drafted[1][2:] if drafted else image.size

    return load
