"""From the bytes of a picture to the pixels that models take.

A picture is decoded once, small enough to be cheap and large enough for every model. The rules:

- Served: JPEG (MPO too), PNG, GIF, WebP, TIFF, BMP, AVIF, and HEIF where it is installed, by
  content and never by name. Not JPEG 2000, PSD, SVG: every further decoder can be attacked.
- A wrong picture is worse than none: `decoders` lets through what is known to be read right, and
  says of all else that it is not supported.
- Size is checked on the header, before pixels exist; where a format's pixels take more time or
  memory, fewer are decoded. Decoding has a time limit.
- The first frame, or the first full page, only. Orientation is applied as EXIF, TIFF, AVIF and HEIF
  have it; in XMP alone it is not, as browsers do not. Broken EXIF is ignored.
- Transparency is composited on white, so that hidden pixels cannot be searched for.
- 16 bits are scaled to 8.
- ICC profiles are ignored: everything is taken for sRGB.
- A file that ends too early is refused, and so is a JPEG without its end marker.
"""

from __future__ import annotations

import io
from contextlib import contextmanager
from dataclasses import dataclass, replace
from math import ceil, floor
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from PIL import Image

from twinlens.models.card import Fit, InputSpec, Offset, Resample
from twinlens.models.decoders.flatten import flatten
from twinlens.models.decoders.header import Header
from twinlens.models.decoders.opening import read_header
from twinlens.models.decoders.splice import read_within
from twinlens.models.formats import find_format
from twinlens.shared.errors import (
    BrokenPicture,
    EmptyPicture,
    PictureTooLarge,
    TwinlensError,
)

if TYPE_CHECKING:
    from collections.abc import Iterator

    from numpy.typing import NDArray

# Below the 89 MP at which Pillow itself begins to warn (it refuses at 179 MP); phones take 48 to
# 64 MP. What each format takes at the limit: docs/decisions/0020-decoding.md.
DEFAULT_MAX_PIXELS = 80_000_000
# Of processor time: the slowest that is ordinary, a TIFF of 79 MP in LZW, took 2 s.
DEFAULT_MAX_DECODE_S = 10.0
# JPEG's own limit, held for all formats.
DEFAULT_MAX_SIDE_PX = 65_535
THUMBNAIL_PX = 256
THUMBNAIL_QUALITY = 82

# Decoding to twice the wanted size and resizing from there keeps the embedding (mean cosine
# 0.9996 to decoding in full; 6.6 times faster for a JPEG of 12 MP). To once the size: 0.997.
_OVERSAMPLING = 2

# Of a longer picture the ends are cut off before it is resized to whole pixels: what is cut out of
# it lies in the middle, and nothing large is made of one row of pixels.
MAX_ASPECT = 8

_TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
_SIDES_SWAPPED = {5, 6, 7, 8}
# After sides are swapped: these turns show columns, or rows, in the other direction.
_COLUMNS_REVERSED = {2, 3, 7, 8}
_ROWS_REVERSED = {3, 4, 6, 7}
_FILTERS = {
    Resample.BILINEAR: Image.Resampling.BILINEAR,
    Resample.BICUBIC: Image.Resampling.BICUBIC,
    Resample.LANCZOS: Image.Resampling.LANCZOS,
}


class Region(NamedTuple):
    """A part of a picture, after orientation: its edges, as shares of the width or the height.

    The caller makes sure that `left` is less than `right`, and `top` less than `bottom`.
    """

    left: float
    top: float
    right: float
    bottom: float


WHOLE = Region(0.0, 0.0, 1.0, 1.0)


# Left, top, right and bottom, in pixels and parts of them.
_Box = tuple[float, float, float, float]


@dataclass(frozen=True)
class PictureLimits:
    """How large a picture may be, by its header, and how long its decoding may take."""

    max_pixels: int = DEFAULT_MAX_PIXELS
    max_side_px: int = DEFAULT_MAX_SIDE_PX
    max_decode_s: float = DEFAULT_MAX_DECODE_S


@dataclass(frozen=True)
class Picture:
    """A decoded picture, or a region of one.

    `width` and `height` are in the file's pixels, as it is looked at (after orientation); `format`
    is one of `formats.SERVED`.
    """

    width: int
    height: int
    format: str
    # RGB, often smaller than the file's, and not yet turned: the small result is.
    stored: Image.Image
    orientation: int
    # What of `stored` is picture: 1730 rows by 13 are 133.08, in 134 rows. Without it, all is
    # squeezed by the part of a pixel, up to half a pixel at the end. A region may begin within one.
    box: _Box

    def pixels_for(self, spec: InputSpec) -> NDArray[np.uint8]:
        """Resizes the picture to what a model takes.

        Returns:
            uint8 [spec.height, spec.width, 3], RGB. However long and thin the picture is, no
            step makes more pixels than it has or the model takes, or MAX_ASPECT times
            `resized_px` squared.
        """
        if spec.resized_px is not None:
            aspect = max(self.width, self.height) / min(self.width, self.height)
            if spec.fit is Fit.CROP and aspect > MAX_ASPECT:
                return self._without_ends().pixels_for(spec)
            return np.array(self._cut_out(spec, spec.resized_px), np.uint8)
        size, box = (spec.width, spec.height), self.box
        if spec.fit is Fit.CROP:
            box = _crop_box(self.box, self._unturned(size), spec.crop_fraction)
        return np.array(self._resize(size, _FILTERS[spec.resample], box), np.uint8)

    def part(self, region: Region) -> Picture:
        """Returns a region, in the detail that was decoded: `open_picture` may give more."""
        left, top, right, bottom = self.box
        box = _stored_box(region, self.orientation, (right - left, bottom - top))
        return replace(
            self,
            width=max(1, round(self.width * (region.right - region.left))),
            height=max(1, round(self.height * (region.bottom - region.top))),
            box=(left + box[0], top + box[1], min(right, left + box[2]), min(bottom, top + box[3])),
        )

    def thumbnail(self, max_px: int = THUMBNAIL_PX) -> bytes:
        """Makes a JPEG whose longer side is at most `max_px`, without any metadata."""
        scale = min(1.0, max_px / max(self.width, self.height))
        size = (max(1, round(self.width * scale)), max(1, round(self.height * scale)))
        small = self._resize(size, Image.Resampling.LANCZOS, self.box)
        stream = io.BytesIO()
        # Image made of the pixels alone: a resized one carries the file's comment and profile.
        Image.fromarray(np.asarray(small)).save(stream, "JPEG", quality=THUMBNAIL_QUALITY)
        return stream.getvalue()

    def _resize(self, size: tuple[int, int], resample: Image.Resampling, box: _Box) -> Image.Image:
        """Resizes what is in the box, and turns the result."""
        resized = self.stored.resize(self._unturned(size), resample, box)
        turn = _TURNS.get(self.orientation)
        return resized if turn is None else resized.transpose(turn)

    def _cut_out(self, spec: InputSpec, resized_px: int) -> Image.Image:
        """Resizes to whole pixels, then cuts out the middle.

        Source: torchvision/transforms/functional.py, `_compute_resized_output_size` and
        `center_crop`; transformers/image_transforms.py, `center_crop`.
        """
        width = height = resized_px
        if spec.fit is Fit.CROP:
            shorter = min(self.width, self.height)
            width, height = (int(resized_px * px / shorter) for px in (self.width, self.height))
        begin = floor if spec.offset is Offset.FLOOR else round
        left, top = begin((width - spec.width) / 2), begin((height - spec.height) / 2)
        resized = self._resize((width, height), _FILTERS[spec.resample], self.box)
        return resized.crop((left, top, left + spec.width, top + spec.height))

    def _without_ends(self) -> Picture:
        """Returns the middle of a long picture, MAX_ASPECT times as long as it is wide."""
        longest = MAX_ASPECT * min(self.width, self.height)
        x, y = (min(1.0, longest / px) / 2 for px in (self.width, self.height))
        return self.part(Region(0.5 - x, 0.5 - y, 0.5 + x, 0.5 + y))

    def _unturned(self, size: tuple[int, int]) -> tuple[int, int]:
        return size[::-1] if self.orientation in _SIDES_SWAPPED else size


def thumbnail(
    data: bytes, max_px: int = THUMBNAIL_PX, limits: PictureLimits | None = None
) -> bytes:
    """Decodes a picture and makes a JPEG of it (`Picture.thumbnail`)."""
    return open_picture(data, limits, wanted_px=max_px).thumbnail(max_px)


def open_picture(
    data: bytes,
    limits: PictureLimits | None = None,
    *,
    wanted_px: int = THUMBNAIL_PX,
    region: Region = WHOLE,
) -> Picture:
    """Decodes a picture.

    Args:
        data: The file.
        limits: How large it may be; `PictureLimits()` when not given.
        wanted_px: The shorter side that its uses need: the largest `InputSpec.wanted_px`, or the
            thumbnail's.
        region: The part of the picture that is wanted. Only that is kept, in the same detail as
            a whole picture; a region smaller than a pixel has that pixel's colour.

    Raises:
        EmptyPicture: There are no bytes.
        UnsupportedPicture: Its first bytes or its pixels are of a type that is not served.
        PictureTooLarge: Its header exceeds the limits, or decoding takes too long.
        BrokenPicture: The file cannot be decoded to its end.
    """
    limits = limits or PictureLimits()
    with _reading(data, limits) as (header, format_name):
        return _decode(header, format_name, wanted_px, region)


def weigh_picture(data: bytes, limits: PictureLimits) -> float:
    """Returns how many pixels of a PNG take as much to decode as a picture, by its header.

    Raises:
        PictureError: As `open_picture` does, for what is known without decoding.
    """
    with _reading(data, limits) as (header, _):
        return header.weight_px


@contextmanager
def _reading(data: bytes, limits: PictureLimits) -> Iterator[tuple[Header, str]]:
    """Gives a header within the limits, and its format. What goes wrong is a picture's error."""
    if not data:
        raise EmptyPicture("the file has no bytes; send a picture")
    format_name = find_format(data)
    try:
        with read_within(limits.max_decode_s):
            header = read_header(data, format_name)
            _check_size(header, format_name, limits)
            yield header, format_name
    except (TwinlensError, MemoryError):  # no memory is not the file's fault
        raise
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        raise PictureTooLarge(
            f"the {format_name} says that it has more pixels than are decoded; "
            f"the limit is {limits.max_pixels:,} pixels: send a smaller one"
        ) from error
    # Decoders raise OSError, ValueError, SyntaxError, EOFError, struct.error, TypeError and more on
    # a broken file, and the list grows. Whatever it is, it is this file's fault.
    except Exception as error:
        raise BrokenPicture(
            f"the file begins as {format_name} but cannot be decoded "
            f"({type(error).__name__}); send the complete file, or save it anew"
        ) from error


def _decode(header: Header, format_name: str, wanted_px: int, region: Region) -> Picture:
    least_share = min(region.right - region.left, region.bottom - region.top)
    least_px = ceil(_OVERSAMPLING * wanted_px / least_share)
    image, extent = header.load(least_px)
    factor = max(1, min(image.size) // least_px)
    width, height = header.width, header.height
    if header.orientation in _SIDES_SWAPPED:
        width, height = height, width
    box = _stored_box(region, header.orientation, extent)
    kept = (floor(box[0]), floor(box[1]), ceil(box[2]), ceil(box[3]))
    return Picture(
        width=max(1, round(width * (region.right - region.left))),
        height=max(1, round(height * (region.bottom - region.top))),
        format=format_name,
        stored=flatten(image, header.samples, factor, kept),
        orientation=header.orientation,
        box=(
            (box[0] - kept[0]) / factor,
            (box[1] - kept[1]) / factor,
            (box[2] - kept[0]) / factor,
            (box[3] - kept[1]) / factor,
        ),
    )


def _stored_box(region: Region, orientation: int, extent: tuple[float, float]) -> _Box:
    """Returns where a region of the turned picture lies in the stored one, in its pixels."""
    left, top, right, bottom = region
    if orientation in _SIDES_SWAPPED:
        left, top, right, bottom = top, left, bottom, right
    if orientation in _COLUMNS_REVERSED:
        left, right = 1.0 - right, 1.0 - left
    if orientation in _ROWS_REVERSED:
        top, bottom = 1.0 - bottom, 1.0 - top
    width, height = extent
    return (left * width, top * height, right * width, bottom * height)


def _check_size(header: Header, format_name: str, limits: PictureLimits) -> None:
    width, height = header.coded_size or (header.width, header.height)
    longest = max(header.width, header.height)
    if header.weight_px > limits.max_pixels or longest > limits.max_side_px:
        max_pixels = int(limits.max_pixels / header.cost)
        so = "" if header.cost == 1 else f" of such a {format_name}"
        raise PictureTooLarge(
            f"the picture is {width} x {height} = {width * height:,} pixels; the limit is "
            f"{max_pixels:,} pixels{so} and {limits.max_side_px:,} on a side: send a smaller one"
        )


def _crop_box(box: _Box, shape: tuple[int, int], fraction: float) -> _Box:
    """The middle part of a box that has the given shape: `fraction` of the largest."""
    left, top, right, bottom = box
    width, height = right - left, bottom - top
    scale = min(width / shape[0], height / shape[1]) * fraction
    # Rounding may take it over the edge by its last bit, which Pillow refuses.
    margin_x, margin_y = (width - shape[0] * scale) / 2, (height - shape[1] * scale) / 2
    margin_x, margin_y = max(0.0, margin_x), max(0.0, margin_y)
    return (left + margin_x, top + margin_y, right - margin_x, bottom - margin_y)
