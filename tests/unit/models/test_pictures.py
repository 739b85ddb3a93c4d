"""Decoding, by files made here with Pillow: each rule of `models/pictures.py` once."""

from __future__ import annotations

import io
import struct
import zlib
from typing import Any

import numpy as np
import pillow_heif
import pytest
from numpy.typing import NDArray
from PIL import Image, ImageDraw
from PIL.PngImagePlugin import PngInfo

from twinlens.models.card import Fit, InputSpec, Resample
from twinlens.models.cards import SHIPPED_CARDS
from twinlens.models.formats import SERVED
from twinlens.models.pictures import (
    Picture,
    PictureLimits,
    Region,
    _crop_box,
    open_picture,
    thumbnail,
)
from twinlens.shared.errors import (
    BrokenPicture,
    EmptyPicture,
    PictureError,
    PictureTooLarge,
    UnsupportedPicture,
)

ORIENTATION = 0x0112
GPS = 0x8825
# What a stored picture must look like so that it is seen upright, by orientation.
UNTURN = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_90,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_270,
}


@pytest.fixture(scope="module")
def cat() -> Image.Image:
    with Image.open(SHIPPED_CARDS / "golden" / "chelsea.png") as image:
        return image.convert("RGB")


def save(image: Image.Image, kind: str, **options: Any) -> bytes:
    stream = io.BytesIO()
    if kind == "HEIF":  # which is not registered with Pillow
        pillow_heif.from_pillow(image).save(stream, **options)
    else:
        image.save(stream, kind, **options)
    return stream.getvalue()


def array(picture: Picture | Image.Image) -> NDArray[np.int16]:
    if isinstance(picture, Picture):
        spec = InputSpec(width=picture.width, height=picture.height)
        return picture.pixels_for(spec).astype(np.int16)
    return np.asarray(picture.convert("RGB"), np.int16)


def png_header(width: int, height: int) -> bytes:
    def chunk(kind: bytes, body: bytes) -> bytes:
        return (
            struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))
        )

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    body = chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(b"\0" * 100)) + chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + body


@pytest.mark.parametrize("kind", SERVED)
def test_every_served_format_is_read(cat: Image.Image, kind: str) -> None:
    picture = open_picture(save(cat, kind))

    assert (picture.format, picture.width, picture.height) == (kind, 260, 173)
    assert np.abs(array(picture) - array(cat)).mean() < 12


@pytest.mark.parametrize(
    "data",
    [
        b"hello, I am text",
        b"BMW is a car, and this is a text about it",
        b"<html><script>alert(1)</script></html>",
        b"<svg xmlns='http://www.w3.org/2000/svg'/>",
        b"%PDF-1.7\n",
        b"PK\x03\x04" + bytes(40),
        b"\x00\x00\x00\x18ftypisom" + bytes(40),
        b"8BPS\x00\x01" + bytes(40),
        b"\x89PN",
        bytes(100),
    ],
)
def test_what_is_no_picture_is_unsupported_whatever_its_name(data: bytes) -> None:
    with pytest.raises(UnsupportedPicture) as refused:
        open_picture(data)
    assert "JPEG" in refused.value.detail


def test_no_bytes_are_an_empty_picture() -> None:
    with pytest.raises(EmptyPicture):
        open_picture(b"")


@pytest.mark.parametrize("kind", SERVED)
@pytest.mark.parametrize("kept", [0.5, 0.05])
def test_half_a_picture_is_broken(cat: Image.Image, kind: str, kept: float) -> None:
    whole = save(cat, kind)

    with pytest.raises(BrokenPicture, match="complete file"):
        open_picture(whole[: int(len(whole) * kept)])


@pytest.mark.parametrize("start", [b"\xff\xd8\xff", b"\x89PNG\r\n\x1a\n", b"GIF89a", b"II*\x00"])
def test_a_signature_alone_is_broken(start: bytes) -> None:
    with pytest.raises(BrokenPicture):
        open_picture(start)


def test_a_jpeg_without_its_end_marker_is_broken(cat: Image.Image) -> None:
    with pytest.raises(BrokenPicture):
        open_picture(save(cat, "JPEG")[:-2])


@pytest.mark.parametrize("size", [(60_000, 60_000), (12_000, 8_000), (70_000, 1), (9_000, 9_000)])
def test_a_large_header_is_refused_before_decoding(size: tuple[int, int]) -> None:
    with pytest.raises(PictureTooLarge, match="80,000,000 pixels"):
        open_picture(png_header(*size))


def test_the_limit_is_a_setting_and_is_named(cat: Image.Image) -> None:
    data = save(cat, "PNG")

    assert open_picture(data, PictureLimits(max_pixels=260 * 173)).width == 260
    with pytest.raises(PictureTooLarge, match=r"260 x 173 = 44,980 pixels; the limit is 44,979"):
        open_picture(data, PictureLimits(max_pixels=260 * 173 - 1))
    with pytest.raises(PictureTooLarge, match="259 on a side"):
        open_picture(data, PictureLimits(max_side_px=259))


def test_a_text_bomb_is_not_unpacked(cat: Image.Image) -> None:
    text = PngInfo()
    text.add_text("bomb", "0" * 8_000_000, zip=True)

    assert (array(open_picture(save(cat, "PNG", pnginfo=text))) == array(cat)).all()


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "TIFF"])
def test_orientation_is_applied_once(cat: Image.Image, kind: str, orientation: int) -> None:
    exif = Image.Exif()
    exif[ORIENTATION] = orientation
    stored = cat.transpose(UNTURN[orientation]) if orientation > 1 else cat

    picture = open_picture(save(stored, kind, exif=exif))

    assert (picture.width, picture.height) == (260, 173)
    # JPEG noise is 3 here; the wrong turn 40 or more.
    assert np.abs(array(picture) - array(cat)).mean() < 8


@pytest.mark.parametrize("orientation", [0, 9, 77])
def test_an_orientation_that_is_none_is_ignored(cat: Image.Image, orientation: Any) -> None:
    exif = Image.Exif()
    exif[ORIENTATION] = orientation

    assert open_picture(save(cat, "JPEG", exif=exif)).width == 260


@pytest.mark.parametrize("junk", [b"Exif\0\0junk", b"Exif\0\0II*\0\xff\xff\xff\x7f", b"Exif\0\0"])
def test_broken_exif_is_ignored(cat: Image.Image, junk: bytes) -> None:
    assert open_picture(save(cat, "JPEG", exif=junk)).width == 260


def test_a_broken_profile_is_ignored(cat: Image.Image) -> None:
    plain, profiled = save(cat, "JPEG"), save(cat, "JPEG", icc_profile=b"junk" * 50)

    assert (array(open_picture(profiled)) == array(open_picture(plain))).all()


@pytest.mark.parametrize("mode", ["L", "1", "P", "CMYK", "LA", "RGBA"])
def test_every_mode_becomes_rgb(cat: Image.Image, mode: str) -> None:
    converted = cat.convert(mode)
    picture = open_picture(save(converted, "TIFF" if mode == "CMYK" else "PNG"))

    assert picture.stored.mode == "RGB"
    assert np.abs(array(picture) - array(converted)).mean() < 1


def test_16_bit_grey_is_scaled_and_not_clipped(cat: Image.Image) -> None:
    grey = np.asarray(cat.convert("L"))
    deep = Image.fromarray(grey.astype(np.uint16) * 257)
    assert deep.mode == "I;16"

    for kind in ("PNG", "TIFF"):
        assert (array(open_picture(save(deep, kind)))[..., 0] == grey).all()


def test_16_bit_grey_is_rounded_and_its_transparent_shade_is_white() -> None:
    shades = np.array([0, 128, 129, 257, 385, 386, 65_535, 1000], np.uint16)
    deep = Image.fromarray(np.tile(shades, (8, 1)))

    assert array(open_picture(save(deep, "PNG")))[0, :, 0].tolist() == [0, 0, 1, 1, 1, 2, 255, 4]
    clear = array(open_picture(save(deep, "PNG", transparency=1000)))
    assert clear[0, :, 0].tolist() == [0, 0, 1, 1, 1, 2, 255, 255]


def test_hidden_pixels_are_white(cat: Image.Image) -> None:
    hidden = cat.convert("RGBA")
    hidden.putalpha(0)
    half = cat.convert("RGBA")
    half.putalpha(128)

    assert (array(open_picture(save(hidden, "PNG"))) == 255).all()
    blended = array(cat) * (128 / 255) + 255 * (127 / 255)
    assert np.abs(array(open_picture(save(half, "PNG"))) - blended).max() <= 1.5


@pytest.mark.parametrize(("mode", "shade"), [("P", 0), ("L", 0), ("RGB", (0, 0, 0)), ("1", 0)])
def test_a_transparent_shade_is_white(mode: str, shade: Any) -> None:
    image = Image.new("RGB", (20, 20), (0, 0, 0))
    ImageDraw.Draw(image).rectangle((10, 0, 19, 19), (204, 204, 204))
    index = image.convert("P").getpixel((0, 0)) if mode == "P" else shade

    pixels = array(open_picture(save(image.convert(mode), "PNG", transparency=index)))

    assert (pixels[:, :10] == 255).all()
    # Bilevel has no grey: it is dithered.
    assert mode == "1" or (pixels[:, 10:] == 204).all()


@pytest.mark.parametrize("kind", ["GIF", "WEBP", "PNG", "TIFF", "AVIF"])
def test_only_the_first_frame_counts(cat: Image.Image, kind: str) -> None:
    others = [Image.new("RGB", cat.size, colour) for colour in ("red", "blue")]

    picture = open_picture(save(cat, kind, save_all=True, append_images=others))

    assert np.abs(array(picture) - array(cat)).mean() < 12


@pytest.mark.parametrize("kind", ["JPEG", "PNG"])
@pytest.mark.parametrize("mode", ["RGB", "L", "RGBA"])
def test_a_large_picture_is_kept_small_and_looks_the_same(
    cat: Image.Image, kind: str, mode: str
) -> None:
    if (kind, mode) == ("JPEG", "RGBA"):
        pytest.skip("JPEG has no alpha")
    # Sides that no factor divides.
    large = cat.resize((1301, 867), Image.Resampling.BICUBIC).convert(mode)
    spec = InputSpec(width=64, height=64)

    picture = open_picture(save(large, kind), wanted_px=spec.wanted_px)

    assert (picture.width, picture.height) == (1301, 867)
    assert 128 <= min(picture.stored.size) < 300
    whole = np.asarray(large.convert("RGB").resize((64, 64), Image.Resampling.BICUBIC), np.int16)
    # Measured 0.2 to 0.5; 1.1 to 1.3 when `extent` is left out.
    assert np.abs(picture.pixels_for(spec) - whole).mean() < 0.8


def test_strips_meet_without_a_seam(cat: Image.Image, monkeypatch: pytest.MonkeyPatch) -> None:
    large = cat.resize((1040, 692)).convert("RGBA")
    data = save(large, "PNG")
    whole = array(open_picture(data, wanted_px=64))

    monkeypatch.setattr("twinlens.models.decoders.flatten.STRIP_PIXELS", 1)

    assert (array(open_picture(data, wanted_px=64)) == whole).all()


@pytest.mark.parametrize("size", [(1, 1), (1, 8000), (8000, 2), (3, 2)])
@pytest.mark.parametrize("fit", list(Fit))
def test_long_and_tiny_pictures_give_the_models_shape(size: tuple[int, int], fit: Fit) -> None:
    picture = open_picture(save(Image.new("RGB", size, "teal"), "PNG"))
    fraction = 1.0 if fit is Fit.SQUASH else 0.875

    pixels = picture.pixels_for(InputSpec(width=40, height=32, fit=fit, crop_fraction=fraction))

    assert pixels.shape == (32, 40, 3)
    assert pixels.dtype == np.uint8
    assert (pixels == (0, 128, 128)).all()
    with Image.open(io.BytesIO(picture.thumbnail())) as small:
        assert max(small.size) <= 256


def test_a_crop_keeps_the_middle_and_the_shape() -> None:
    assert _crop_box((0, 0, 400, 200), (224, 224), 0.5) == (150, 50, 250, 150)
    assert _crop_box((100, 10, 500, 210), (224, 224), 0.5) == (250, 60, 350, 160)


def test_a_crop_never_leaves_the_picture() -> None:
    for width in range(1, 300):
        for height in (1, 7, 173, 299):
            left, top, right, bottom = _crop_box((0, 0, width, height), (224, 224), 1.0)
            assert 0 <= left < right <= width
            assert 0 <= top < bottom <= height


def as_torchvision(image: Image.Image, resize: int, crop: int, filter_: Image.Resampling) -> Any:
    """`Resize(resize)`, then `CenterCrop(crop)`, as torchvision does them to a picture of Pillow's.

    Source: torchvision/transforms/functional.py.
    """
    width, height = image.size
    short, long = (width, height) if width <= height else (height, width)
    new_short, new_long = resize, int(resize * long / short)
    new_size = (new_short, new_long) if width <= height else (new_long, new_short)
    resized = image.resize(new_size, filter_)
    crop_top = int(round((resized.height - crop) / 2.0))  # noqa: RUF046 (as they write it)
    crop_left = int(round((resized.width - crop) / 2.0))  # noqa: RUF046
    return np.asarray(resized.crop((crop_left, crop_top, crop_left + crop, crop_top + crop)))


SIZES = [
    (451, 300),
    (300, 451),
    (257, 301),
    (301, 257),
    (224, 224),
    (90, 700),
    (31, 20),
    (900, 801),
]


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize(("resize", "crop"), [(256, 224), (232, 224), (342, 299), (384, 384)])
@pytest.mark.parametrize("resample", list(Resample))
def test_a_picture_is_resized_and_cropped_to_the_last_bit_as_by_torchvision(
    size: tuple[int, int], resize: int, crop: int, resample: Resample
) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (size[1], size[0], 3), np.uint8)
    image = Image.fromarray(pixels)
    spec = InputSpec(width=crop, height=crop, fit=Fit.CROP, resized_px=resize, resample=resample)

    picture = open_picture(save(image, "PNG"), wanted_px=spec.wanted_px)

    expected = as_torchvision(image, resize, crop, Image.Resampling[resample.name])
    assert np.array_equal(picture.pixels_for(spec), expected)


def test_a_turned_picture_is_cropped_as_it_is_looked_at(cat: Image.Image) -> None:
    spec = InputSpec(
        width=224, height=224, fit=Fit.CROP, resized_px=256, resample=Resample.BILINEAR
    )
    expected = as_torchvision(cat, 256, 224, Image.Resampling.BILINEAR).astype(int)
    for orientation, unturn in UNTURN.items():
        exif = Image.Exif()
        exif[ORIENTATION] = orientation
        picture = open_picture(save(cat.transpose(unturn), "PNG", exif=exif), wanted_px=256)
        # Columns and rows are resized one after the other, each time rounded.
        assert np.abs(picture.pixels_for(spec) - expected).max() <= 1, orientation


def test_of_a_long_picture_the_middle_is_cut_out() -> None:
    long = np.zeros((10, 40_000, 3), np.uint8)
    long[:, 19_995:20_005] = 255
    picture = open_picture(save(Image.fromarray(long), "PNG"), wanted_px=256)
    sides = {"width": 224, "height": 224, "resized_px": 256}
    for fit, is_white in ((Fit.CROP, True), (Fit.SQUASH, False)):
        pixels = picture.pixels_for(InputSpec(**sides, fit=fit))
        assert pixels.shape == (224, 224, 3)
        assert bool(pixels[:, 8:-8].mean() > 250) is is_white


def test_caffe_squashes_a_picture_before_it_crops(cat: Image.Image) -> None:
    squashed = cat.resize((256, 256), Image.Resampling.BILINEAR).crop((16, 16, 240, 240))
    spec = InputSpec(width=224, height=224, resized_px=256, resample=Resample.BILINEAR)
    picture = open_picture(save(cat, "PNG"), wanted_px=spec.wanted_px)
    assert np.array_equal(picture.pixels_for(spec), np.asarray(squashed))


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("kind", ["JPEG", "PNG", "TIFF"])
def test_a_region_is_where_it_is_looked_at(cat: Image.Image, kind: str, orientation: int) -> None:
    exif = Image.Exif()
    exif[ORIENTATION] = orientation
    stored = cat.transpose(UNTURN[orientation]) if orientation > 1 else cat
    part = cat.crop((26, 17, 156, 70))

    picture = open_picture(
        save(stored, kind, exif=exif, **({"quality": 95} if kind == "JPEG" else {})),
        region=Region(26 / 260, 17 / 173, 156 / 260, 70 / 173),
    )

    assert (picture.width, picture.height) == (130, 53)
    # JPEG noise is 2; the neighbouring part, or another turn, 25 or more.
    assert np.abs(array(picture) - array(part)).mean() < 4


@pytest.mark.parametrize("kind", ["JPEG", "PNG"])
@pytest.mark.parametrize("mode", ["RGB", "L", "RGBA"])
def test_a_region_of_a_large_picture_keeps_its_detail(
    cat: Image.Image, kind: str, mode: str
) -> None:
    if (kind, mode) == ("JPEG", "RGBA"):
        pytest.skip("JPEG has no alpha")
    large = cat.resize((1301, 867), Image.Resampling.BICUBIC).convert(mode)
    grain = np.random.default_rng(0).integers(-60, 60, (867, 1301, 1))
    channels = np.atleast_3d(np.asarray(large, np.int64))
    channels[..., :3] = np.clip(channels[..., :3] + grain, 0, 255)
    large = Image.fromarray(np.squeeze(channels.astype(np.uint8)))
    spec = InputSpec(width=32, height=32)

    picture = open_picture(
        save(large, kind), wanted_px=spec.wanted_px, region=Region(0.301, 0.1, 0.501, 0.3)
    )

    # At the scale of the whole picture it would have 17 rows.
    assert 64 <= min(picture.stored.size) < 150
    box = (0.301 * 1301, 0.1 * 867, 0.501 * 1301, 0.3 * 867)
    plain = large.convert("RGB").resize((32, 32), Image.Resampling.BICUBIC, box)
    assert np.abs(picture.pixels_for(spec) - np.asarray(plain, np.int16)).mean() < 2


@pytest.mark.parametrize("orientation", [1, 6])
@pytest.mark.parametrize("kind", ["JPEG", "PNG"])
@pytest.mark.parametrize(
    "region", [(0, 0.45, 1, 0.55), (0.45, 0, 0.55, 1), (0.2, 0.2, 0.4, 0.9), (0, 0, 1, 1)]
)
def test_a_thin_region_has_twice_the_pixels_that_are_wanted_on_its_shorter_side(
    cat: Image.Image,
    kind: str,
    orientation: int,
    region: tuple[float, float, float, float],
) -> None:
    exif = Image.Exif()
    exif[ORIENTATION] = orientation
    data = save(cat.resize((1600, 1440)), kind, exif=exif)

    picture = open_picture(data, wanted_px=40, region=Region(*region))

    left, top, right, bottom = picture.box
    shorter = min(right - left, bottom - top)
    assert 80 <= shorter < 200, "and no more than the next step of a decoder"


def test_a_part_of_a_part_is_where_it_is_looked_at(cat: Image.Image) -> None:
    picture = open_picture(save(cat, "PNG"), region=Region(0.1, 0.1, 0.9, 0.9))

    twice = picture.part(Region(0.5, 0.25, 1, 1)).part(Region(0.5, 0, 1, 0.5))

    assert twice.box == pytest.approx(picture.part(Region(0.75, 0.25, 1, 0.625)).box)
    assert (twice.width, twice.height) == pytest.approx((52, 52), abs=1)


def test_a_region_may_begin_within_a_pixel() -> None:
    halves = Image.new("RGB", (2, 1), "black")
    halves.putpixel((1, 0), (255, 255, 255))

    picture = open_picture(save(halves, "PNG"), region=Region(0.25, 0, 0.75, 1))

    assert picture.pixels_for(InputSpec(width=8, height=8)).mean() == pytest.approx(127.5, abs=1)


def test_a_region_is_cropped_as_a_picture_of_its_own(cat: Image.Image) -> None:
    spec = InputSpec(width=48, height=48, fit=Fit.CROP, crop_fraction=0.75)
    alone = open_picture(save(cat.crop((52, 0, 208, 173)), "PNG"))

    region = open_picture(save(cat, "PNG"), region=Region(0.2, 0, 0.8, 1))

    assert np.abs(region.pixels_for(spec).astype(int) - alone.pixels_for(spec)).max() <= 1
    with Image.open(io.BytesIO(region.thumbnail())) as small:
        assert small.size == (156, 173)


@pytest.mark.parametrize("size", [(1, 1), (1, 8000), (8000, 2), (3, 2)])
@pytest.mark.parametrize("region", [(0.0, 0.5, 0.3, 0.51), (0.9, 0.0, 1.0, 1.0), (0, 0, 1, 1e-6)])
def test_a_region_may_be_less_than_a_pixel(
    size: tuple[int, int], region: tuple[float, float, float, float]
) -> None:
    picture = open_picture(save(Image.new("RGB", size, "teal"), "PNG"), region=Region(*region))

    pixels = picture.pixels_for(InputSpec(width=40, height=32, fit=Fit.CROP))

    assert picture.width >= 1
    assert picture.height >= 1
    assert (pixels == (0, 128, 128)).all()
    assert picture.thumbnail()


def test_a_thumbnail_is_small_and_tells_no_place(cat: Image.Image) -> None:
    exif = Image.Exif()
    exif[GPS] = {1: "N", 2: (52.0, 31.0, 12.0), 3: "E", 4: (13.0, 24.0, 18.0)}
    exif[ORIENTATION] = 6
    data = save(cat, "JPEG", exif=exif, comment=b"secret", icc_profile=b"profile" * 20)

    small = thumbnail(data, 100)

    with Image.open(io.BytesIO(small)) as image:
        assert (image.format, image.size) == ("JPEG", (67, 100))
        assert not dict(image.getexif())
        assert not {"exif", "comment", "icc_profile", "xmp"} & image.info.keys()
    assert b"Exif" not in small


def test_a_thumbnail_never_grows(cat: Image.Image) -> None:
    with Image.open(io.BytesIO(thumbnail(save(cat, "PNG"), 1000))) as image:
        assert image.size == cat.size


@pytest.mark.parametrize("kind", SERVED)
def test_rotten_bits_are_at_most_a_picture_error(cat: Image.Image, kind: str) -> None:
    whole = save(cat.resize((60, 40)), kind)
    generator = np.random.default_rng(7)

    for _ in range(60):
        rotten = bytearray(whole)
        for place in generator.integers(16, len(rotten), 8):
            rotten[place] = int(generator.integers(0, 256))
        try:
            picture = open_picture(bytes(rotten))
        except PictureError:
            continue
        assert picture.stored.mode == "RGB"
