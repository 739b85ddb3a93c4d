"""HEIF, made here by pillow-heif: its primary image, turned once, within the limits."""

from __future__ import annotations

import io
import struct
import subprocess
import sys
from typing import Any

import numpy as np
import pillow_heif
import pytest
from numpy.typing import NDArray
from PIL import Image, ImageOps

from twinlens.models.card import InputSpec
from twinlens.models.cards import SHIPPED_CARDS
from twinlens.models.pictures import PictureLimits, open_picture
from twinlens.shared.errors import BrokenPicture, PictureTooLarge, UnsupportedPicture

ORIENTATION = 0x0112


@pytest.fixture(scope="module")
def cat() -> Image.Image:
    with Image.open(SHIPPED_CARDS / "golden" / "chelsea.png") as image:
        return image.convert("RGB")


def heif(image: Image.Image, **options: Any) -> bytes:
    stream = io.BytesIO()
    pillow_heif.encode(image.mode, image.size, image.tobytes(), stream, quality=90, **options)
    return stream.getvalue()


def difference(content: bytes, image: Image.Image) -> float:
    picture = open_picture(content, wanted_px=1000)
    assert (picture.format, picture.orientation) == ("HEIF", 1)
    assert (picture.width, picture.height) == picture.stored.size == image.size
    pixels = np.asarray(picture.stored, np.int16)
    return float(np.abs(pixels - np.asarray(image.convert("RGB"), np.int16)).mean())


@pytest.mark.parametrize("mode", ["RGB", "L"])
def test_colours_and_grey_are_read(cat: Image.Image, mode: str) -> None:
    assert difference(heif(cat.convert(mode)), cat.convert(mode)) < 2


@pytest.mark.parametrize("orientation", range(1, 9))
def test_a_picture_is_turned_once(cat: Image.Image, orientation: int) -> None:
    exif = Image.Exif()
    exif[ORIENTATION] = orientation
    content = heif(cat, exif=exif.tobytes())
    oriented = cat.copy()
    oriented.getexif()[ORIENTATION] = orientation

    # Another turn is 40 or more; the file has both a turn of its own and EXIF that says it.
    assert difference(content, ImageOps.exif_transpose(oriented)) < 2


def test_alpha_is_blended_with_white(cat: Image.Image) -> None:
    half = cat.copy()
    half.putalpha(Image.linear_gradient("L").resize(cat.size))
    white = Image.new("RGBA", cat.size, "white")
    white.alpha_composite(half)

    assert difference(heif(half), white) < 2


def deep(pixels: NDArray[np.uint8], mode: str, size: tuple[int, int]) -> bytes:
    stream = io.BytesIO()
    content = (pixels.astype(np.uint16) * 257).tobytes()
    pillow_heif.encode(mode, size, content, stream, quality=90)
    assert pillow_heif.open_heif(stream).info["bit_depth"] == 10
    return stream.getvalue()


@pytest.mark.parametrize(
    ("mode", "name"), [("RGB", "RGB;16"), ("L", "L;16"), ("LA", "LA;16"), ("RGBA", "RGBA;16")]
)
def test_10_bits_become_8(cat: Image.Image, mode: str, name: str) -> None:
    image = cat.convert(mode)  # opaque, if it has alpha

    assert difference(deep(np.asarray(image), name, image.size), image) < 2


def test_the_primary_image_is_taken(cat: Image.Image) -> None:
    file = pillow_heif.from_pillow(Image.new("RGB", (64, 64), "red"))
    file.add_from_pillow(cat)
    file.add_from_pillow(Image.new("RGB", (64, 64), "blue"))
    stream = io.BytesIO()
    file.save(stream, primary_index=1, quality=90)

    assert difference(stream.getvalue(), cat) < 2


@pytest.fixture(scope="module")
def large(cat: Image.Image) -> Image.Image:
    return cat.resize((650, 433), Image.Resampling.BICUBIC)


@pytest.fixture(scope="module")
def tiled(large: Image.Image) -> bytes:
    """As phones write it: a grid of images of their own."""
    return heif(large, tile_size=256)


def test_a_large_picture_is_kept_small_and_looks_the_same(
    large: Image.Image, tiled: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    spec = InputSpec(width=64, height=64)
    whole = np.asarray(large.resize((64, 64), Image.Resampling.BICUBIC), np.int16)

    picture = open_picture(tiled, wanted_px=64)

    assert (picture.width, picture.height) == large.size
    assert 128 <= min(picture.stored.size) < 300
    assert np.abs(picture.pixels_for(spec) - whole).mean() < 2
    monkeypatch.setattr("twinlens.models.decoders.heif.STRIP_PIXELS", 1)
    in_strips = open_picture(tiled, wanted_px=64).stored
    assert (np.asarray(in_strips) == np.asarray(picture.stored)).all()


def test_deep_grey_is_kept_small_too(cat: Image.Image) -> None:
    grey = cat.convert("L")
    picture = open_picture(deep(np.asarray(grey), "L;16", grey.size), wanted_px=20)

    assert picture.stored.size == (65, 44)
    assert picture.box == (0, 0, 65, 43.25), "the last row is a quarter of one"


def test_boxes_may_say_their_size_in_other_ways(cat: Image.Image) -> None:
    content = heif(cat)
    to_the_end = content.replace(content[(i := content.find(b"mdat")) - 4 : i + 4], b"\0\0\0\0mdat")
    free = struct.pack(">I4sQ", 1, b"free", 16 + 100) + bytes(100)

    assert open_picture(to_the_end).width == cat.width
    assert open_picture(content + free).width == cat.width
    pixels = b"ispe" + bytes(4) + b"\xff" * 8  # which look like the size of an image
    assert open_picture(content + struct.pack(">I4s", 24, b"mdat") + pixels).width == cat.width
    with pytest.raises(BrokenPicture):
        open_picture((content + free)[:-1])
    with pytest.raises(BrokenPicture):
        open_picture(content + b"\0\0\0\x08free" * 100)


def test_a_large_header_is_refused_before_decoding(cat: Image.Image) -> None:
    even = cat.crop((0, 0, 64, 64))
    content = heif(even)
    assert b"clap" not in content

    with pytest.raises(PictureTooLarge, match="60000 x 60000"):
        open_picture(resized(content, 60_000))
    assert open_picture(content, PictureLimits(max_pixels=64 * 64)).width == 64
    with pytest.raises(PictureTooLarge):
        open_picture(content, PictureLimits(max_pixels=64 * 64 - 1))


def test_what_is_decoded_counts_though_little_of_it_is_shown(cat: Image.Image) -> None:
    content = heif(cat)
    assert b"clap" in content, "of an odd height, what is coded is larger"

    with pytest.raises(PictureTooLarge, match="20000 x 20000"):
        open_picture(resized(content, 20_000))


def resized(content: bytes, side_px: int) -> bytes:
    place = content.find(b"ispe") + 8
    return content[:place] + side_px.to_bytes(4, "big") * 2 + content[place + 8 :]


@pytest.mark.parametrize("share", [0.01, 0.1, 0.5, 0.9, 0.999])
def test_a_file_that_was_cut_off_is_broken(tiled: bytes, share: float) -> None:
    # libheif makes a picture of the tiles that are there.
    with pytest.raises(BrokenPicture):
        open_picture(tiled[: int(len(tiled) * share)])


def test_other_contents_than_hevc_are_unsupported(cat: Image.Image) -> None:
    stream = io.BytesIO()
    cat.save(stream, "AVIF")
    renamed = stream.getvalue().replace(b"ftypavif", b"ftypmif1", 1).replace(b"avif", b"none", 1)

    with pytest.raises(UnsupportedPicture, match="other contents than HEVC"):
        open_picture(renamed)


def test_without_pillow_heif_the_refusal_names_the_extra(
    cat: Image.Image, monkeypatch: pytest.MonkeyPatch
) -> None:
    content = heif(cat)
    monkeypatch.setitem(sys.modules, "pillow_heif", None)

    with pytest.raises(UnsupportedPicture, match=r'pip install "twinlens\[heif\]"'):
        open_picture(content)


def test_other_formats_do_not_need_it_and_are_not_changed_by_it(cat: Image.Image) -> None:
    # In a process of its own: this one has imported it.
    script = """
import io, sys
from PIL import Image
from twinlens.models.pictures import open_picture
for kind in ("JPEG", "PNG", "AVIF"):
    stream = io.BytesIO()
    Image.new("RGB", (20, 20)).save(stream, kind)
    open_picture(stream.getvalue())
assert "pillow_heif" not in sys.modules
open_picture(sys.stdin.buffer.read())
assert "pillow_heif" in sys.modules
assert "HEIF" not in Image.OPEN
"""
    subprocess.run([sys.executable, "-c", script], input=heif(cat), check=True)
