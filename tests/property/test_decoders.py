"""Headers of any bytes: a picture that is read right, or a picture's error."""

from __future__ import annotations

import zlib
from collections.abc import Sequence
from contextlib import suppress

import numpy as np
import pytest
from hypothesis import assume, example, given
from hypothesis import strategies as st
from support import tiffs
from support.pixels import noise, read, shades
from support.pngs import RGB, png, transparent

from twinlens.models.decoders.directories import find_orientation
from twinlens.models.decoders.splice import splice
from twinlens.models.pictures import open_picture
from twinlens.shared.errors import PictureError, UnsupportedPicture

STARTS = [
    b"\xff\xd8\xff",
    b"\x89PNG\r\n\x1a\n",
    b"II*\0",
    b"MM\0*",
    b"BM" + bytes(12) + b"\x28\0\0\0",
    b"\0\0\0\x10ftypheic\0\0\0\0",
    b"\0\0\0\x10ftypavif\0\0\0\0",
]


@given(st.sampled_from(STARTS), st.binary(max_size=200))
def test_any_bytes_are_at_most_a_picture_error(start: bytes, rest: bytes) -> None:
    with pytest.raises(PictureError):
        open_picture(start + rest)


@given(
    whole=st.sampled_from(
        [
            tiffs.tiff(tiffs.page(noise(8, 3)), tiffs.page(noise(1), 1)),
            tiffs.tiff(tiffs.page(noise(4), 4, {254: 1}, below=[tiffs.page(noise(16), 16)])),
        ]
    ),
    changes=st.lists(st.tuples(st.integers(1, 400), st.integers(0, 255)), min_size=1, max_size=4),
)
def test_a_tiff_of_changed_bytes_is_a_picture_or_a_picture_error(
    whole: bytes, changes: list[tuple[int, int]]
) -> None:
    content = bytearray(whole)
    for place, byte in changes:  # from the end, where the directories are
        content[-place] = byte
    with suppress(PictureError):
        assert open_picture(bytes(content)).stored.mode == "RGB"


@given(
    n_bits=st.sampled_from([1, 2, 4, 8, 12, 16]),
    n_channels=st.integers(1, 5),
    photometric=st.sampled_from([0, 1, 2, 6, 8]),
    order=st.sampled_from("<>"),
    compression=st.sampled_from([1, 8]),
    extra=st.sampled_from([None, 0]),
    is_planar=st.booleans(),
    sample_format=st.sampled_from([1, 2]),
)
def test_a_tiff_of_any_kind_is_read_right_or_refused(
    n_bits: int,
    n_channels: int,
    photometric: int,
    order: str,
    compression: int,
    extra: int | None,
    is_planar: bool,
    sample_format: int,
) -> None:
    samples = noise(n_bits, n_channels)
    layers = [samples[..., i] for i in range(n_channels)] if is_planar else [samples]
    strips = [tiffs.pack(layer, n_bits, order) for layer in layers]
    tags: dict[int, tiffs.Values] = {
        tiffs.PHOTOMETRIC: photometric,
        tiffs.COMPRESSION: compression,
        tiffs.PLANES: 2 if is_planar else 1,
        tiffs.FORMAT: [sample_format] * n_channels,
    }
    if extra is not None:
        tags[tiffs.EXTRA] = extra
    coded = [zlib.compress(strip) for strip in strips] if compression == 8 else strips
    content = tiffs.tiff(tiffs.page(samples, n_bits, tags, order=order, strips=coded), order=order)

    try:
        pixels = read(content)
    except UnsupportedPicture:
        return
    n_colours = 3 if photometric == 2 else 1
    # Without a word of what the others are, the fourth is alpha; YCbCr has a test of its own.
    assume(n_channels == n_colours + (extra is not None) and photometric != 6)
    looks = shades(samples[..., :n_colours], n_bits)
    looks = 255 - looks if photometric == 0 else looks
    assert np.abs(pixels - looks).max() <= 1
    assert (n_bits, photometric, sample_format) not in [(12, 0, 1), (8, 8, 1), (8, 1, 2)]


@given(
    n_bits=st.sampled_from([1, 2, 4, 8, 16]),
    is_colour=st.booleans(),
    is_interlaced=st.booleans(),
    hidden=st.integers(0, 0xFFFF),
)
def test_of_a_png_exactly_the_transparent_samples_are_white(
    n_bits: int, is_colour: bool, is_interlaced: bool, hidden: int
) -> None:
    assume(not is_colour or n_bits >= 8)
    # Nothing else is white.
    lightest = int(0.98 * ((1 << n_bits) - 1))
    samples = np.minimum(noise(n_bits, 3) if is_colour else noise(n_bits), lightest)
    samples[::7, ::3] = min(hidden, lightest)
    sample = int(samples[0, 0].flat[0])

    pixels = read(
        png(
            samples,
            n_bits,
            RGB if is_colour else 0,
            before=[transparent(*[sample] * (3 if is_colour else 1))],
            is_interlaced=is_interlaced,
        )
    )

    is_hidden = samples == sample
    assert ((pixels == 255).all(axis=-1) == (is_hidden.all(-1) if is_colour else is_hidden)).all()


@given(st.binary(max_size=120))
def test_any_exif_has_one_of_eight_orientations(exif: bytes) -> None:
    assert find_orientation(exif) in range(1, 9)
    assert find_orientation(b"Exif\0\0II*\0\x08\0\0\0" + exif) in range(1, 9)


@example(parts=[b""], reads=[(1, -1)])
@given(
    parts=st.lists(st.binary(max_size=9), min_size=1, max_size=5),
    reads=st.lists(st.tuples(st.integers(0, 50), st.integers(-1, 20)), max_size=6),
)
def test_parts_read_as_one_file(parts: list[bytes], reads: Sequence[tuple[int, int]]) -> None:
    whole = b"".join(parts)

    with splice(parts) as stream:
        for start, n_bytes in reads:
            assert stream.seek(start) == start
            assert stream.read(n_bytes) == whole[start:][: None if n_bytes < 0 else n_bytes]
            end = len(whole) if n_bytes < 0 else min(start + n_bytes, len(whole))
            assert stream.tell() == max(start, end)
            assert stream.read(3) == whole[max(start, end) :][:3]
        assert stream.seek(0, 2) == len(whole)
