"""Decodes pictures into pixels, within the limits that are set."""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING

from twinlens.models.pictures import (
    WHOLE,
    Picture,
    PictureLimits,
    Region,
    open_picture,
    thumbnail,
    weigh_picture,
)
from twinlens.shared.errors import PictureTooLarge
from twinlens.workers.memory import MemoryLimit

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from twinlens.models.session import Embedder, Pixels

# Nearly twice what the costliest picture takes that may be decoded
# (docs/decisions/0020-decoding.md), and room for what the process does meanwhile.
BYTES_PER_PIXEL, ROOM_BYTES = 16, 256 << 20
# As many of the largest pictures as there may be in one query, or more that are smaller.
LARGEST_PER_QUERY = 3


class Decoder:
    """Decodes pictures in the detail that models need. Every method may raise `PictureError`."""

    def __init__(self, max_pixels: int) -> None:
        self._limits = PictureLimits(max_pixels=max_pixels)
        self._max_bytes = max_pixels * BYTES_PER_PIXEL + ROOM_BYTES
        self._memory = MemoryLimit(self._max_bytes)

    def open(self, content: bytes, models: Sequence[Embedder], region: Region = WHOLE) -> Picture:
        """Decodes a picture, or a region of it.

        Raises:
            PictureError: The picture is refused.
        """
        wanted_px = max(model.card.input.wanted_px for model in models)
        return self.open_at(content, wanted_px, region)

    def open_at(self, content: bytes, wanted_px: int, region: Region = WHOLE) -> Picture:
        """Decodes a picture, or a region of it, for uses that need so long a shorter side.

        Raises:
            PictureError: The picture is refused.
        """
        with self._within_memory():
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
        with self._within_memory():
            return thumbnail(content, limits=self._limits)

    def check_together(self, contents: Sequence[bytes]) -> None:
        """Checks the pictures of one query, which somebody waits for, before any is decoded.

        Raises:
            PictureError: One is refused, or they are too much together.
        """
        limit_px = LARGEST_PER_QUERY * self._limits.max_pixels
        n_pixels = int(sum(weigh_picture(content, self._limits) for content in contents))
        if n_pixels > limit_px:
            raise PictureTooLarge(
                f"the query's pictures take as much as {n_pixels:,} pixels together; the limit is"
                f" {limit_px:,}: send fewer, or smaller ones"
            )

    @contextmanager
    def _within_memory(self) -> Iterator[None]:
        try:
            with self._memory.held():
                yield
        except MemoryError as error:
            raise PictureTooLarge(
                f"decoding the picture takes more memory than may be used, {self._max_bytes:,}"
                " bytes at most; send a smaller one"
            ) from error
