"""What is known of a picture once its header was read, and how one is refused."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import IO, TYPE_CHECKING, NamedTuple

from PIL import Image

from twinlens.shared.errors import PictureTooLarge

if TYPE_CHECKING:
    from PIL.ImageFile import ImageFile


class Samples(NamedTuple):
    """What the numbers of decoded pixels mean, where their mode does not say it."""

    # 0 is white, and the largest number is black.
    is_inverted: bool = False
    # The grey or the colour that is transparent, as the decoded pixels have it.
    transparent: int | tuple[int, int, int] | None = None

    @property
    def is_plain(self) -> bool:
        """If pixels of 8 bits are what they seem."""
        return not self.is_inverted and self.transparent is None


PLAIN = Samples()

# Decoded pixels, and how much of them is picture: of 134 rows that 1730 became, 133.08.
Loaded = tuple[Image.Image, tuple[float, float]]


@dataclass(frozen=True)
class Header:
    """A picture that is understood, and not decoded yet."""

    # In stored pixels, before the orientation is applied.
    width: int
    height: int
    # Decodes at least so many pixels on the shorter side, if there are as many.
    load: Callable[[int], Loaded]
    # As EXIF counts them: 1 is upright.
    orientation: int = 1
    samples: Samples = PLAIN
    # Width and height of what is decoded, where it is cut to the picture afterwards.
    coded_size: tuple[int, int] | None = None
    # How many times as much time or memory a pixel takes as one of a PNG.
    cost: float = 1.0

    @property
    def weight_px(self) -> float:
        """How many pixels of a PNG take as much as this picture."""
        width, height = self.coded_size or (self.width, self.height)
        return width * height * self.cost


def too_many(what: str, limit: int) -> PictureTooLarge:
    """Returns the error for a file of more parts than those of any program that writes such."""
    return PictureTooLarge(f"the file has more than {limit:,} {what}; save the picture anew")


def open_with_pillow(stream: IO[bytes], format_name: str) -> ImageFile:
    """Opens a file with the one of Pillow's decoders that its format has."""
    return Image.open(stream, formats=[format_name])


def load_whole(image: ImageFile) -> Callable[[int], Loaded]:
    """Returns how an image is loaded whose decoder knows no smaller size."""

    def load(least_px: int) -> Loaded:  # noqa: ARG001
        image.load()
        return image, image.size

    return load
