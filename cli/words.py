"""Words for what commands count."""

from __future__ import annotations


def counted(n: int, noun: str) -> str:
    """Returns a number with its noun.

    >>> counted(1, "picture"), counted(1200, "picture")
    ('1 picture', '1,200 pictures')
    """
    return f"{n:,} {noun}{'' if n == 1 else 's'}"
