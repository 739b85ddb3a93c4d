"""What holds of variants, whatever the picture and the model's input."""

from __future__ import annotations

import io

import numpy as np
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from PIL import Image
from support.small_models import COLOUR_CARD

from twinlens.models.card import Card
from twinlens.models.pictures import Picture, Region, open_picture
from twinlens.models.variants import variants_of

sides = st.integers(1, 50)
hashes = st.builds(
    lambda width, height, fit: Card.model_validate(
        COLOUR_CARD
        | {"output": "bits", "metric": "HAMMING", "dimension": 64}
        # Others overshoot, and are cut off at 0 and 255 once along the rows, once the columns.
        | {"input": {"width": width, "height": height, "fit": fit, "resample": "bilinear"}}
    ),
    st.integers(8, 40),
    st.integers(8, 40),
    st.sampled_from(["squash", "crop"]),
)


def picture_of(pixels: NDArray[np.uint8]) -> Picture:
    stream = io.BytesIO()
    Image.fromarray(np.ascontiguousarray(pixels)).save(stream, "PNG")
    return open_picture(stream.getvalue())


def noise(seed: int, width: int, height: int) -> NDArray[np.uint8]:
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), np.uint8)


@given(st.integers(0, 2**32 - 1), sides, sides, hashes, st.integers(0, 3), st.booleans())
def test_a_turned_picture_has_the_same_variants(
    seed: int, width: int, height: int, card: Card, n_quarters: int, is_mirrored: bool
) -> None:
    pixels = noise(seed, width, height)
    turned = np.rot90(pixels[:, ::-1] if is_mirrored else pixels, n_quarters)

    one, other = (variants_of(picture_of(p), card)[:8].astype(int) for p in (pixels, turned))

    gaps = np.abs(one[:, None] - other[None]).max(axis=(2, 3, 4))
    assert gaps.min(axis=1).max() <= 2
    assert gaps.min(axis=0).max() <= 2
    assert (one[0] == picture_of(pixels).pixels_for(card.input)).all()


ends = st.lists(st.integers(0, 50), min_size=2, max_size=2, unique=True).map(sorted)


@given(sides, sides, ends, ends, st.integers(1, 8))
def test_a_part_of_a_picture_is_the_picture_of_a_region(
    width: int, height: int, columns: list[int], rows: list[int], orientation: int
) -> None:
    pixels = np.zeros((height, width, 3), np.uint8)
    pixels[..., 0], pixels[..., 1] = np.arange(width) * 5, np.arange(height)[:, None] * 5
    region = Region(columns[0] / 50, rows[0] / 50, columns[1] / 50, rows[1] / 50)
    spec = Card.model_validate(COLOUR_CARD).input
    stream, exif = io.BytesIO(), Image.Exif()
    exif[0x0112] = orientation
    Image.fromarray(pixels).save(stream, "PNG", exif=exif)

    part = open_picture(stream.getvalue()).part(region)
    opened = open_picture(stream.getvalue(), region=region)

    assert (part.width, part.height) == (opened.width, opened.height)
    # At its edge a part shades into its surroundings, by half the step from pixel to pixel.
    assert np.abs(part.pixels_for(spec).astype(int) - opened.pixels_for(spec)).max() <= 4
