"""What every server here runs: our decoder and our session, from the bytes of a JPEG to a vector.

Imported by the peers' own Python, which has neither the rest of Twinlens nor its dependencies.
"""

from __future__ import annotations

import os
from pathlib import Path

from twinlens.models.card import load_card
from twinlens.models.pictures import open_picture
from twinlens.models.session import OnnxEmbedder

REF = "efficientnet-lite0@1-int8"
MODELS_VARIABLE, PORT_VARIABLE, PROCESSES_VARIABLE = (
    "BENCH_MODELS",
    "BENCH_PORT",
    "BENCH_PROCESSES",
)


class Model:
    """A model that is open."""

    def __init__(self) -> None:
        directory = Path(os.environ[MODELS_VARIABLE])
        card = load_card(directory / f"{REF}.toml")
        self._embedder = OnnxEmbedder(card, (directory / card.file).read_bytes())

    def embed(self, content: bytes) -> bytes:
        spec = self._embedder.card.input
        pixels = open_picture(content, wanted_px=spec.wanted_px).pixels_for(spec)
        embedded: bytes = self._embedder.embed_batch(pixels[None])[0].tobytes()
        return embedded


def port() -> int:
    return int(os.environ[PORT_VARIABLE])


def n_processes() -> int:
    return int(os.environ[PROCESSES_VARIABLE])
