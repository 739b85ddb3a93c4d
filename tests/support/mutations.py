"""Small real pictures of every kind that is served, archives of them, and how both are damaged."""

from __future__ import annotations

import gzip
import io
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

from support.archives import tar_of, zip_of
from support.bmps import RLE8, bmp
from support.photos import source

if TYPE_CHECKING:
    import random
    from collections.abc import Mapping

    from PIL import Image

# As lengths, counts and offsets: nothing, one, half of all, nearly all.
_NUMBERS = (0, 1, 0x7F, 0x80, 0xFF, 0x7FFF, 0xFFFF, 0x7FFFFFFF, 0x80000000, 0xFFFFFFFF)
_ARCHIVED = 3

# A name, a content type, bytes.
Archive = tuple[str, str, bytes]


def whole_pictures() -> dict[str, bytes]:
    """Returns pictures by name: a photo in each format, and in each coding of it."""
    photo = source("chelsea.png").resize((60, 45))
    pictures = {
        "baseline.jpg": _saved(photo, "JPEG"),
        "progressive.jpg": _saved(photo, "JPEG", progressive=True, exif=_turned(photo)),
        "cmyk.jpg": _saved(photo.convert("CMYK"), "JPEG"),
        "rgb.png": _saved(photo, "PNG", exif=_turned(photo)),
        "palette.png": _saved(photo.quantize(), "PNG", transparency=3),
        "deep.png": _saved(photo.convert("I;16"), "PNG"),
        "palette.gif": _saved(photo, "GIF"),
        "frames.gif": _saved(photo, "GIF", save_all=True, append_images=[photo.rotate(90)]),
        "lossy.webp": _saved(photo, "WEBP"),
        "lossless.webp": _saved(photo.convert("RGBA"), "WEBP", lossless=True),
        "frames.webp": _saved(photo, "WEBP", save_all=True, append_images=[photo.rotate(90)]),
        "plain.tif": _saved(photo, "TIFF"),
        "bmp.bmp": _saved(photo, "BMP"),
        "runs.bmp": bmp((4, 2), 8, b"\4\1\0\0\4\2\0\1", compression=RLE8, palette=bytes(1024)),
        "picture.avif": _saved(photo, "AVIF"),
    }
    for coding in ("tiff_deflate", "tiff_lzw", "packbits", "jpeg", "zstd"):
        pictures[f"{coding}.tif"] = _saved(photo, "TIFF", compression=coding)
    if find_spec("pillow_heif"):
        import pillow_heif

        stream = io.BytesIO()
        pillow_heif.from_pillow(photo).save(stream)
        pictures["picture.heic"] = stream.getvalue()
    return pictures


def _saved(photo: Image.Image, format_name: str, **how: Any) -> bytes:
    stream = io.BytesIO()
    photo.save(stream, format_name, **how)
    return stream.getvalue()


def _turned(photo: Image.Image) -> Image.Exif:
    exif = photo.getexif()
    exif[0x0112] = 6
    return exif


def mutate(rng: random.Random, content: bytes, others: Mapping[str, bytes]) -> bytes:
    """Damages a file in one to three ways."""
    for _ in range(rng.randint(1, 3)):
        content = rng.choice(_WAYS)(rng, content, rng.choice(list(others.values())))
    return content


def mutated_archive(rng: random.Random, pictures: Mapping[str, bytes]) -> Archive:
    """Returns a damaged archive of pictures, some of which are damaged too."""
    names = rng.sample(sorted(pictures), _ARCHIVED)
    files = {
        name: mutate(rng, pictures[name], pictures) if rng.random() < 0.5 else pictures[name]
        for name in names
    }
    archives = [
        ("a.zip", "application/zip", zip_of(files)),
        ("a.tar", "application/x-tar", tar_of(files)),
        ("a.tgz", "application/gzip", gzip.compress(tar_of(files), mtime=0)),
    ]
    name, kind, content = rng.choice(archives)
    return name, kind, mutate(rng, content, {each[0]: each[2] for each in archives})


def _flip_bits(rng: random.Random, content: bytes, other: bytes) -> bytes:
    changed = bytearray(content)
    for _ in range(min(len(content), rng.randint(1, 8))):
        changed[rng.randrange(len(changed))] ^= 1 << rng.randrange(8)
    return bytes(changed)


def _set_number(rng: random.Random, content: bytes, _: bytes) -> bytes:
    """Puts another number where one may be: mostly in the head, where the lengths are."""
    n_bytes = rng.choice([1, 2, 4])
    last = max(0, len(content) - n_bytes)
    start = rng.randint(0, min(last, 200) if rng.random() < 0.7 else last)
    number = rng.choice(_NUMBERS) & ((1 << 8 * n_bytes) - 1)
    order: Any = rng.choice(["little", "big"])
    return content[:start] + number.to_bytes(n_bytes, order) + content[start + n_bytes :]


def _cut_off(rng: random.Random, content: bytes, _: bytes) -> bytes:
    return content[: rng.randint(0, len(content))]


def _take_out(rng: random.Random, content: bytes, _: bytes) -> bytes:
    start, end = _part_of(rng, content)
    return content[:start] + content[end:]


def _repeat(rng: random.Random, content: bytes, _: bytes) -> bytes:
    start, end = _part_of(rng, content)
    return content[:end] + content[start:end] * rng.choice([1, 2, 50]) + content[end:]


def _splice(rng: random.Random, content: bytes, other: bytes) -> bytes:
    """Puts a part of another file in place of one, or behind the beginning."""
    (start, end), (first, last) = _part_of(rng, content), _part_of(rng, other)
    return content[:start] + other[first:last] + content[end:]


def _part_of(rng: random.Random, content: bytes) -> tuple[int, int]:
    start = rng.randint(0, len(content))
    return start, min(len(content), start + rng.choice([1, 4, 16, 64, 4096]))


_WAYS = (_flip_bits, _flip_bits, _set_number, _set_number, _cut_off, _take_out, _repeat, _splice)
