"""BMP written by hand: alpha that is none, colours of 16 bits, what is not read."""

from __future__ import annotations

import struct

import numpy as np
import pytest
from support.bmps import BIT_FIELDS, JPEG, RLE8, bmp
from support.pixels import HEIGHT, WIDTH, noise, on_white, read
from support.tiffs import pack

from twinlens.models.pictures import open_picture
from twinlens.shared.errors import UnsupportedPicture

BGRA = (0xFF0000, 0xFF00, 0xFF, 0xFF000000)
COLOURS = noise(8, 3)


def four_bytes(last: int | np.ndarray) -> bytes:
    """COLOURS from the lowest row up, as blue, green, red and another byte."""
    pixels = np.empty((HEIGHT, WIDTH, 4), np.uint8)
    pixels[..., :3], pixels[..., 3] = COLOURS[..., ::-1], last
    return pixels[::-1].tobytes()


@pytest.mark.parametrize("n_header_bytes", [56, 108, 124])
def test_alpha_that_is_nowhere_set_is_none(n_header_bytes: int) -> None:
    content = bmp(
        (WIDTH, HEIGHT),
        32,
        four_bytes(0),
        compression=BIT_FIELDS,
        masks=BGRA,
        n_header_bytes=n_header_bytes,
    )

    assert (read(content) == COLOURS).all()


def test_alpha_is_blended_once_it_is_set_anywhere() -> None:
    alpha = np.zeros((HEIGHT, WIDTH), np.uint8)
    alpha[0, 0] = 200
    content = bmp(
        (WIDTH, HEIGHT),
        32,
        four_bytes(alpha[::-1][::-1]),
        compression=BIT_FIELDS,
        masks=BGRA,
        n_header_bytes=108,
    )

    assert np.abs(read(content) - on_white(COLOURS.astype(float), alpha / 255)).max() <= 1.5


@pytest.mark.parametrize("last", [0, 1, 255])
def test_the_fourth_byte_without_a_mask_means_nothing(last: int) -> None:
    masked = bmp((WIDTH, HEIGHT), 32, four_bytes(last), compression=BIT_FIELDS, masks=BGRA[:3])

    assert (read(bmp((WIDTH, HEIGHT), 32, four_bytes(last))) == COLOURS).all()
    assert (read(masked) == COLOURS).all()


@pytest.mark.parametrize(
    ("masks", "n_bits"),
    [((), (5, 5, 5)), ((0x7C00, 0x3E0, 0x1F), (5, 5, 5)), ((0xF800, 0x7E0, 0x1F), (5, 6, 5))],
)
def test_colours_of_16_bits_are_read(masks: tuple[int, ...], n_bits: tuple[int, int, int]) -> None:
    deep = [COLOURS[..., i] >> (8 - bits) for i, bits in enumerate(n_bits)]
    words = (deep[0] << (n_bits[1] + n_bits[2])) | (deep[1] << n_bits[2]) | deep[2]
    rows = np.zeros((HEIGHT, WIDTH + WIDTH % 2), "<u2")
    rows[:, :WIDTH] = words[::-1]
    compression = BIT_FIELDS if masks else 0

    pixels = read(bmp((WIDTH, HEIGHT), 16, rows.tobytes(), compression=compression, masks=masks))

    looks = [channel * 255 / ((1 << bits) - 1) for channel, bits in zip(deep, n_bits, strict=True)]
    assert np.abs(pixels - np.stack(looks, axis=-1)).max() <= 1


def test_runs_are_read() -> None:
    palette = bytes(range(40, 48))
    rows = bytes([3, 0, 2, 1, 0, 0, 5, 1, 0, 0, 0, 1])

    pixels = read(bmp((5, 2), 8, rows, compression=RLE8, palette=palette))

    dark, light = [42, 41, 40], [46, 45, 44]
    assert pixels.tolist() == [[light] * 5, [dark] * 3 + [light] * 2]


@pytest.mark.parametrize(
    ("n_bits", "options", "why"),
    [
        (24, {"compression": JPEG}, "compression"),
        (24, {"compression": 77}, "compression"),
        (64, {}, "pixel depth"),
        (32, {"compression": BIT_FIELDS, "masks": (0x3FF, 0xFFC00, 0x3FF00000)}, "bitfields"),
    ],
)
def test_what_hardly_any_program_writes_is_unsupported(
    n_bits: int, options: dict[str, int], why: str
) -> None:
    content = bmp((WIDTH, HEIGHT), n_bits, four_bytes(0), **options)  # type: ignore[arg-type]

    with pytest.raises(UnsupportedPicture, match=f"not supported: BMP {why}"):
        open_picture(content)


@pytest.mark.parametrize(
    ("n_bits", "rows"), [(1, b"\x50\0\0\0"), (4, b"\x01\x01\0\0"), (8, b"\0\1\0\1")]
)
def test_black_and_white_are_two_colours_at_every_depth(n_bits: int, rows: bytes) -> None:
    palette = bytes(4) + b"\xff\xff\xff\0"

    assert read(bmp((4, 1), n_bits, rows, palette=palette))[0, :, 0].tolist() == [0, 255] * 2


def test_greys_that_pillow_would_take_for_samples_are_unsupported() -> None:
    palette = b"".join(struct.pack("<BBBB", i, i, i, 0) for i in range(16))

    with pytest.raises(UnsupportedPicture, match="4 bits"):
        open_picture(bmp((4, 1), 4, bytes(4), palette=palette))


@pytest.mark.parametrize("n_bits", [1, 4, 8])
def test_palettes_are_read(n_bits: int) -> None:
    indexes = noise(n_bits)
    palette = np.random.default_rng(1).integers(0, 256, (1 << n_bits, 4))
    packed = pack(indexes[::-1], n_bits)
    width = len(packed) // HEIGHT
    rows = b"".join(
        packed[i : i + width].ljust(-(-width // 4) * 4, b"\0") for i in range(0, len(packed), width)
    )

    pixels = read(bmp((WIDTH, HEIGHT), n_bits, rows, palette=palette.astype(np.uint8).tobytes()))

    assert (pixels == palette[indexes][..., 2::-1]).all()
