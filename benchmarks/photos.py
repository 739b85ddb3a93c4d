"""Photos by the thousand: some real ones, and copies of them with other bytes."""

from __future__ import annotations

import itertools
import random
from pathlib import Path

from PIL import Image
from support.photos import SIZE_PX, SOURCES, jpeg, source


class Photos:
    """As many JPEGs as are asked for, no two with the same bytes.

    Decoding and embedding one costs what a picture that nobody has seen costs: it differs from
    its original in a comment, which is enough for another SHA-256.
    """

    def __init__(
        self, n_originals: int = 64, size_px: tuple[int, int] = SIZE_PX, quality: int = 90
    ) -> None:
        rng = random.Random(0)
        sources = [source(name) for name in SOURCES]
        self._originals = [
            jpeg(_window(rng, sources[i % len(sources)], size_px), quality)
            for i in range(n_originals)
        ]
        self._numbers = itertools.count()

    def take(self) -> bytes:
        number = next(self._numbers)
        return _with_comment(self._originals[number % len(self._originals)], f"{number:09d}")

    def write(self, folder: Path, n_photos: int) -> list[Path]:
        folder.mkdir(parents=True, exist_ok=True)
        paths = [folder / f"{number:05d}.jpg" for number in range(n_photos)]
        for path in paths:
            path.write_bytes(self.take())
        return paths


def _window(rng: random.Random, photo: Image.Image, size_px: tuple[int, int]) -> Image.Image:
    width = int(min(photo.width, photo.height * 4 / 3) * rng.uniform(0.5, 0.95))
    height = width * 3 // 4
    left = rng.randint(0, photo.width - width)
    top = rng.randint(0, photo.height - height)
    window = (left, top, left + width, top + height)
    return photo.resize(size_px, Image.Resampling.LANCZOS, window)


def _with_comment(content: bytes, comment: str) -> bytes:
    """Puts a COM segment behind the SOI marker, which is the first two bytes."""
    text = comment.encode()
    return content[:2] + b"\xff\xfe" + (len(text) + 2).to_bytes(2, "big") + text + content[2:]
