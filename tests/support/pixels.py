"""Pixels for pictures that are written by hand, and what is read of them."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from twinlens.models.pictures import open_picture

# Rows of samples of any depth end within a byte.
HEIGHT, WIDTH = 37, 53


def noise(n_bits: int, n_channels: int | None = None) -> NDArray[np.int64]:
    """Returns samples of any number: [HEIGHT, WIDTH], or with channels."""
    shape = (HEIGHT, WIDTH) if n_channels is None else (HEIGHT, WIDTH, n_channels)
    return np.random.default_rng(7).integers(0, 1 << n_bits, shape)


def shades(samples: NDArray[Any], n_bits: int) -> NDArray[np.float64]:
    """Returns what samples look like, from 0 to 255: [height, width, 3]."""
    looks = samples * 255 / ((1 << n_bits) - 1)
    return looks if looks.ndim == 3 else np.repeat(looks[..., np.newaxis], 3, axis=-1)


def on_white(colours: NDArray[np.float64], alpha: NDArray[np.float64]) -> NDArray[np.float64]:
    """Returns colours of 0 to 255 under alpha of 0 to 1: [height, width]."""
    return colours * alpha[..., np.newaxis] + 255 * (1 - alpha[..., np.newaxis])


def read(content: bytes) -> NDArray[np.int16]:
    """Returns what is decoded of a small picture: [height, width, 3]."""
    return np.asarray(open_picture(content).stored, np.int16)
