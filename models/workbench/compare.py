"""How a model compares with the one it was made from: speed, cosine, the same neighbours."""

from __future__ import annotations

import statistics
import time
from typing import TYPE_CHECKING

import numpy as np

from twinlens.models.card import ModelComparison, OutputKind
from twinlens.models.errors import BadInput
from twinlens.models.pictures import open_picture
from twinlens.shared.errors import PictureError

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path

    from twinlens.models.card import Card, InputSpec
    from twinlens.models.session import Embedder, Embeddings, Pixels

N_NEIGHBOURS = 10
N_ROUNDS = 7
# Long enough to be told from the clock's and the scheduler's noise, short enough to wait for.
N_TIMED_PICTURES = 8


def read_pixels(files: Iterable[Path], spec: InputSpec, at_most: int) -> list[Pixels]:
    """Decodes pictures for a model, and skips files that cannot be read or are not pictures.

    Args:
        files: Pictures.
        spec: What the model takes.
        at_most: How many pictures to read.

    Returns:
        uint8 [height, width, 3] each.

    Raises:
        BadInput: None of them can be decoded.
    """
    decoded: list[Pixels] = []
    for path in files:
        if len(decoded) == at_most:
            break
        try:
            picture = open_picture(path.read_bytes(), wanted_px=spec.wanted_px)
        except (OSError, PictureError):
            continue
        decoded.append(picture.pixels_for(spec))
    if not decoded:
        raise BadInput("none of these files is a picture that can be decoded")
    return decoded


def embed_each(embedder: Embedder, pixels: Iterable[Pixels]) -> Embeddings:
    """Embeds pictures one by one: float32 [n, dim], or uint8 [n, dim / 8]."""
    return np.concatenate([embedder.embed_batch(one[np.newaxis]) for one in pixels])


def compare_models(original: Embedder, changed: Embedder, pixels: list[Pixels]) -> ModelComparison:
    """Measures a model against the one that it was made from, which takes the same pixels.

    Args:
        original: The model.
        changed: What was made from it.
        pixels: uint8 [height, width, 3] each; more than N_NEIGHBOURS for the agreement to say
            something.
    """
    first, second = embed_each(original, pixels), embed_each(changed, pixels)
    is_comparable = first.shape == second.shape
    return ModelComparison(
        original=original.card.ref,
        speed_ratio=round(speed_ratio(original, changed, pixels), 2),
        mean_cosine=round(float((first * second).sum(1).mean()), 5) if is_comparable else None,
        top10_agreement=round(neighbour_agreement(first, second), 4),
        bytes_per_vector=bytes_per_vector(changed.card),
        n_pictures=len(pixels),
    )


def bytes_per_vector(card: Card) -> int:
    """Returns what one embedding takes in Milvus, in bytes."""
    return card.dimension // 8 if card.output is OutputKind.BITS else card.dimension * 4


def speed_ratio(original: Embedder, changed: Embedder, pixels: list[Pixels]) -> float:
    """Returns pictures per second over the original's: the median of rounds in turn, A B A B."""
    timed = pixels[:N_TIMED_PICTURES]
    ratios = []
    for _ in range(N_ROUNDS):
        original_s, changed_s = (time_s(model, timed) for model in (original, changed))
        ratios.append(original_s / changed_s)
    return statistics.median(ratios)


def neighbour_agreement(first: Embeddings, second: Embeddings) -> float:
    """Returns how many of each picture's nearest are the same, as a mean from 0 to 1.

    Args:
        first: float32 [n, d], rows of length 1.
        second: float32 [n, e], the same pictures.
    """
    n_near = min(N_NEIGHBOURS, len(first) - 1)
    if n_near < 1:
        return 1.0
    pairs = zip(_nearest(first, n_near), _nearest(second, n_near), strict=True)
    return sum(len(set(one) & set(other)) for one, other in pairs) / (n_near * len(first))


def _nearest(rows: Embeddings, n_near: int) -> list[list[int]]:
    similarity = rows @ rows.T
    np.fill_diagonal(similarity, -np.inf)
    nearest: list[list[int]] = np.argsort(-similarity, axis=1, kind="stable")[:, :n_near].tolist()
    return nearest


def time_s(embedder: Embedder, pixels: list[Pixels]) -> float:
    """Returns how many seconds a model takes for pictures, one by one."""
    started = time.perf_counter()
    embed_each(embedder, pixels)
    return time.perf_counter() - started
