"""Writes SHA-256 and golden embeddings anew into the shipped cards.

For whoever changes a graph, a weight, an input or a golden picture. The vectors that users have
stored would no longer fit, so give the card a new version, then run
`python -m twinlens.models.build.refresh`.
"""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING

from twinlens.models.build import build_model
from twinlens.models.build.int8 import measure_shipped_ranges
from twinlens.models.card import load_card
from twinlens.models.cards import SHIPPED_CARDS, shipped_refs
from twinlens.models.session import OnnxEmbedder
from twinlens.models.verify import make_golden

if TYPE_CHECKING:
    from pathlib import Path


def refresh_card(path: Path) -> str:
    """Returns the text of a shipped card with what its model gives now."""
    card = load_card(path)
    model = build_model(card.ref)
    embedder = OnnxEmbedder(card, model)
    text = path.read_text(encoding="utf-8").replace(card.sha256, hashlib.sha256(model).hexdigest())
    head = text.partition("[[golden]]")[0]
    golden = [
        f'[[golden]]\npicture = "{one.picture}"\nembedding = "{one.embedding}"\n'
        for one in make_golden(embedder, path.parent)
    ]
    return head + "\n".join(golden)


def refresh_ranges(ref: str) -> None:
    """Measures anew the ranges that an int8 version is built from."""
    card = load_card(SHIPPED_CARDS / f"{ref.removesuffix('-int8')}.toml")
    measure_shipped_ranges(card.name, build_model(card.ref), card.input)


if __name__ == "__main__":
    for card_ref in shipped_refs():
        if card_ref.endswith("-int8"):
            refresh_ranges(card_ref)
    for card_path in sorted(SHIPPED_CARDS.glob("*.toml")):
        card_path.write_text(refresh_card(card_path), encoding="utf-8")
