"""The bare loop: decode and embed, one process a core, nothing queued and nothing stored.

The best that a caller could do with the same models by hand, and what `bulk_over_bare` divides by.
"""

from __future__ import annotations

from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from twinlens.models.pictures import open_picture
from twinlens.models.registry import DEFAULT_MODELS, Registry

if TYPE_CHECKING:
    from twinlens.models.session import Embedder

BATCH = 16
_models: list[Embedder] = []


def _load(models_dir: Path) -> None:
    registry = Registry(models_dir)
    _models.extend(registry.open(ref) for ref in DEFAULT_MODELS)


def _embed(paths: list[Path]) -> None:
    wanted_px = max(model.card.input.wanted_px for model in _models)
    pictures = [open_picture(path.read_bytes(), wanted_px=wanted_px) for path in paths]
    # A model at a time keeps its weights in the cache: a fifth faster than a picture at a time.
    for model in _models:
        pixels = [picture.pixels_for(model.card.input) for picture in pictures]
        model.embed_batch(np.stack(pixels))


class BareLoop:
    """One process a core, each with its sessions open before the clock starts."""

    def __init__(self, models_dir: Path, n_processes: int) -> None:
        self._pool = ProcessPoolExecutor(
            n_processes, get_context("spawn"), initializer=_load, initargs=(models_dir,)
        )

    def run(self, paths: list[Path]) -> None:
        """Embeds every picture under every model."""
        batches = [paths[start : start + BATCH] for start in range(0, len(paths), BATCH)]
        list(self._pool.map(_embed, batches))

    def close(self) -> None:
        self._pool.shutdown()
