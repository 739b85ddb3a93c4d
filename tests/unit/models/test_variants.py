"""A copy that was turned, cropped or framed is what one of the variants is."""

from __future__ import annotations

import io
from typing import Any

import numpy as np
import pytest
from PIL import Image, ImageOps
from support.small_models import COLOUR_CARD, open_phash

from twinlens.models.card import Card, Fit, InputSpec
from twinlens.models.cards import SHIPPED_CARDS
from twinlens.models.pictures import Picture, open_picture
from twinlens.models.session import OnnxEmbedder, Pixels
from twinlens.models.variants import trim, variants_of

HASH = {"output": "bits", "metric": "HAMMING", "dimension": 64}
CROPPED = {"width": 56, "height": 56, "fit": "crop", "crop_fraction": 0.8}
TURNS = [None, *Image.Transpose]


def card(**changes: Any) -> Card:
    return Card.model_validate(COLOUR_CARD | changes)


def opened(image: Image.Image) -> Picture:
    stream = io.BytesIO()
    image.save(stream, "PNG")
    return open_picture(stream.getvalue())


@pytest.fixture(scope="module")
def cat() -> Image.Image:
    with Image.open(SHIPPED_CARDS / "golden" / "chelsea.png") as image:
        return image.convert("RGB")


@pytest.fixture(scope="module")
def phash() -> OnnxEmbedder:
    return open_phash()


def distance(variants: Pixels, sought: Pixels) -> float:
    """The least mean difference of any variant, of 255."""
    return float(np.abs(variants.astype(int) - sought.astype(int)).mean(axis=(1, 2, 3)).min())


@pytest.mark.parametrize("turn", TURNS)
@pytest.mark.parametrize("size", [(32, 32), (40, 24)])
@pytest.mark.parametrize("fit", list(Fit))
def test_a_hash_sees_every_turn(
    cat: Image.Image, turn: Image.Transpose | None, size: tuple[int, int], fit: Fit
) -> None:
    hash_card = card(**HASH, input={"width": size[0], "height": size[1], "fit": fit})
    stored = opened(cat if turn is None else cat.transpose(turn)).pixels_for(hash_card.input)

    variants = variants_of(opened(cat), hash_card)

    assert variants.shape == (9, size[1], size[0], 3)
    assert variants.dtype == np.uint8
    assert distance(variants, stored) < 1
    # Any other turn is 40 or more away.
    assert sum(np.abs(one.astype(int) - stored).mean() < 10 for one in variants[:8]) == 1


@pytest.mark.parametrize("edit", ["white", "red", "black"])
def test_a_hash_sees_a_copy_within_a_border(
    cat: Image.Image, phash: OnnxEmbedder, edit: str
) -> None:
    framed = ImageOps.expand(cat, (50, 20, 110, 70), edit)

    trimmed = trim(opened(framed))

    assert (trimmed.width, trimmed.height) == pytest.approx(cat.size, abs=3)
    sought = phash.embed_batch(opened(cat).pixels_for(phash.card.input)[None])
    hashes: Any = phash.embed_batch(variants_of(opened(framed), phash.card))
    n_bits = np.bitwise_count(hashes ^ sought).sum(axis=1)
    assert n_bits[:8].min() > 12
    assert n_bits[8] <= 4


def test_a_picture_without_a_border_stays(cat: Image.Image) -> None:
    flat = opened(Image.new("RGB", (30, 20), "teal"))
    assert trim(flat) == flat
    whole = opened(cat)
    assert trim(whole).box == pytest.approx(whole.box, abs=3)


def on_grey(difference: int, box: tuple[int, int, int, int], dust: int = 0) -> Picture:
    """A grey square of 256 pixels with a rectangle that differs, and a speck in a corner."""
    picture = Image.new("RGB", (256, 256), (100, 100, 100))
    picture.paste((100, 100, 100 + difference), box)
    picture.paste((0, 0, 0), (250, 250, 250 + dust, 250 + dust))
    return opened(picture)


@pytest.mark.parametrize("box", [(64, 32, 192, 200), (0, 0, 100, 256), (100, 20, 256, 256)])
def test_a_border_is_taken_off_to_the_pixel(box: tuple[int, int, int, int]) -> None:
    # Where the rectangle is in the corner, its colour is the border's: what is left is the other.
    expected = (100, 0, 256, 256) if box[:2] == (0, 0) else box
    assert trim(on_grey(60, box)).box == expected


@pytest.mark.parametrize(("difference", "is_picture"), [(10, False), (16, True)])
def test_what_is_nearly_of_the_borders_colour_is_border(difference: int, is_picture: bool) -> None:
    box = trim(on_grey(difference, (64, 64, 192, 192))).box
    assert box == ((64, 64, 192, 192) if is_picture else (0, 0, 256, 256))


@pytest.mark.parametrize(("side_px", "is_dust"), [(4, True), (6, False)])
def test_a_speck_on_the_border_is_dust(side_px: int, is_dust: bool) -> None:
    # Of 256 pixels in a row, five are 2 %.
    box = trim(on_grey(60, (64, 64, 192, 192), side_px)).box
    assert box == (64, 64, *((192, 192) if is_dust else (256, 256)))


@pytest.mark.parametrize("box", [(0, 100, 256, 102), (100, 0, 102, 256)])
def test_a_picture_of_a_thin_line_alone_stays_whole(box: tuple[int, int, int, int]) -> None:
    assert trim(on_grey(60, box)).box == (0, 0, 256, 256)


def test_a_crop_of_the_whole_has_no_larger_one(cat: Image.Image) -> None:
    whole = card(input={"width": 56, "height": 56, "fit": "crop"})
    assert len(variants_of(opened(cat), whole)) == 3


def test_a_network_sees_the_middle_and_all(cat: Image.Image) -> None:
    network = card(input=CROPPED)
    spec = network.input
    middle = cat.crop((26, 17, 234, 156))

    variants = variants_of(opened(cat), network)

    assert variants.shape == (4, 56, 56, 3)
    assert (variants[0] == opened(cat).pixels_for(spec)).all()
    # Of the copy the model takes the middle 80 % of 80 %, which is the variant's.
    assert distance(variants[1:2], opened(middle).pixels_for(spec)[None]) < 2
    smaller = cat.crop((52, 35, 208, 138))
    assert distance(variants[2:3], opened(smaller).pixels_for(spec)[None]) < 2
    # And the other way round: all of the copy is nearly what it took of the whole.
    assert distance(variants_of(opened(middle), network), variants[:1]) < 2
    assert distance(variants[:1], opened(middle).pixels_for(spec)[None]) > 10


def test_what_is_cut_out_of_a_resized_picture_has_a_larger_crop_too(cat: Image.Image) -> None:
    cut_out = card(input={"width": 56, "height": 56, "fit": "crop", "resized_px": 70})

    variants = variants_of(opened(cat), cut_out)

    assert len(variants) == 4
    whole = InputSpec(width=56, height=56, fit=Fit.CROP)
    assert (variants[-1] == opened(cat).pixels_for(whole)).all()


def test_a_network_gets_the_turns_where_no_hash_is_asked(cat: Image.Image) -> None:
    network = card(input=CROPPED)

    variants = variants_of(opened(cat), network, has_hash=False)

    assert variants.shape == (7, 56, 56, 3)
    assert (variants[[0, 4, 5, 6]] == variants_of(opened(cat), network)).all()
    for turn in (Image.Transpose.ROTATE_90, Image.Transpose.ROTATE_180, Image.Transpose.ROTATE_270):
        assert distance(variants, opened(cat.transpose(turn)).pixels_for(network.input)[None]) < 1


def test_what_is_squashed_has_no_larger_crop(cat: Image.Image) -> None:
    assert len(variants_of(opened(cat), card())) == 3


@pytest.mark.parametrize("size", [(1, 1), (1, 8000), (8000, 2), (3, 2)])
@pytest.mark.parametrize("kind", [HASH, {"input": CROPPED}, {}])
def test_long_and_tiny_pictures_have_variants(size: tuple[int, int], kind: dict[str, Any]) -> None:
    variants = variants_of(opened(Image.new("RGB", size, "teal")), card(**kind), has_hash=False)

    assert (variants == (0, 128, 128)).all()
