"""Values of metadata, and of what is the images' own: when two are the same, and which is less."""

from __future__ import annotations

from decimal import Decimal
from enum import StrEnum
from typing import Any

Scalar = str | bool | int | float | Decimal  # a moment is a Decimal: Unix time in seconds
Value = Scalar | list[str]


class Kind(StrEnum):
    """What is compared with what."""

    STRING = "s"
    NUMBER = "n"
    BOOLEAN = "b"
    LIST = "l"
    MOMENT = "t"


def kind_of(value: Value) -> Kind:
    match value:
        case str():
            return Kind.STRING
        case bool():
            return Kind.BOOLEAN
        case int() | float():
            return Kind.NUMBER
        case Decimal():
            return Kind.MOMENT
        case _:
            return Kind.LIST


def exact(number: float | Decimal) -> Decimal:
    """Returns a number as it is written: 0.1 is a tenth, and no whole number is rounded."""
    return Decimal(repr(number)) if isinstance(number, float) else Decimal(number)


def comparable(value: Value) -> tuple[Kind, Any]:
    """Returns what is equal for values that are the same, and orders those of one kind.

    It can be hashed. Lists are the same if they have the same strings in the same order.

    >>> comparable(2) == comparable(2.0), comparable(1) == comparable(True)
    (True, False)
    """
    match value:
        case list():
            return Kind.LIST, tuple(value)
        case str() | bool():
            return kind_of(value), value
        case _:
            return kind_of(value), exact(value)
