"""Decodes pictures into pixels, within the limits that are set."""

from __future__ import annotations

from typing import TYPE_CHECKING

from twinlens.models.pictures import WHOLE, Picture, PictureLimits, Region, open_picture, thumbnail

if TYPE_CHECKING:
    from collections.abc import Sequence

    from twinlens.models.session import Embedder, Pixels


class Decoder:
    """Decodes pictures in the detail that models need. Every method may raise `PictureError`."""

    def __init__(self, max_pixels: int) -> None:
        self._limits = PictureLimits(max_pixels=max_pixels)

    def open(self, content: bytes, models: Sequence[Embedder], region: Region = WHOLE) -> Picture:
        """Decodes a picture, or a region of it.

        Raises:
            PictureError: The picture is refused.
        """
        wanted_px = max(model.card.input.wanted_px for model in models)
        return open_picture(content, self._limits, wanted_px=wanted_px, region=region)

    def decode(self, content: bytes, models: Sequence[Embedder]) -> tuple[Picture, list[Pixels]]:
        """Decodes a picture once, and resizes it for each model.

        Returns:
            The picture, and uint8 [height, width, 3] for each of the models, in their order.

        Raises:
            PictureError: The picture is refused.
        """
        picture = self.open(content, models)
        return picture, [picture.pixels_for(model.card.input) for model in models]

    def thumbnail(self, content: bytes) -> bytes:
        """Returns a picture's thumbnail, as the bytes of a file.

        Raises:
            PictureError: The picture is refused.
        """
        return thumbnail(content, limits=self._limits)
