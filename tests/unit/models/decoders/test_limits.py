"""Small files that would cost minutes or gigabytes, and ordinary ones that are no such."""

from __future__ import annotations

import pytest
from support.hostile import (
    bmp_of_runs,
    jpeg_of_scans,
    jpeg_of_segments,
    jpeg_segment,
    png_of_chunks,
    saved,
    tiff_of_jpeg,
    tiff_of_tile,
)

from twinlens.models.pictures import PictureLimits, open_picture, weigh_picture
from twinlens.shared.errors import BrokenPicture, PictureTooLarge

LIMITS = PictureLimits()
JPEG = saved("JPEG")


@pytest.mark.parametrize(
    ("content", "limit"),
    [
        pytest.param(jpeg_of_scans(101), "100 scans", id="scans"),
        pytest.param(jpeg_of_segments(4_097, 0xE0), "4,096 segments", id="kept"),
        pytest.param(jpeg_of_segments(4_097, 0xFE), "4,096 segments", id="comments"),
        pytest.param(png_of_chunks(65_536), "65,536 chunks", id="chunks"),
        pytest.param(tiff_of_tile((257, 256), (1, 1)), "65,536 strips, tiles", id="tiles"),
    ],
)
def test_a_file_of_too_many_parts_is_refused(content: bytes, limit: str) -> None:
    with pytest.raises(PictureTooLarge, match=f"more than {limit}"):
        open_picture(content)


@pytest.mark.parametrize(
    "content",
    [
        pytest.param(jpeg_of_scans(100), id="scans"),
        pytest.param(jpeg_of_segments(4_000, 0xE0), id="segments"),
        pytest.param(png_of_chunks(65_000), id="chunks"),
        pytest.param(tiff_of_tile((40, 40), (16, 16)), id="tiles"),
        # What only looks like a scan.
        pytest.param(
            jpeg_of_scans(40)[:-2] + jpeg_segment(0xFE, b"\xff\xda" * 200) + b"\xff\xd9",
            id="scans in a comment",
        ),
        pytest.param(saved("JPEG", progressive=True) + b"\xff\xda" * 200, id="scans behind it"),
        pytest.param(JPEG[:2] + b"\xff" * 1_000_000 + JPEG[2:], id="fill"),
    ],
)
def test_a_file_of_as_many_parts_as_are_allowed_is_decoded(content: bytes) -> None:
    assert min(open_picture(content).stored.size) > 1


@pytest.mark.parametrize(
    ("content", "cost"),
    [
        pytest.param(JPEG, 1, id="JPEG"),
        pytest.param(saved("JPEG", progressive=True), 1, id="progressive"),
        pytest.param(jpeg_of_scans(20), 1, id="20 scans"),
        pytest.param(jpeg_of_scans(50), 2.5, id="50 scans"),
        pytest.param(saved("PNG"), 1, id="PNG"),
        pytest.param(saved("BMP"), 1, id="BMP"),
        pytest.param(bmp_of_runs((16, 16)), 10, id="RLE"),
        pytest.param(saved("WEBP"), 3, id="WebP"),
        pytest.param(saved("AVIF"), 3, id="AVIF"),
        pytest.param(tiff_of_tile((16, 16), (32, 32)), 4, id="larger tile"),
        pytest.param(tiff_of_tile((16, 16), (16, 16)), 1, id="tile"),
    ],
)
def test_fewer_pixels_are_decoded_where_each_costs_more(content: bytes, cost: float) -> None:
    assert weigh_picture(content, LIMITS) == 256 * cost
    open_picture(content, PictureLimits(max_pixels=int(256 * cost)))
    with pytest.raises(PictureTooLarge, match="the limit is"):
        open_picture(content, PictureLimits(max_pixels=int(255.9 * cost)))


def test_the_scans_of_a_jpeg_within_a_tiff_are_counted_by_libtiff() -> None:
    with pytest.raises(BrokenPicture):
        open_picture(tiff_of_jpeg(jpeg_of_scans(21)))
    open_picture(tiff_of_jpeg(jpeg_of_scans(19)))


@pytest.mark.parametrize("format_name", ["JPEG", "PNG", "GIF", "TIFF", "BMP"])
def test_what_reads_its_file_in_pieces_has_a_time_limit(format_name: str) -> None:
    content = saved(format_name, (64, 64))
    assert open_picture(content, PictureLimits(max_decode_s=60)).format == format_name
    with pytest.raises(PictureTooLarge, match="takes longer than 0 s"):
        open_picture(content, PictureLimits(max_decode_s=0))
