"""The bare loop: decode and embed, one process a core, nothing queued and nothing stored.

The best that a caller could do with the same models by hand, and what `bulk_over_bare` divides by.
"""

from __future__ import annotations

import multiprocessing
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import numpy as np
import psutil

from benchmarks.service import cpu_s
from benchmarks.setup import N_CORES
from twinlens.models.pictures import open_picture
from twinlens.models.registry import DEFAULT_MODELS, Registry
from twinlens.models.session import Embedder

# Tried in turn, CPU time a picture: 18.4 ms by 8, 18.8 by 16, 18.6 by 32, 19.1 picture by picture.
BATCH = 8
_models: list[Embedder] = []


def _load(models_dir: Path, refs: Sequence[str]) -> None:
    registry = Registry(models_dir)
    _models.extend(registry.open(ref) for ref in refs)


def _embed(paths: list[Path]) -> None:
    wanted_px = max(model.card.input.wanted_px for model in _models)
    pictures = [open_picture(path.read_bytes(), wanted_px=wanted_px) for path in paths]
    # A model at a time keeps its weights in the cache.
    for model in _models:
        pixels = [picture.pixels_for(model.card.input) for picture in pictures]
        model.embed_batch(np.stack(pixels))


class BareLoop:
    """One process a core, each with its sessions open before the clock starts."""

    def __init__(self, models_dir: Path, refs: Sequence[str] = DEFAULT_MODELS) -> None:
        context = multiprocessing.get_context("spawn")
        self._pool = ProcessPoolExecutor(N_CORES, context, _load, (models_dir, refs))

    def run(self, paths: list[Path]) -> None:
        """Embeds every picture under every model."""
        batches = [paths[start : start + BATCH] for start in range(0, len(paths), BATCH)]
        list(self._pool.map(_embed, batches))

    def cpu_s(self) -> float:
        """Returns what its processes have used. They are all that multiprocessing started here."""
        return cpu_s([psutil.Process(child.pid) for child in multiprocessing.active_children()])

    def close(self) -> None:
        self._pool.shutdown()
