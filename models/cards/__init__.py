"""The cards of the models that are shipped, and what they are checked with."""

from __future__ import annotations

from pathlib import Path

SHIPPED_CARDS = Path(__file__).parent


def shipped_refs() -> list[str]:
    """Returns the models that can be built here, as name@version."""
    return sorted(path.stem for path in SHIPPED_CARDS.glob("*.toml"))
