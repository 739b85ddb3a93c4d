"""A copy is found where it lies in the original; what is no copy, nowhere."""

from __future__ import annotations

import io
import itertools
from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image, ImageOps
from support.photos import SOURCES, jpeg, source

from twinlens.models.geometry import SIDE_PX, Features, Placement, find_features, locate
from twinlens.models.pictures import WHOLE, Region, open_picture

# Of a side: where a photo has few corners, what lies beyond them is guessed.
MISS, MISS_DEGREES = 0.04, 5


def features_of(image: Image.Image, *, is_mirrored: bool = False) -> Features:
    picture = open_picture(jpeg(image), wanted_px=SIDE_PX)
    return find_features(picture, is_mirrored=is_mirrored)


def found_in(edit: Image.Image, original: Image.Image, *, is_mirrored: bool = False) -> Placement:
    placement = locate(features_of(edit, is_mirrored=is_mirrored), features_of(original))
    assert placement is not None
    return placement


def cropped(image: Image.Image, region: Region) -> Image.Image:
    width, height = image.size
    left, top, right, bottom = region
    return image.crop(
        (round(left * width), round(top * height), round(right * width), round(bottom * height))
    )


def off_by(placement: Placement, degrees: int) -> int:
    return abs((placement.turned_degrees - degrees + 180) % 360 - 180)


@pytest.fixture(scope="module", params=SOURCES)
def photo(request: pytest.FixtureRequest) -> Image.Image:
    return source(request.param)


@pytest.mark.parametrize(
    "region", [Region(0.1, 0.1, 0.9, 0.9), Region(0.25, 0.25, 0.75, 0.75), Region(0, 0.2, 0.6, 0.8)]
)
def test_a_part_is_found_in_its_place(photo: Image.Image, region: Region) -> None:
    placement = found_in(cropped(photo, region), photo)
    assert tuple(placement.region) == pytest.approx(tuple(region), abs=MISS)
    assert placement.query_region == pytest.approx(WHOLE, abs=MISS)
    assert not placement.is_mirrored
    assert off_by(placement, 0) <= MISS_DEGREES


def test_the_original_lies_within_what_was_added_around_it(photo: Image.Image) -> None:
    canvas = ImageOps.expand(photo, (photo.width // 2, photo.height // 4), "white")
    placement = found_in(canvas, photo)
    assert placement.region == pytest.approx(WHOLE, abs=MISS)
    assert placement.query_region == pytest.approx((1 / 4, 1 / 6, 3 / 4, 5 / 6), abs=MISS)


@pytest.mark.parametrize("degrees", [30, 90, 180, 270])
def test_how_far_a_copy_is_turned_is_told(photo: Image.Image, degrees: int) -> None:
    turned = photo.rotate(degrees, Image.Resampling.BICUBIC, expand=True, fillcolor="white")
    assert off_by(found_in(turned, photo), degrees) <= MISS_DEGREES


def test_a_mirror_image_is_found_as_one(photo: Image.Image) -> None:
    mirrored = ImageOps.mirror(photo)
    placement = found_in(mirrored, photo, is_mirrored=True)
    assert placement.is_mirrored
    assert placement.region == pytest.approx(WHOLE, abs=MISS)
    x, y = placement.matrix @ (0.2, 0.3, 1)
    assert (x, y) == pytest.approx((0.8, 0.3), abs=MISS)
    # Turned as well: first mirrored, then turned.
    turned = found_in(mirrored.transpose(Image.Transpose.ROTATE_90), photo, is_mirrored=True)
    assert turned.is_mirrored
    assert off_by(turned, 90) <= MISS_DEGREES


@pytest.mark.parametrize(
    "edit",
    [
        lambda image: image.resize((image.width // 3, image.height // 3)),
        lambda image: image.resize((image.width, 3 * image.height // 4)),
        lambda image: ImageOps.grayscale(image).convert("RGB"),
        lambda image: Image.open(io.BytesIO(jpeg(image, quality=10))),
        lambda image: image.point(lambda level: level // 2),
    ],
    ids=["smaller", "squeezed", "grey", "compressed", "dark"],
)
def test_what_was_done_to_all_of_a_copy_does_not_matter(
    photo: Image.Image, edit: Callable[[Image.Image], Image.Image]
) -> None:
    placement = found_in(edit(photo), photo)
    assert placement.region == pytest.approx(WHOLE, abs=MISS)
    assert off_by(placement, 0) <= MISS_DEGREES


def test_other_photos_are_no_copies() -> None:
    photos = [features_of(source(name)) for name in SOURCES]
    mirrored = [features_of(source(name), is_mirrored=True) for name in SOURCES]
    for (i, ours), (j, theirs) in itertools.product(
        enumerate([*photos, *mirrored]), enumerate(photos)
    ):
        if i % len(photos) != j:
            assert locate(ours, theirs) is None


@pytest.mark.parametrize("size", [(1, 1), (5, 4000), (400, 300)])
def test_a_picture_without_corners_is_no_copy(size: tuple[int, int]) -> None:
    plain = features_of(Image.new("RGB", size, "teal"))
    assert len(plain.points) == len(plain.descriptors) == 0
    assert locate(plain, plain) is None
    assert locate(plain, features_of(source(SOURCES[0]))) is None


@given(st.integers(0, 2**32 - 1), st.integers(0, 60), st.integers(0, 60))
def test_random_features_lie_nowhere(seed: int, n_ours: int, n_theirs: int) -> None:
    rng = np.random.default_rng(seed)

    def some(n: int) -> Features:
        points = rng.random((n, 2), np.float32)
        grey = rng.integers(0, 256, (96, 128), np.uint8)
        return Features(points, rng.integers(0, 256, (n, 32), np.uint8), 384, 288, grey)

    assert locate(some(n_ours), some(n_theirs)) is None
