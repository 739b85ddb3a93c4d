"""The bare loop: decode and embed, one process a core, nothing queued and nothing stored.

The best that a caller could do with the same models by hand, and what `bulk_over_bare` divides by.
"""

from __future__ import annotations

from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from typing import TYPE_CHECKING

from twinlens.models.pictures import open_picture
from twinlens.models.registry import DEFAULT_MODELS, Registry

if TYPE_CHECKING:
    from twinlens.models.session import Embedder

_models: list[Embedder] = []


def _load(models_dir: Path) -> None:
    registry = Registry(models_dir)
    _models.extend(registry.open(ref) for ref in DEFAULT_MODELS)


def _embed(path: Path) -> None:
    wanted_px = max(model.card.input.wanted_px for model in _models)
    picture = open_picture(path.read_bytes(), wanted_px=wanted_px)
    for model in _models:
        model.embed_batch(picture.pixels_for(model.card.input)[None])


class BareLoop:
    """One process a core, each with its sessions open before the clock starts."""

    def __init__(self, models_dir: Path, n_processes: int) -> None:
        self._pool = ProcessPoolExecutor(
            n_processes, get_context("spawn"), initializer=_load, initargs=(models_dir,)
        )

    def run(self, paths: list[Path]) -> None:
        """Embeds every picture under every model."""
        list(self._pool.map(_embed, paths, chunksize=8))

    def close(self) -> None:
        self._pool.shutdown()
