"""What several models cost together, against each alone. One process, and no service."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

import numpy as np

from benchmarks.photos import Photos
from benchmarks.setup import Results, Setup, medians, time_s
from twinlens.models.pictures import Picture, open_picture
from twinlens.models.registry import DEFAULT_MODELS, Registry
from twinlens.models.session import Embedder


def measure(setup: Setup) -> Results:
    """Measures the models of a new library on one decoded picture, over the sum of each alone."""
    registry, photos = Registry(setup.models), Photos()
    models = [registry.open(ref) for ref in DEFAULT_MODELS]
    contents = [photos.take() for _ in range(setup.size.model_photos)]
    # For all of them alike, so that the same decoding is counted, and taken off again.
    wanted_px = max(model.card.input.wanted_px for model in models)
    decode = partial(_decode, contents, wanted_px)
    _embed(models, decode())
    rounds = [_round(models, decode) for _ in range(setup.size.short_rounds)]
    times = medians(rounds)
    alone_s = sum(times[model.card.name] for model in models)
    return {
        "multi_model_penalty": times["together"] / (alone_s - 2 * times["decode"]),
        "multi_model_ms": times["together"] / len(contents) * 1000,
    }


def _round(models: Sequence[Embedder], decode: partial[list[Picture]]) -> Results:
    def embed(some: Sequence[Embedder]) -> None:
        _embed(some, decode())

    alone_s = {model.card.name: time_s(partial(embed, [model])) for model in models}
    return {"together": time_s(partial(embed, models)), "decode": time_s(decode), **alone_s}


def _decode(contents: Sequence[bytes], wanted_px: int) -> list[Picture]:
    return [open_picture(content, wanted_px=wanted_px) for content in contents]


def _embed(models: Sequence[Embedder], pictures: Sequence[Picture]) -> None:
    """Resizes and embeds, as a worker does: all pictures for one model, then for the next."""
    for model in models:
        model.embed_batch(np.stack([one.pixels_for(model.card.input) for one in pictures]))
