"""TIFF written by hand: what is read right, and what is refused as it would be read wrongly."""

from __future__ import annotations

import io
import zlib
from typing import Any

import numpy as np
import pytest
from PIL import Image
from support import tiffs
from support.pixels import HEIGHT, WIDTH, noise, on_white, read, shades
from support.tiffs import Tags, page, tiff

from twinlens.models.cards import SHIPPED_CARDS
from twinlens.models.pictures import open_picture
from twinlens.shared.errors import BrokenPicture, UnsupportedPicture

DEFLATE = 8
ORDERS = pytest.mark.parametrize("order", ["<", ">"])
COMPRESSIONS = pytest.mark.parametrize("compression", [1, DEFLATE])


def reverse_bits(content: bytes) -> bytes:
    return bytes(int(f"{byte:08b}"[::-1], 2) for byte in content)


def coded(content: bytes, compression: int) -> bytes:
    return zlib.compress(content) if compression == DEFLATE else content


def wrap(samples: Any, n_bits: int, compression: int, order: str, tags: Tags) -> bytes:
    """A file of one page, in strips of 10 rows."""
    strips = [
        coded(tiffs.pack(samples[top : top + 10], n_bits, order), compression)
        for top in range(0, len(samples), 10)
    ]
    given = {tiffs.COMPRESSION: compression, tiffs.ROWS_PER_STRIP: 10, **tags}
    return tiff(page(samples, n_bits, given, order=order, strips=strips), order=order)


@ORDERS
@COMPRESSIONS
@pytest.mark.parametrize("photometric", [tiffs.WHITE_IS_ZERO, tiffs.BLACK_IS_ZERO])
@pytest.mark.parametrize("n_bits", [1, 2, 4, 8, 16])
def test_grey_is_read_at_every_depth_whatever_white_is(
    n_bits: int, photometric: int, compression: int, order: str
) -> None:
    samples = noise(n_bits)
    looks = shades(samples, n_bits)
    if photometric == tiffs.WHITE_IS_ZERO:
        looks = 255 - looks

    pixels = read(wrap(samples, n_bits, compression, order, {tiffs.PHOTOMETRIC: photometric}))

    assert np.abs(pixels - looks).max() <= 0.51


@COMPRESSIONS
@pytest.mark.parametrize("n_bits", [1, 2, 4, 8])
def test_bits_may_be_in_reverse_order(n_bits: int, compression: int) -> None:
    samples = noise(n_bits)
    strip = reverse_bits(coded(tiffs.pack(samples, n_bits), compression))
    tags = {tiffs.FILL_ORDER: 2, tiffs.COMPRESSION: compression}

    pixels = read(tiff(page(samples, n_bits, tags, strips=[strip])))

    assert np.abs(pixels - shades(samples, n_bits)).max() <= 0.5


@ORDERS
@COMPRESSIONS
@pytest.mark.parametrize("extra", [None, 0, 1, 2])
@pytest.mark.parametrize("n_bits", [8, 16])
def test_colours_are_read_whatever_is_behind_them(
    n_bits: int, extra: int | None, compression: int, order: str
) -> None:
    samples = noise(n_bits, 3 if extra is None else 4)
    colours, alpha = samples[..., :3], samples[..., -1] / ((1 << n_bits) - 1)
    looks = shades(colours, n_bits)
    if extra == 1:  # the colours are already what alpha leaves of them
        samples[..., :3] = np.round(colours * alpha[..., np.newaxis])
    if extra in (1, 2):
        looks = on_white(looks, alpha)
    tags = {} if extra is None else {tiffs.EXTRA: extra}

    pixels = read(wrap(samples, n_bits, compression, order, tags))

    # Colours of 8 bits that are divided by alpha of 8 bits, and multiplied again, lose some.
    assert np.abs(pixels - looks).max() <= 3


def test_alpha_that_is_not_named_is_alpha() -> None:
    samples = noise(8, 4)

    pixels = read(wrap(samples, 8, 1, "<", {}))

    looks = on_white(shades(samples[..., :3], 8), samples[..., 3] / 255)
    assert np.abs(pixels - looks).max() <= 1.5


@COMPRESSIONS
@pytest.mark.parametrize("extra", [0, 2])
def test_grey_may_have_alpha(extra: int, compression: int) -> None:
    samples = noise(8, 2)
    looks = shades(samples[..., 0], 8)
    if extra == 2:
        looks = on_white(looks, samples[..., 1] / 255)

    pixels = read(wrap(samples, 8, compression, "<", {tiffs.EXTRA: extra}))

    assert np.abs(pixels - looks).max() <= 1.5


@ORDERS
@COMPRESSIONS
@pytest.mark.parametrize(("n_bits", "n_channels"), [(8, 4), (16, 4), (8, 5)])
def test_inks_are_read(n_bits: int, n_channels: int, compression: int, order: str) -> None:
    samples = noise(n_bits, n_channels)
    cyan, magenta, yellow, black = (samples[..., i] / ((1 << n_bits) - 1) for i in range(4))
    looks = 255 * (1 - np.stack([cyan, magenta, yellow], -1)) * (1 - black)[..., np.newaxis]
    tags = {tiffs.PHOTOMETRIC: tiffs.CMYK} | ({tiffs.EXTRA: 0} if n_channels == 5 else {})

    pixels = read(wrap(samples, n_bits, compression, order, tags))

    assert np.abs(pixels - looks).max() <= 2.5


@ORDERS
@COMPRESSIONS
@pytest.mark.parametrize("scale", [257, 1])
@pytest.mark.parametrize("n_bits", [1, 2, 4, 8])
def test_palettes_are_read_of_16_bits_and_of_8(
    n_bits: int, scale: int, compression: int, order: str
) -> None:
    indexes = noise(n_bits)
    palette = np.random.default_rng(1).integers(0, 256, (1 << n_bits, 3))
    colours = [int(shade) * scale for shade in palette.T.ravel()]
    tags: Tags = {tiffs.PHOTOMETRIC: tiffs.PALETTE, tiffs.COLOUR_MAP: colours}

    assert (read(wrap(indexes, n_bits, compression, order, tags)) == palette[indexes]).all()


@COMPRESSIONS
@pytest.mark.parametrize("n_channels", [3, 4])
def test_channels_may_lie_in_planes(n_channels: int, compression: int) -> None:
    samples = noise(8, n_channels)
    strips = [coded(tiffs.pack(samples[..., i], 8), compression) for i in range(n_channels)]
    tags = {tiffs.PLANES: 2, tiffs.COMPRESSION: compression}
    if n_channels == 4:
        tags[tiffs.PHOTOMETRIC] = tiffs.CMYK
    together = read(wrap(samples, 8, 1, "<", {k: v for k, v in tags.items() if k == 262}))

    assert (read(tiff(page(samples, 8, tags, strips=strips))) == together).all()


@ORDERS
def test_planes_of_16_bits_are_read_where_they_are_compressed(order: str) -> None:
    samples = noise(16, 3)
    strips = [zlib.compress(tiffs.pack(samples[..., i], 16, order)) for i in range(3)]
    tags = {tiffs.PLANES: 2, tiffs.COMPRESSION: DEFLATE}

    pixels = read(tiff(page(samples, 16, tags, order=order, strips=strips), order=order))

    assert np.abs(pixels - shades(samples, 16)).max() <= 1


def test_a_plane_of_one_channel_is_no_plane() -> None:
    samples = noise(4)

    pixels = read(wrap(samples, 4, 1, "<", {tiffs.PLANES: 2}))

    assert np.abs(pixels - shades(samples, 4)).max() <= 0.5


@ORDERS
@COMPRESSIONS
@pytest.mark.parametrize("n_bits", [1, 8, 16])
def test_tiles_are_read(n_bits: int, compression: int, order: str) -> None:
    samples = noise(n_bits)
    padded = np.zeros((48, 64), np.int64)
    padded[:HEIGHT, :WIDTH] = samples
    tiles = [
        coded(tiffs.pack(padded[top : top + 16, left : left + 16], n_bits, order), compression)
        for top in range(0, 48, 16)
        for left in range(0, 64, 16)
    ]
    tags = {tiffs.TILE_WIDTH: 16, tiffs.TILE_HEIGHT: 16, tiffs.COMPRESSION: compression}

    pixels = read(tiff(page(samples, n_bits, tags, order=order, strips=tiles), order=order))

    assert np.abs(pixels - shades(samples, n_bits)).max() <= 1


@ORDERS
@pytest.mark.parametrize("n_bits", [8, 16])
def test_differences_to_the_neighbour_are_added_up(n_bits: int, order: str) -> None:
    samples = noise(n_bits, 3)
    differences = samples.copy()
    differences[:, 1:] = (samples[:, 1:] - samples[:, :-1]) % (1 << n_bits)

    pixels = read(wrap(differences, n_bits, DEFLATE, order, {tiffs.PREDICTOR: 2}))

    assert np.abs(pixels - shades(samples, n_bits)).max() <= 1


@pytest.mark.parametrize("across", [1, 2])
def test_ycbcr_is_read_where_it_is_compressed(across: int) -> None:
    grey = np.repeat(noise(8)[:, ::across], across, axis=1)[:, :WIDTH]
    samples = np.stack([grey, np.full_like(grey, 128), np.full_like(grey, 128)], -1)
    padded = np.pad(samples, ((0, 0), (0, -WIDTH % across), (0, 0)), mode="edge")
    units = padded.reshape(HEIGHT, -1, across, 3)
    blocks = np.concatenate([units[..., 0], units[..., 0, 1:]], axis=-1).astype(np.uint8)
    tags: Tags = {
        tiffs.PHOTOMETRIC: tiffs.YCBCR,
        tiffs.SUBSAMPLING: [across, 1],
        tiffs.COMPRESSION: DEFLATE,
    }

    pixels = read(tiff(page(samples, 8, tags, strips=[zlib.compress(blocks.tobytes())])))

    assert np.abs(pixels - grey[..., np.newaxis]).max() <= 1


@pytest.mark.parametrize(
    ("mode", "compression"),
    [
        ("RGB", "jpeg"),
        ("L", "jpeg"),
        ("YCbCr", "jpeg"),
        ("CMYK", "jpeg"),
        ("YCbCr", None),
        ("RGB", "tiff_lzw"),
        ("RGB", "packbits"),
        ("RGB", "zstd"),
        ("RGB", "lzma"),
        ("1", "group3"),
        ("1", "group4"),
        ("1", "tiff_ccitt"),
    ],
)
def test_what_programs_write_is_read(mode: str, compression: str | None) -> None:
    with Image.open(SHIPPED_CARDS / "golden" / "chelsea.png") as cat:
        image = cat.convert("RGB").convert(mode)
    stream = io.BytesIO()
    image.save(stream, "TIFF", compression=compression)

    pixels = read(stream.getvalue())

    # JPEG noise is 2.
    assert np.abs(pixels - np.asarray(image.convert("RGB"), np.int16)).mean() < 4


# Where Pillow makes a picture of it, it is wrong; the rest it took for broken.
REFUSED: dict[str, tuple[Any, int, Tags]] = {
    "12-bit": (noise(12), 12, {}),
    "24-bit": (noise(8), 8, {tiffs.BITS: 24}),
    "32-bit": (noise(16), 32, {}),
    "signed": (noise(8), 8, {tiffs.FORMAT: 2}),
    "signed samples": (noise(16), 16, {tiffs.FORMAT: 2}),
    "floating-point": (noise(16), 16, {tiffs.FORMAT: 3}),
    "floating-point samples": (noise(16) / 65535, 32, {tiffs.FORMAT: 3}),
    "complex": (noise(16), 16, {tiffs.FORMAT: 6}),
    "undefined": (noise(8), 8, {tiffs.FORMAT: 4}),
    "Lab": (noise(8, 3), 8, {tiffs.PHOTOMETRIC: 8}),
    "LogLuv": (noise(16, 3), 16, {tiffs.PHOTOMETRIC: 32845}),
    "colours of kind 77": (noise(8, 3), 8, {tiffs.PHOTOMETRIC: 77}),
    "inks": (noise(8, 4), 8, {tiffs.PHOTOMETRIC: tiffs.CMYK, 332: 2}),
    "compression 6": (noise(8, 3), 8, {tiffs.COMPRESSION: 6}),
    "compression 50001": (noise(8, 3), 8, {tiffs.COMPRESSION: 50001}),
    "compression 34676": (noise(16), 16, {tiffs.COMPRESSION: 34676}),
    "reverse order": (noise(8, 3), 8, {tiffs.FILL_ORDER: 2}),
    "bits are in reverse": (noise(16), 16, {tiffs.FILL_ORDER: 2}),
    "4, 4, 4 bits": (noise(4, 3), 4, {}),
    "16, 16 bits": (noise(16, 2), 16, {tiffs.EXTRA: 2}),
    "8, 8 bits": (noise(8, 2), 8, {tiffs.EXTRA: 1}),
    "8, 8, 8, 8, 8 bits": (noise(8, 5), 8, {tiffs.EXTRA: [2, 0]}),
    "plane for each channel of 16": (noise(16, 3), 16, {tiffs.PLANES: 2}),
    "plane for each channel": (noise(8, 4), 8, {tiffs.PLANES: 2, tiffs.EXTRA: 2}),
    "neither compressed": (noise(8, 3), 8, {tiffs.PHOTOMETRIC: tiffs.YCBCR}),
}


@pytest.mark.parametrize("why", REFUSED)
def test_what_would_be_read_wrongly_is_unsupported(why: str) -> None:
    samples, n_bits, tags = REFUSED[why]

    with pytest.raises(UnsupportedPicture, match=f"not supported: a TIFF .*{why}"):
        open_picture(tiff(page(samples, n_bits, tags)))


def test_a_picture_that_does_not_say_what_its_numbers_mean_is_unsupported() -> None:
    whole = page(noise(8))
    untold = {tag: values for tag, values in whole.tags.items() if tag != tiffs.PHOTOMETRIC}

    with pytest.raises(UnsupportedPicture, match="does not say what its samples mean"):
        open_picture(tiff(tiffs.Page(untold, whole.strips)))


def test_a_fax_need_not_say_what_its_bits_mean() -> None:
    image = Image.new("1", (64, 9), 1)
    image.paste(0, (10, 3, 20, 7))
    stream = io.BytesIO()
    image.save(stream, "TIFF", compression="group4")
    content = stream.getvalue()
    black_is_zero = tiffs.PHOTOMETRIC.to_bytes(2, "little") + b"\3\0\1\0\0\0\1\0"
    assert content.count(black_is_zero) == 1

    untold = read(content.replace(black_is_zero, b"\x0d\x01" + black_is_zero[2:]))

    # As faxes have it: what is not black ink is white paper.
    assert (untold == 255 - read(content)).all()
    assert (read(content) == np.asarray(image.convert("RGB"))).all()


def test_one_number_of_bits_may_stand_for_all_channels() -> None:
    samples = noise(8, 3)

    assert (read(wrap(samples, 8, 1, "<", {tiffs.BITS: 8})) == samples).all()
    assert (read(wrap(samples, 8, 1, "<", {tiffs.BITS: [8] * 5})) == samples).all()


@pytest.mark.parametrize(
    ("tag", "values"),
    [
        (529, [1, 5, 3, 5, 1, 5]),
        (532, [16, 235, 128, 240, 128, 240]),
        (tiffs.SUBSAMPLING, [2, 2]),
    ],
)
def test_ycbcr_of_other_shares_or_ranges_is_refused_where_pillow_would_not_look(
    tag: int, values: list[int]
) -> None:
    plain: dict[int, tiffs.Values] = {tiffs.PHOTOMETRIC: tiffs.YCBCR, tiffs.SUBSAMPLING: [1, 1]}
    samples = noise(8, 3)

    assert read(tiff(page(samples, 8, plain))).shape == (HEIGHT, WIDTH, 3)
    with pytest.raises(UnsupportedPicture, match="neither compressed"):
        open_picture(tiff(page(samples, 8, plain | {tag: values})))


@pytest.mark.parametrize("orientation", [0, 1, 6, 77])
def test_orientation_is_read(orientation: int) -> None:
    picture = open_picture(tiff(page(noise(8), 8, {tiffs.ORIENTATION: orientation})))

    assert picture.orientation == (6 if orientation == 6 else 1)
    assert picture.width == (HEIGHT if orientation == 6 else WIDTH)


def test_orientation_in_xmp_alone_is_not_applied() -> None:
    xmp = b'<x tiff:Orientation="6"/>'

    assert open_picture(tiff(page(noise(8), 8, {700: xmp}))).orientation == 1


def test_thousands_of_broken_tags_change_nothing(recwarn: pytest.WarningsRecorder) -> None:
    samples = noise(8)
    tags = dict.fromkeys(range(40_000, 60_000), b"junk that is somewhere else")
    content = bytearray(tiff(page(samples, 8, tags)))
    for place in range(len(content) - 20_000 * 12, len(content), 12):
        content[place - 4 : place] = b"\xff\xff\xff\x7f"

    assert (read(bytes(content))[..., 0] == samples).all()
    assert not recwarn.list


@pytest.mark.parametrize("missing", [tiffs.STRIP_OFFSETS, tiffs.WIDTH, tiffs.HEIGHT])
def test_a_directory_that_lacks_something_is_broken(missing: int) -> None:
    content = tiff(page(noise(8)))
    entry = missing.to_bytes(2, "little") + b"\3\0"
    assert entry in content

    with pytest.raises(BrokenPicture):
        open_picture(content.replace(entry, b"\xff\xff\3\0"))


@COMPRESSIONS
def test_fewer_strips_than_rows_are_broken_and_not_black(compression: int) -> None:
    strips = [coded(tiffs.pack(noise(8)[:10], 8), compression)]
    tags = {tiffs.ROWS_PER_STRIP: 10, tiffs.COMPRESSION: compression}

    with pytest.raises(BrokenPicture):
        open_picture(tiff(page(noise(8), 8, tags, strips=strips)))
