"""Photos for tests and benchmarks: windows of those that scikit-image's wheel carries."""

from __future__ import annotations

import io
import random
from pathlib import Path

import skimage.data
from PIL import Image

# At a common size of web pictures.
SIZE_PX = (500, 375)
SOURCES = ("astronaut.png", "chelsea.png", "coffee.png", "rocket.jpg", "motorcycle_left.png")


def make_photos(folder: Path, n_photos: int, seed: int) -> list[Path]:
    """Writes JPEGs of 500 x 375 px, all different; another seed gives other photos.

    Each is a window of a real photo, at a random place and of a random size, so that decoding
    costs what it does with a user's pictures, and no two have the same bytes.
    """
    rng = random.Random(seed)
    sources = [source(name) for name in SOURCES]
    folder.mkdir(parents=True)
    return [
        _window(rng, sources[i % len(sources)], folder / f"{seed}-{i:04d}.jpg")
        for i in range(n_photos)
    ]


def source(name: str) -> Image.Image:
    """Returns one of scikit-image's photos, in RGB."""
    return Image.open(Path(skimage.data.__file__).parent / name).convert("RGB")


def jpeg(image: Image.Image, quality: int = 90) -> bytes:
    content = io.BytesIO()
    image.save(content, "JPEG", quality=quality)
    return content.getvalue()


def _window(rng: random.Random, photo: Image.Image, path: Path) -> Path:
    width = int(min(photo.width, photo.height * 4 / 3) * rng.uniform(0.5, 0.95))
    height = width * 3 // 4
    left = rng.randint(0, photo.width - width)
    top = rng.randint(0, photo.height - height)
    window = photo.crop((left, top, left + width, top + height))
    path.write_bytes(jpeg(window.resize(SIZE_PX, Image.Resampling.LANCZOS)))
    return path


# Those of the fixture `small_photos`.
NAMES = ("astronaut.png", "chelsea.png", "coffee.png", "rocket.jpg")
