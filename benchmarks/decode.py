"""Decoding a photo of 12 megapixels, against plain Pillow, and what that does to its embedding."""

from __future__ import annotations

import io
from collections.abc import Callable
from functools import partial

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from support.photos import SOURCES, jpeg, source

from benchmarks.setup import Results, Setup, medians, time_s
from twinlens.models.card import InputSpec
from twinlens.models.pictures import open_picture
from twinlens.models.registry import DEFAULT_MODELS, Registry
from twinlens.models.session import Embedder, Pixels

SIZE_PX = (4000, 3000)
# Enlarged pictures are smooth, 1 MB. With this much grain one has the 3.6 MB of a phone's photo,
# and its Huffman codes, which no way of decoding can skip, take the larger part.
GRAIN = 9.0
MIN_COSINE = 0.999
# The network itself. Its int8 version is too coarse to judge by: where a fifth of the pixels is
# off by 1 at random, which is what ours differ by, its cosine is 0.998 too; it is reported.
NETWORK = "efficientnet-lite0@1"
Decode = Callable[[bytes], Pixels]


def measure(setup: Setup) -> Results:
    """Measures both ways to the pixels that EfficientNet-Lite0 takes."""
    network, shipped = (Registry(setup.models).open(ref) for ref in (NETWORK, DEFAULT_MODELS[0]))
    ours, plain = (partial(way, network.card.input) for way in (_decode, _decode_plainly))
    photos = [_photo(name, GRAIN) for name in SOURCES]
    pixels = [np.stack([decode(photo) for photo in photos]) for decode in (ours, plain)]
    cosine = _lowest_cosine(network, *pixels)
    assert cosine >= MIN_COSINE, f"decoding changes the embedding: cosine {cosine}"
    smooth = _compare(setup, [_photo(name, 0) for name in SOURCES], ours, plain)
    grainy = _compare(setup, photos, ours, plain)
    return {
        "decode_12mp_over_pillow": grainy["ours"] / grainy["plain"],
        "decode_12mp_smooth_over_pillow": smooth["ours"] / smooth["plain"],
        "decode_12mp_ms": grainy["ours"] * 1000 / len(photos),
        "decode_12mp_cosine": cosine,
        "decode_12mp_int8_cosine": _lowest_cosine(shipped, *pixels),
    }


def _compare(setup: Setup, photos: list[bytes], ours: Decode, plain: Decode) -> Results:
    def time_all(decode: Decode) -> float:
        return time_s(lambda: [decode(photo) for photo in photos])

    rounds = range(setup.size.short_rounds)
    return medians([{"ours": time_all(ours), "plain": time_all(plain)} for _ in rounds])


def _lowest_cosine(model: Embedder, one: Pixels, other: Pixels) -> float:
    return float((model.embed_batch(one) * model.embed_batch(other)).sum(axis=1).min())


def _photo(name: str, grain: float) -> bytes:
    photo = source(name)
    width, height = min(photo.width, photo.height * 4 // 3), min(photo.height, photo.width * 3 // 4)
    large = photo.resize(SIZE_PX, Image.Resampling.LANCZOS, (0, 0, width, height))
    rng = np.random.default_rng(0)
    noise = rng.normal(0, grain, (*SIZE_PX[::-1], 3)).astype(np.float32)
    return jpeg(Image.fromarray(np.clip(np.asarray(large) + noise, 0, 255).astype(np.uint8)))


def _decode(spec: InputSpec, content: bytes) -> NDArray[np.uint8]:
    return open_picture(content, wanted_px=spec.wanted_px).pixels_for(spec)


def _decode_plainly(spec: InputSpec, content: bytes) -> NDArray[np.uint8]:
    """Decodes all pixels, and resizes the same square of the middle, as the card says."""
    with Image.open(io.BytesIO(content)) as image:
        rgb = image.convert("RGB")
    side = min(rgb.size) * spec.crop_fraction
    left, top = (rgb.width - side) / 2, (rgb.height - side) / 2
    box = (left, top, left + side, top + side)
    filters = Image.Resampling[spec.resample.name]
    return np.array(rgb.resize((spec.width, spec.height), filters, box), np.uint8)
