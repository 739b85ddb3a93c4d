"""From the bytes of a picture to the pixels that models take.

A picture is decoded once, small enough to be cheap and large enough for every model. The rules:

- Served: JPEG (MPO too), PNG, GIF, WebP, TIFF, BMP, AVIF, by content and never by name. Not
  JPEG 2000, PSD, SVG: each more decoder is more to attack.
- Size is checked on the header, before pixels exist.
- The first frame or page only. EXIF (and TIFF) orientation is applied; broken EXIF is ignored.
- Transparency is composited on white, so that hidden pixels cannot be searched for.
- 16-bit grey is scaled. 32-bit integer, float and Lab pixels are refused: their range or their
  colours cannot be known, and a wrong picture is worse than none.
- ICC profiles are ignored: all is taken for sRGB.
- A file that ends too early is refused, a JPEG without its end marker too.
"""

from __future__ import annotations

import io
from dataclasses import dataclass
from math import ceil
from typing import TYPE_CHECKING

import numpy as np
from PIL import Image

from twinlens.models.card import Fit, InputSpec, Resample
from twinlens.models.formats import find_format
from twinlens.shared.errors import (
    BrokenPicture,
    EmptyPicture,
    PictureTooLarge,
    TwinlensError,
    UnsupportedPicture,
)

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from PIL.ImageFile import ImageFile

# Below the 89 MP at which Pillow itself begins to warn (it refuses at 179 MP); phones take 48 to
# 64 MP. The worst, a PNG of 79 MP with alpha, took 384 MB and 1.6 s.
DEFAULT_MAX_PIXELS = 80_000_000
# JPEG's own limit, held for all formats.
DEFAULT_MAX_SIDE_PX = 65_535
THUMBNAIL_PX = 256
THUMBNAIL_QUALITY = 82

# Decoding to twice the wanted size and resizing from there keeps the embedding (mean cosine
# 0.9996 to decoding in full; 6.6 times faster for a JPEG of 12 MP). To once the size: 0.997.
_OVERSAMPLING = 2
# Pixels that are converted at a time: a conversion must not double what a large picture takes.
_STRIP_PIXELS = 1 << 22
_ORIENTATION_TAG = 0x0112
_WHITE = 255

_MODES_16_BIT = {"I;16", "I;16L", "I;16B", "I;16N"}
_MODES_8_BIT = {"1", "L", "P", "RGB", "RGBX", "CMYK", "YCbCr"}
_MODES_ALPHA = {"LA", "La", "PA", "RGBA", "RGBa"}

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
_FILTERS = {
    Resample.BILINEAR: Image.Resampling.BILINEAR,
    Resample.BICUBIC: Image.Resampling.BICUBIC,
    Resample.LANCZOS: Image.Resampling.LANCZOS,
}


@dataclass(frozen=True)
class PictureLimits:
    """What a picture may measure, by its header."""

    max_pixels: int = DEFAULT_MAX_PIXELS
    max_side_px: int = DEFAULT_MAX_SIDE_PX


@dataclass(frozen=True)
class Picture:
    """A decoded picture.

    `width` and `height` are the file's, as it is looked at (after orientation); `format` is one
    of `formats.SERVED`.
    """

    width: int
    height: int
    format: str
    # RGB, often smaller than the file's, and not yet turned: the small result is.
    stored: Image.Image
    orientation: int
    # How much of `stored` is picture: 1730 rows by 13 are 133.08, in 134 rows. Without it, all
    # is squeezed by the part of a pixel, up to half a pixel at the end.
    extent: tuple[float, float]

    def pixels_for(self, spec: InputSpec) -> NDArray[np.uint8]:
        """Resizes the picture to what a model takes.

        Returns:
            uint8 [spec.height, spec.width, 3], RGB. However long and thin the picture is, no
            step makes more pixels than it has or the model takes.
        """
        fraction = spec.crop_fraction if spec.fit is Fit.CROP else None
        size = (spec.width, spec.height)
        return np.array(self._resize(size, _FILTERS[spec.resample], fraction), np.uint8)

    def thumbnail(self, max_px: int = THUMBNAIL_PX) -> bytes:
        """Makes a JPEG whose longer side is at most `max_px`, without any metadata."""
        scale = min(1.0, max_px / max(self.width, self.height))
        size = (max(1, round(self.width * scale)), max(1, round(self.height * scale)))
        small = self._resize(size, Image.Resampling.LANCZOS)
        stream = io.BytesIO()
        # Image made of the pixels alone: a resized one carries the file's comment and profile.
        Image.fromarray(np.asarray(small)).save(stream, "JPEG", quality=THUMBNAIL_QUALITY)
        return stream.getvalue()

    def _resize(
        self, size: tuple[int, int], resample: Image.Resampling, fraction: float | None = None
    ) -> Image.Image:
        """Resizes the whole picture, or the middle `fraction` of it, and turns the result."""
        turned = size[::-1] if self.orientation in _SIDES_SWAPPED else size
        if fraction is None:
            box = (0.0, 0.0, *self.extent)
        else:
            box = _crop_box(self.extent, turned, fraction)
        resized = self.stored.resize(turned, resample, box)
        turn = _TURNS.get(self.orientation)
        return resized if turn is None else resized.transpose(turn)


def thumbnail(
    data: bytes, max_px: int = THUMBNAIL_PX, limits: PictureLimits | None = None
) -> bytes:
    """Decodes a picture and makes a JPEG of it (`Picture.thumbnail`)."""
    return open_picture(data, limits, wanted_px=max_px).thumbnail(max_px)


def open_picture(
    data: bytes, limits: PictureLimits | None = None, *, wanted_px: int = THUMBNAIL_PX
) -> Picture:
    """Decodes a picture.

    Args:
        data: the file.
        limits: what its header may say; `PictureLimits()` when not given.
        wanted_px: the shorter side that all its uses need at most: the largest
            `InputSpec.wanted_px`, or the thumbnail's.

    Raises:
        EmptyPicture: there are no bytes.
        UnsupportedPicture: no picture type that is served, by its first bytes or its pixels.
        PictureTooLarge: by its header, before anything is decoded.
        BrokenPicture: the file cannot be decoded to its end.
    """
    if not data:
        raise EmptyPicture("the file has no bytes; send a picture")
    found = find_format(data)
    limits = limits or PictureLimits()
    try:
        with Image.open(io.BytesIO(data), formats=[found]) as image:
            return _decode(image, found, limits, wanted_px)
    except (TwinlensError, MemoryError):  # no memory is not the file's fault
        raise
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        raise PictureTooLarge(
            f"the {found} says that it has more pixels than are decoded; "
            f"the limit is {limits.max_pixels:,} pixels: send a smaller one"
        ) from error
    # Pillow's decoders raise OSError, ValueError, SyntaxError, EOFError, struct.error, TypeError
    # and more on a broken file, and the list grows. Whatever it is, it is this file's fault.
    except Exception as error:
        raise BrokenPicture(
            f"the file begins as {found} but cannot be decoded "
            f"({type(error).__name__}); send the complete file, or save it anew"
        ) from error


def _decode(image: ImageFile, found: str, limits: PictureLimits, wanted_px: int) -> Picture:
    _check_size(image, limits)
    _check_mode(image)
    width, height = image.size
    least_px = _OVERSAMPLING * wanted_px
    drafted = image.draft(None, (least_px, least_px))  # JPEG alone; None for the others
    image.load()  # which turns a TIFF; the others are turned by us
    factor = max(1, min(image.size) // least_px)
    drafted_extent = drafted[1][2:] if drafted else image.size
    orientation = _orientation(image)
    if orientation in _SIDES_SWAPPED:
        width, height = height, width
    return Picture(
        width=width,
        height=height,
        format=found,
        stored=_flatten(image, factor),
        orientation=orientation,
        extent=(drafted_extent[0] / factor, drafted_extent[1] / factor),
    )


def _check_size(image: ImageFile, limits: PictureLimits) -> None:
    width, height = image.size
    if width * height > limits.max_pixels or max(width, height) > limits.max_side_px:
        raise PictureTooLarge(
            f"the picture is {width} x {height} = {width * height:,} pixels; the limit is "
            f"{limits.max_pixels:,} pixels and {limits.max_side_px:,} on a side: send a smaller one"
        )


def _check_mode(image: ImageFile) -> None:
    if image.mode not in _MODES_8_BIT | _MODES_ALPHA | _MODES_16_BIT:
        raise UnsupportedPicture(
            f"the {image.format} has pixels of mode {image.mode!r} (float, 32-bit integer or Lab); "
            "send 8 or 16 bits a channel in grey, RGB or CMYK"
        )


def _orientation(image: ImageFile) -> int:
    # After load(): a PNG may keep its EXIF behind the pixels.
    try:
        orientation = image.getexif().get(_ORIENTATION_TAG)
    except Exception:  # noqa: BLE001 - EXIF that does not parse never fails a picture
        return 1
    return orientation if isinstance(orientation, int) and orientation in _TURNS else 1


def _flatten(image: Image.Image, factor: int) -> Image.Image:
    """RGB on white, each side divided by `factor`; strip by strip, so that memory stays flat."""
    if image.mode == "RGB" and "transparency" not in image.info:
        return image.reduce(factor) if factor > 1 else image.copy()
    width, height = image.size
    flat = Image.new("RGB", (ceil(width / factor), ceil(height / factor)))
    n_rows = factor * max(1, _STRIP_PIXELS // (width * factor))
    for top in range(0, height, n_rows):
        strip = image.crop((0, top, width, min(top + n_rows, height)))
        flat.paste(_to_rgb(strip).reduce(factor), (0, top // factor))
    return flat


def _to_rgb(image: Image.Image) -> Image.Image:
    if image.mode in _MODES_16_BIT:
        return _scale_16_bit(image)
    if image.mode in _MODES_ALPHA or "transparency" in image.info:
        # A bilevel image with a transparent shade has no direct way to RGBA.
        opaque = image.convert("L") if image.mode == "1" else image
        rgba = opaque.convert("RGBA")
        white = Image.new("RGBA", rgba.size, (_WHITE, _WHITE, _WHITE, _WHITE))
        return Image.alpha_composite(white, rgba).convert("RGB")
    return image.convert("RGB")


def _scale_16_bit(image: Image.Image) -> Image.Image:
    # convert("RGB") clips: whatever is above 255 of 65535 would be white.
    deep = np.asarray(image)
    grey = ((deep.astype(np.uint32) + 128) // 257).astype(np.uint8)
    transparent = image.info.get("transparency")
    if isinstance(transparent, int):
        grey[deep == transparent] = _WHITE
    return Image.fromarray(grey).convert("RGB")


def _crop_box(
    extent: tuple[float, float], shape: tuple[int, int], fraction: float
) -> tuple[float, float, float, float]:
    """The middle part of a picture that has the given shape: `fraction` of the largest."""
    width, height = extent
    scale = min(width / shape[0], height / shape[1]) * fraction
    # Rounding may take the box over the edge by its last bit, which Pillow refuses.
    box_width, box_height = min(width, shape[0] * scale), min(height, shape[1] * scale)
    left, top = (width - box_width) / 2, (height - box_height) / 2
    return (left, top, min(width, left + box_width), min(height, top + box_height))
