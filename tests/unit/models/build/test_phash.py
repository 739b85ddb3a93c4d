"""The hash graph against a second writing of its definition, and what a hash is for."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from twinlens.models.build import build_model
from twinlens.models.card import load_card
from twinlens.models.cards import SHIPPED_CARDS
from twinlens.models.session import OnnxEmbedder

GOLDEN = SHIPPED_CARDS / "golden"


@pytest.fixture(scope="module")
def phash() -> OnnxEmbedder:
    return OnnxEmbedder(load_card(SHIPPED_CARDS / "phash@1.toml"), build_model("phash@1"))


def reference_hash(pixels: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """By the cosine sum of DCT-II itself, in float64: no matrix of the graph's is used."""
    grey = pixels @ np.array([0.299, 0.587, 0.114])
    place = np.arange(32)
    low = np.empty((8, 8))
    for u in range(8):
        for v in range(8):
            row = np.cos((2 * place + 1) * u * np.pi / 64)
            column = np.cos((2 * place + 1) * v * np.pi / 64)
            norm = (np.sqrt(0.5) if u == 0 else 1) * (np.sqrt(0.5) if v == 0 else 1) / 16
            low[u, v] = norm * (grey * row[:, None] * column[None, :]).sum()
    return np.packbits(low > np.median(low) + 0.01)


def n_different(first: NDArray[np.uint8], second: NDArray[np.uint8]) -> int:
    return int(np.bitwise_count(first ^ second).sum())


def pixels_of(image: Image.Image) -> NDArray[np.uint8]:
    return np.array(image.resize((32, 32), Image.Resampling.LANCZOS), np.uint8)[np.newaxis]


def test_the_graph_is_the_definition(phash: OnnxEmbedder) -> None:
    pixels = np.random.default_rng(1).integers(0, 256, (50, 32, 32, 3), np.uint8)

    hashes = phash.embed_batch(pixels)

    expected = np.stack([reference_hash(one) for one in pixels])
    # A frequency within float32's rounding of the median may fall on either side.
    assert hashes.dtype == np.uint8
    assert np.bitwise_count(hashes.astype(np.uint8) ^ expected).sum() <= 1
    assert hashes.shape == (50, 8)


def test_the_lowest_frequency_is_the_highest_bit(phash: OnnxEmbedder) -> None:
    white = np.full((1, 32, 32, 3), 255, np.uint8)
    black = np.zeros((1, 32, 32, 3), np.uint8)

    assert phash.embed_batch(white)[0].tolist() == [128, 0, 0, 0, 0, 0, 0, 0]
    assert phash.embed_batch(black)[0].tolist() == [0] * 8


@pytest.mark.parametrize("shade", range(0, 256, 15))
def test_one_colour_has_no_bits_of_noise(phash: OnnxEmbedder, shade: int) -> None:
    flat = np.full((1, 32, 32, 3), (shade, 255 - shade, 77), np.uint8)

    assert phash.embed_batch(flat)[0].tolist() == [128, 0, 0, 0, 0, 0, 0, 0]


def test_a_smaller_copy_is_near_and_another_picture_far(phash: OnnxEmbedder) -> None:
    with Image.open(GOLDEN / "chelsea.png") as cat, Image.open(GOLDEN / "coffee.png") as cup:
        original, copy, other = (
            phash.embed_batch(pixels_of(image))[0]
            for image in (cat, cat.resize((120, 80), Image.Resampling.BILINEAR), cup)
        )

    assert n_different(original, copy) <= 4
    assert n_different(original, other) >= 20
