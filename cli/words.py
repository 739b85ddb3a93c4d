"""Words for what commands count and miss."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable

    from twinlens.shared.answers import LibraryAnswer


def counted(n: int, noun: str) -> str:
    """Returns a number with its noun.

    >>> counted(1, "picture"), counted(1200, "picture")
    ('1 picture', '1,200 pictures')
    """
    return f"{n:,} {noun}{'' if n == 1 else 's'}"


def missing_models(libraries: Iterable[LibraryAnswer]) -> list[str]:
    """Returns a line of each library that names models which no worker has."""
    return [
        f"library {one.name} is neither searched nor filled: no worker has"
        f" {', '.join(one.missing_models)}; add it again, or give the library other models with"
        f" `twinlens libraries set {one.name}`"
        for one in libraries
        if one.missing_models
    ]
