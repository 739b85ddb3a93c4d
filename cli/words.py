"""Words for what commands count and miss."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping


def counted(n: int, noun: str) -> str:
    """Returns a number with its noun.

    >>> counted(1, "picture"), counted(1200, "picture")
    ('1 picture', '1,200 pictures')
    """
    return f"{n:,} {noun}{'' if n == 1 else 's'}"


def name_missing(missing: Mapping[str, Iterable[str]]) -> list[str]:
    """Returns a line of each library that names models which no worker has."""
    return [
        f"library {name} is neither searched nor filled: no worker has {', '.join(refs)}; add it"
        f" again, or give the library other models with `twinlens libraries set {name}`"
        for name, refs in missing.items()
        if refs
    ]
