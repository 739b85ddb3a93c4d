"""JPEG: of what lies before the pixels, only what says how to decode them is kept.

So neither EXIF with thousands of broken tags, nor XMP, profiles or further pictures reach Pillow.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING

from twinlens.models.decoders.directories import EXIF_PREFIX, find_orientation
from twinlens.models.decoders.header import Header, Loaded, open_with_pillow
from twinlens.models.decoders.splice import splice
from twinlens.models.formats import unsupported

if TYPE_CHECKING:
    from PIL.ImageFile import ImageFile

_START_OF_SCAN = 0xDA
# Followed by no length: fill, what is left of the pixels before, restarts, start and end of image.
_BARE_MARKERS = {0x00, 0x01, *range(0xD0, 0xDA)}
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
_FRAMES_SERVED = {0xC0, 0xC1, 0xC2}
_COMPONENTS_SERVED = {1, 3, 4}


def open_jpeg(content: bytes) -> Header:
    """Reads the header of a JPEG.

    Raises:
        UnsupportedPicture: It has other samples than of 8 bits, or a rare coding.
    """
    view = memoryview(content)
    head, pixels, exif = [view[:2]], view[:0], b""
    for marker, start, end in _segments(content):
        if marker == _START_OF_SCAN:
            pixels = view[start:]
        elif marker not in _METADATA:
            _check_frame(marker, content[start:end])
            head.append(view[start:end])
        elif marker == _EXIF and content.startswith(EXIF_PREFIX, start + 4):
            exif = exif or content[start + 4 : end]
    kept: list[bytes | memoryview] = [b"".join(head), pixels]
    has_metadata = sum(map(len, kept)) < len(content)
    image = open_with_pillow(splice(kept) if has_metadata else content, "JPEG")
    return Header(*image.size, _load_draft(image), orientation=find_orientation(exif))


def _segments(content: bytes) -> Iterator[tuple[int, int, int]]:
    """The marker, start and end of those before the pixels, and of the first of the pixels'.

    What lies between segments is passed over, as decoders do.
    """
    start = 2  # behind the start of the image
    while (start := content.find(b"\xff", start)) >= 0 and start + 1 < len(content):
        marker = content[start + 1]
        if marker == 0xFF:
            start += 1
        elif marker in _BARE_MARKERS:
            start += 2
        else:
            end = start + 2 + int.from_bytes(content[start + 2 : start + 4], "big")
            yield marker, start, end
            if marker == _START_OF_SCAN:
                return
            start = end


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
