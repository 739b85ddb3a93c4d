"""From decoded pixels of any mode to RGB on white, in the detail that is wanted."""

from __future__ import annotations

from math import ceil

import numpy as np
from PIL import Image, ImageChops

from twinlens.models.decoders.header import PLAIN, Samples
from twinlens.models.formats import unsupported

# Pixels that are worked on at a time: that must not double what a large picture takes.
STRIP_PIXELS = 1 << 22
_WHITE = 255

_MODES_16_BIT = {"I;16", "I;16L", "I;16B", "I;16N"}
_MODES_8_BIT = {"1", "L", "P", "RGB", "RGBX", "CMYK", "YCbCr"}
_MODES_ALPHA = {"LA", "PA", "RGBA", "RGBa"}


def flatten(
    image: Image.Image, samples: Samples, factor: int, kept: tuple[int, int, int, int]
) -> Image.Image:
    """Makes RGB of a part of an image; strip by strip, so that memory stays flat.

    Args:
        image: Decoded, of any mode.
        samples: What its numbers mean.
        factor: What each side is divided by.
        kept: The part: left, top, right and bottom, in pixels of the image.

    Raises:
        UnsupportedPicture: The mode is none whose range is known.
    """
    if image.mode not in _MODES_8_BIT | _MODES_ALPHA | _MODES_16_BIT:
        raise unsupported(f"pixels of mode {image.mode!r}", "JPEG or PNG")
    if image.mode == "RGB" and samples.is_plain and "transparency" not in image.info:
        return image.reduce(factor, kept) if factor > 1 else image.crop(kept)
    left, top, right, bottom = kept
    width, height = right - left, bottom - top
    flat = Image.new("RGB", (ceil(width / factor), ceil(height / factor)))
    n_rows = factor * max(1, STRIP_PIXELS // (width * factor))
    for start in range(0, height, n_rows):
        strip = image.crop((left, top + start, right, top + min(start + n_rows, height)))
        flat.paste(to_rgb(strip, samples).reduce(factor), (0, start // factor))
    return flat


def to_rgb(image: Image.Image, samples: Samples = PLAIN) -> Image.Image:
    """Makes RGB on white of a strip of an image, of any mode that `flatten` takes."""
    if image.mode in _MODES_16_BIT:
        rgb = _scale_16_bit(image)
    elif image.mode in _MODES_ALPHA or "transparency" in image.info:
        rgba = image.convert("RGBA")
        white = Image.new("RGBA", rgba.size, (_WHITE, _WHITE, _WHITE, _WHITE))
        rgb = Image.alpha_composite(white, rgba).convert("RGB")
    else:
        rgb = image.convert("RGB")
    if samples.is_inverted:
        rgb = ImageChops.invert(rgb)
    return rgb if samples.transparent is None else _hide(rgb, image, samples.transparent)


def _scale_16_bit(image: Image.Image) -> Image.Image:
    # convert("RGB") clips: whatever is above 255 of 65535 would be white.
    deep = np.asarray(image).astype(np.uint32)
    return Image.fromarray(((deep + 128) // 257).astype(np.uint8)).convert("RGB")


def _hide(
    rgb: Image.Image, image: Image.Image, transparent: int | tuple[int, int, int]
) -> Image.Image:
    """White, where the image has the shade or the colour that is transparent."""
    is_hidden = np.asarray(image) == transparent
    mask = is_hidden.all(axis=-1) if is_hidden.ndim == 3 else is_hidden
    rgb.paste((_WHITE, _WHITE, _WHITE), mask=Image.fromarray(mask))
    return rgb
