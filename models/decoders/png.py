"""PNG: of its chunks only those that are pixels reach Pillow, and `tRNS` is applied by us.

So no text that unpacks to gigabytes, and no wrong checksum of what is not shown, refuses a picture.
Pillow compares a transparent shade with what it has made of the samples: of 1, 2, 4 and 16 bits,
that is another number.
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from twinlens.models.decoders.directories import find_orientation
from twinlens.models.decoders.flatten import STRIP_PIXELS
from twinlens.models.decoders.header import (
    PLAIN,
    Header,
    Loaded,
    Samples,
    load_whole,
    open_with_pillow,
    too_many,
)
from twinlens.models.decoders.splice import splice
from twinlens.models.formats import unsupported

if TYPE_CHECKING:
    from PIL.ImageFile import ImageFile

_SIGNATURE_BYTES = 8
# Length and name before a chunk's content, the checksum behind it.
_HEAD_BYTES, _CHECKSUM_BYTES = 8, 4
_IHDR = struct.Struct(">IIBB")
# Of 8 KiB each, as libpng writes them, 64 MiB are 8,192. A million took 8 s.
_MOST_CHUNKS = 65_536
_GREY, _RGB, _PALETTE = 0, 2, 3


class _Chunk(NamedTuple):
    name: bytes
    start: int
    end: int

    def content(self, of: bytes) -> bytes:
        return of[self.start + _HEAD_BYTES : self.end - _CHECKSUM_BYTES]

    def is_sound(self, of: bytes) -> bool:
        checksum = zlib.crc32(self.content(of), zlib.crc32(self.name))
        return of[self.end - _CHECKSUM_BYTES : self.end] == checksum.to_bytes(4, "big")


@dataclass
class _Parts:
    """What is kept of a file, as from where to where, and what is read here."""

    kept: list[tuple[int, int]] = field(default_factory=lambda: [(0, _SIGNATURE_BYTES)])
    n_bits: int = 0
    colour: int = 0
    transparency: bytes = b""
    exif: bytes = b""

    def keep(self, chunk: _Chunk) -> None:
        start, end = self.kept[-1]
        if end == chunk.start:
            self.kept[-1] = (start, chunk.end)
        else:
            self.kept.append((chunk.start, chunk.end))


def open_png(content: bytes) -> Header:
    """Reads the header of a PNG.

    Raises:
        UnsupportedPicture: It is Apple's CgBI, which begins like a PNG and is none.
        PictureTooLarge: It has too many chunks.
    """
    if content[12:16] == b"CgBI":
        raise unsupported("Apple's CgBI variant of PNG, which apps are packed with")
    parts = _sort_chunks(content)
    view = memoryview(content)
    kept = [view[start:end] for start, end in parts.kept]
    image = open_with_pillow(splice(kept), "PNG")
    load, samples = load_whole(image), PLAIN
    transparent = _transparent_samples(parts)
    if len(transparent) == 3 and parts.n_bits == 16:
        load = _load_deep(image, open_with_pillow(splice(kept), "PNG"), transparent)
    elif transparent:
        samples = Samples(transparent=_as_decoded(transparent, parts.n_bits))
    return Header(*image.size, load, find_orientation(parts.exif), samples)


def _sort_chunks(content: bytes) -> _Parts:
    parts = _Parts()
    has_pixels = False
    for chunk in _chunks(content):
        if chunk.name == b"IHDR":
            _, _, parts.n_bits, parts.colour = _IHDR.unpack_from(content, chunk.start + _HEAD_BYTES)
        has_pixels = has_pixels or chunk.name == b"IDAT"
        if not chunk.name[:1].islower():
            parts.keep(chunk)
        elif chunk.name == b"eXIf" and chunk.is_sound(content):
            parts.exif = chunk.content(content)
        elif chunk.name == b"tRNS" and not has_pixels and chunk.is_sound(content):
            if parts.colour == _PALETTE:
                parts.keep(chunk)
            parts.transparency = chunk.content(content)
    return parts


def _chunks(content: bytes) -> Iterator[_Chunk]:
    """To the end of the picture; the last may be cut off."""
    start = _SIGNATURE_BYTES
    for _ in range(_MOST_CHUNKS):
        if start >= len(content):
            return
        length = int.from_bytes(content[start : start + 4], "big")
        end = start + _HEAD_BYTES + length + _CHECKSUM_BYTES
        name = content[start + 4 : start + 8]
        yield _Chunk(name, start, min(end, len(content)))
        if name == b"IEND":
            return
        start = end
    raise too_many("chunks", _MOST_CHUNKS)


def _transparent_samples(parts: _Parts) -> tuple[int, ...]:
    """The sample of each channel that is transparent. It has 16 bits, of which a sample's count."""
    n_channels = {_GREY: 1, _RGB: 3}.get(parts.colour, 0)
    if len(parts.transparency) < 2 * n_channels:
        return ()
    samples = struct.unpack_from(f">{n_channels}H", parts.transparency)
    return tuple(sample & ((1 << parts.n_bits) - 1) for sample in samples)


def _as_decoded(samples: tuple[int, ...], n_bits: int) -> int | tuple[int, int, int]:
    """As Pillow decodes them: fewer than 8 bits are stretched to 0 to 255."""
    if len(samples) == 3:
        return samples[0], samples[1], samples[2]
    return samples[0] * (255 // ((1 << n_bits) - 1)) if n_bits < 8 else samples[0]


def _load_deep(
    image: ImageFile, lower: ImageFile, transparent: tuple[int, ...]
) -> Callable[[int], Loaded]:
    """RGB of 16 bits, of which Pillow gives the upper 8: the lower 8 are decoded to be compared."""

    def load(least_px: int) -> Loaded:  # noqa: ARG001
        alpha = np.zeros((image.height, image.width), np.uint8)
        lower.tile = [lower.tile[0]._replace(args="RGB;16L")]
        lower.load()
        _show_other_colours(alpha, lower, [sample & 0xFF for sample in transparent])
        lower.close()  # before the others are decoded: memory is for one of both
        image.load()
        _show_other_colours(alpha, image, [sample >> 8 for sample in transparent])
        image.putalpha(Image.fromarray(alpha))
        return image, image.size

    return load


def _show_other_colours(alpha: NDArray[np.uint8], image: Image.Image, colour: list[int]) -> None:
    n_rows = max(1, STRIP_PIXELS // image.width)
    for top in range(0, image.height, n_rows):
        bottom = min(top + n_rows, image.height)
        strip = np.asarray(image.crop((0, top, image.width, bottom)))
        alpha[top:bottom][(strip != colour).any(axis=-1)] = 255
