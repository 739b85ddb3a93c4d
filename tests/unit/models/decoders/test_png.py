"""PNG written by hand: a transparent sample of each depth, wrong chunks, Apple's variant."""

from __future__ import annotations

import zlib

import numpy as np
import pytest
from PIL import Image
from support.pixels import noise, read, shades
from support.pngs import GREY_ALPHA, PALETTE, RGB, RGBA, chunk, png, transparent

from twinlens.models.pictures import open_picture
from twinlens.shared.errors import BrokenPicture, UnsupportedPicture


@pytest.mark.parametrize("is_interlaced", [False, True])
@pytest.mark.parametrize("n_bits", [1, 2, 4, 8, 16])
def test_a_transparent_grey_is_white_at_every_depth(n_bits: int, is_interlaced: bool) -> None:
    samples = noise(n_bits)
    hidden = int(samples[3, 5])
    looks = shades(samples, n_bits)
    looks[samples == hidden] = 255

    pixels = read(png(samples, n_bits, before=[transparent(hidden)], is_interlaced=is_interlaced))

    assert np.abs(pixels - looks).max() <= 0.5


@pytest.mark.parametrize("is_interlaced", [False, True])
@pytest.mark.parametrize("n_bits", [8, 16])
def test_a_transparent_colour_is_white(n_bits: int, is_interlaced: bool) -> None:
    samples = noise(n_bits, 3)
    hidden = samples[::5, ::3] = samples[3, 5]
    looks = shades(samples, n_bits)
    looks[(samples == hidden).all(axis=-1)] = 255

    pixels = read(
        png(samples, n_bits, RGB, before=[transparent(*hidden)], is_interlaced=is_interlaced)
    )

    assert np.abs(pixels - looks).max() <= 1


@pytest.mark.parametrize("hidden", [0x0000, 0x0001, 0x0100, 0x8000, 0x80FF])
def test_all_16_bits_of_a_transparent_sample_count(hidden: int) -> None:
    samples = np.array([[0x0000, 0x0001, 0x0100, 0x8000, 0x80FF, 0x8001]])
    visible = shades(samples, 16)[0, :, 0]
    visible[samples[0] == hidden] = 255
    colours = np.repeat(samples[..., np.newaxis], 3, axis=-1)

    grey = read(png(samples, 16, before=[transparent(hidden)]))
    colour = read(png(colours, 16, RGB, before=[transparent(hidden, hidden, hidden)]))

    assert np.abs(grey[0, :, 0] - visible).max() <= 1
    assert np.abs(colour[0, :, 0] - visible).max() <= 1


def test_a_colour_is_hidden_only_where_all_channels_match() -> None:
    samples = np.array([[[1, 2, 3], [1, 2, 4], [9, 2, 3], [1, 9, 3]]])

    for n_bits, factor in ((8, 1), (16, 256), (16, 1)):
        hidden = [int(sample) * factor for sample in (1, 2, 3)]
        pixels = read(png(samples * factor, n_bits, RGB, before=[transparent(*hidden)]))
        assert (pixels == 255).all(axis=-1).tolist() == [[True, False, False, False]]


def test_of_a_transparent_sample_only_as_many_bits_count_as_samples_have() -> None:
    samples = np.array([[0, 1, 2, 3]])

    pixels = read(png(samples, 2, before=[transparent(0xFF02)]))

    assert pixels[0, :, 0].tolist() == [0, 85, 255, 255]


def test_a_deep_picture_is_compared_strip_by_strip(monkeypatch: pytest.MonkeyPatch) -> None:
    samples = noise(16, 3)
    samples[::2] = samples[0, 0]
    content = png(samples, 16, RGB, before=[transparent(*samples[0, 0])])
    whole = read(content)

    monkeypatch.setattr("twinlens.models.decoders.png.STRIP_PIXELS", 1)

    assert (read(content) == whole).all()
    assert (whole[::2] == 255).all()


@pytest.mark.parametrize("n_bits", [1, 2, 4, 8])
def test_transparent_entries_of_a_palette_are_white(n_bits: int) -> None:
    indexes = noise(n_bits)
    palette = np.random.default_rng(1).integers(0, 200, (1 << n_bits, 3))
    alpha = np.array([0, 128] + [255] * ((1 << n_bits) - 2))
    looks = palette[indexes] * (alpha / 255)[indexes][..., np.newaxis]
    looks += 255 * (1 - alpha / 255)[indexes][..., np.newaxis]

    pixels = read(
        png(
            indexes,
            n_bits,
            PALETTE,
            before=[
                chunk(b"PLTE", palette.astype(np.uint8).tobytes()),
                chunk(b"tRNS", bytes(alpha[:2].tolist())),
            ],
        )
    )

    assert np.abs(pixels - looks).max() <= 1


@pytest.mark.parametrize(("colour", "n_channels"), [(GREY_ALPHA, 2), (RGBA, 4)])
@pytest.mark.parametrize("n_bits", [8, 16])
def test_alpha_of_each_depth_is_blended(colour: int, n_channels: int, n_bits: int) -> None:
    samples = noise(n_bits, n_channels)
    alpha = samples[..., -1:] / ((1 << n_bits) - 1)
    looks = shades(samples, n_bits)[..., : n_channels - 1] * alpha + 255 * (1 - alpha)

    assert np.abs(read(png(samples, n_bits, colour)) - looks).max() <= 2.5


@pytest.mark.parametrize("name", [b"tEXt", b"zTXt", b"iTXt", b"gAMA", b"eXIf", b"acTL", b"xyZz"])
def test_a_wrong_checksum_of_what_is_not_shown_is_no_reason_to_refuse(name: bytes) -> None:
    samples = noise(8)
    wrong = chunk(name, b"Comment\0\0\0junk", wrong=0xFFFF)

    pixels = read(png(samples, before=[wrong], behind=[wrong]))

    assert (pixels[..., 0] == samples).all()


def test_a_transparent_sample_that_is_broken_or_too_late_is_none() -> None:
    samples = np.array([[0, 255]])
    hidden = bytearray(transparent(0))
    hidden[-1] ^= 1

    assert read(png(samples, before=[bytes(hidden)]))[0, :, 0].tolist() == [0, 255]
    assert read(png(samples, before=[chunk(b"tRNS", b"\0")]))[0, :, 0].tolist() == [0, 255]
    assert read(png(samples, behind=[transparent(0)]))[0, :, 0].tolist() == [0, 255]


@pytest.mark.parametrize("hidden", [0, 1])
def test_of_one_bit_either_shade_may_be_transparent(hidden: int) -> None:
    pixels = read(png(np.array([[0, 1]]), 1, before=[transparent(hidden)]))

    assert pixels[0, :, 0].tolist() == [255 if hidden == 0 else 0, 255]


@pytest.mark.parametrize("part", [b"IHDR", b"PLTE", b"IDAT"])
def test_a_wrong_checksum_of_what_is_shown_is(part: bytes) -> None:
    content = bytearray(png(noise(1), 1, PALETTE, before=[chunk(b"PLTE", bytes(6))]))
    content[content.find(part) + 4 + 3] ^= 1

    with pytest.raises(BrokenPicture):
        open_picture(bytes(content))


@pytest.mark.parametrize("name", [b"zTXt", b"iCCP"])
def test_what_unpacks_to_much_is_not_unpacked(name: bytes) -> None:
    bomb = chunk(name, b"bomb\0\0" + zlib.compress(bytes(80_000_000)))
    samples = noise(8)

    assert (read(png(samples, before=[bomb], behind=[bomb]))[..., 0] == samples).all()


def exif_chunk(wrong: int = 0) -> bytes:
    exif = Image.Exif()
    exif[0x0112] = 6
    return chunk(b"eXIf", exif.tobytes().removeprefix(b"Exif\0\0"), wrong)


def test_orientation_is_read_before_and_behind_the_pixels() -> None:
    for content in (
        png(noise(8), before=[exif_chunk()]),
        png(noise(8), behind=[exif_chunk()]),
    ):
        picture = open_picture(content)
        assert picture.orientation == 6
        assert (picture.width, picture.height) == (37, 53)


def test_orientation_is_not_read_where_it_is_broken_or_behind_the_picture() -> None:
    assert open_picture(png(noise(8), before=[exif_chunk(wrong=1)])).orientation == 1
    assert open_picture(png(noise(8)) + exif_chunk()).orientation == 1


def test_orientation_in_text_is_not_applied_as_browsers_do_not() -> None:
    xmp = b'XML:com.adobe.xmp\0\0\0\0\0<x tiff:Orientation="6"/>'
    raw = b"Raw profile type exif\0\nexif\n 8\n4d4d002a00000008\n"

    picture = open_picture(png(noise(8), before=[chunk(b"iTXt", xmp), chunk(b"tEXt", raw)]))

    assert picture.orientation == 1


def test_apples_variant_is_told_by_name() -> None:
    content = png(noise(8, 4), 8, RGBA)
    variant = content[:8] + chunk(b"CgBI", b"\x50\0\x20\x06") + content[8:]

    with pytest.raises(UnsupportedPicture, match="CgBI"):
        open_picture(variant)


def test_what_lies_behind_the_picture_is_not_looked_at() -> None:
    assert open_picture(png(noise(8)) + b"PK\3\4" + bytes(99)).width == 53
