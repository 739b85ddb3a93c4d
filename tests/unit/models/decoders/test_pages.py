"""Which page of a TIFF is taken; and that of a camera's raw file, none is."""

from __future__ import annotations

import struct

import numpy as np
import pytest
from support import tiffs
from support.pixels import noise, read
from support.tiffs import Page, page, tiff

from twinlens.models.pictures import PictureLimits, open_picture
from twinlens.shared.errors import BrokenPicture, PictureTooLarge, UnsupportedPicture

PICTURE = noise(8, 3)
COPY = page(PICTURE[::4, ::4], 8, {tiffs.NEW_SUBFILE_TYPE: 1})
OLD_COPY = page(PICTURE[::4, ::4], 8, {tiffs.SUBFILE_TYPE: 2})
MASK = page(noise(1), 1, {tiffs.NEW_SUBFILE_TYPE: 4, tiffs.PHOTOMETRIC: 4})
SENSOR = page(noise(16), 16, {tiffs.PHOTOMETRIC: 32803})
ORDERS = pytest.mark.parametrize("order", ["<", ">"])


@ORDERS
@pytest.mark.parametrize(
    "passed_over", [[COPY], [OLD_COPY], [MASK], [COPY, OLD_COPY, MASK], [COPY] * 12]
)
def test_copies_and_masks_are_passed_over(passed_over: list[Page], order: str) -> None:
    assert (read(tiff(*passed_over, page(PICTURE), order=order)) == PICTURE).all()


@pytest.mark.parametrize("kind", [{}, {254: 0}, {254: 2}, {255: 1}, {255: 3}])
def test_the_first_full_page_is_taken(kind: dict[int, int]) -> None:
    content = tiff(page(PICTURE, 8, kind), page(PICTURE[:9], 8), COPY)

    assert (read(content) == PICTURE).all()


def test_a_picture_below_its_copy_is_taken() -> None:
    above = page(PICTURE[::4, ::4], 8, {tiffs.NEW_SUBFILE_TYPE: 1}, below=[COPY, page(PICTURE)])

    assert (read(tiff(above, page(PICTURE[:9], 8))) == PICTURE).all()


def test_copies_alone_are_no_picture() -> None:
    with pytest.raises(UnsupportedPicture, match="smaller copies"):
        open_picture(tiff(COPY, OLD_COPY, MASK))


def test_the_limit_is_that_of_the_page_which_is_taken() -> None:
    content = tiff(COPY, page(PICTURE))
    n_pixels = PICTURE.shape[0] * PICTURE.shape[1]

    assert open_picture(content, PictureLimits(max_pixels=n_pixels)).width == PICTURE.shape[1]
    with pytest.raises(PictureTooLarge):
        open_picture(content, PictureLimits(max_pixels=n_pixels - 1))
    large_copy = page(noise(8), 8, {tiffs.NEW_SUBFILE_TYPE: 1})
    small = tiff(large_copy, page(PICTURE[:4, :4]))
    assert open_picture(small, PictureLimits(max_pixels=16)).width == 4


@ORDERS
@pytest.mark.parametrize(
    "pages",
    [
        [SENSOR],
        [COPY, SENSOR],
        [page(PICTURE), SENSOR],
        [page(PICTURE[::4, ::4], 8, {tiffs.NEW_SUBFILE_TYPE: 1}, below=[COPY, SENSOR])],
        [page(PICTURE[::4, ::4], 8, below=[SENSOR]), COPY],
        [page(PICTURE, 8, {tiffs.PHOTOMETRIC: 34892})],
        [page(PICTURE, 8, {50706: [1, 4, 0, 0]})],
        [COPY, page(noise(16), 16, {tiffs.COMPRESSION: 34713})],
    ],
)
def test_of_raw_data_no_page_is_taken(pages: list[Page], order: str) -> None:
    with pytest.raises(UnsupportedPicture, match="camera's raw file"):
        open_picture(tiff(*pages, order=order))


def test_what_is_looked_for_is_looked_for_in_a_few_directories_only() -> None:
    many = [page(PICTURE[:1, :1], 8, {tiffs.NEW_SUBFILE_TYPE: 1})] * 40

    with pytest.raises(UnsupportedPicture, match="smaller copies"):
        open_picture(tiff(*many, page(PICTURE)))


def test_directories_that_go_in_circles_end() -> None:
    content = bytearray(tiff(COPY))
    (first,) = struct.unpack_from("<I", content, 4)
    struct.pack_into("<I", content, len(content) - 4, first)

    with pytest.raises(UnsupportedPicture, match="smaller copies"):
        open_picture(bytes(content))


def test_a_file_that_ends_before_its_picture_is_broken() -> None:
    content = tiff(COPY, page(PICTURE))

    with pytest.raises(BrokenPicture):
        open_picture(content[: len(content) // 2])
    with pytest.raises(BrokenPicture):
        open_picture(b"II*\0" + bytes(4))


def test_other_pages_leave_no_trace() -> None:
    colours = [page(np.full((5, 5, 3), shade)) for shade in (10, 20, 30)]

    assert (read(tiff(*colours)) == 10).all()
