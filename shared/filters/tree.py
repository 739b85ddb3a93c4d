"""What a filter is once it has been read, and what it is true of."""

from __future__ import annotations

import operator
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, Literal

from twinlens.shared.filters.fields import Field, Fields
from twinlens.shared.values import Kind, Scalar, comparable, kind_of

Operator = Literal["==", "!=", "<", "<=", ">", ">="]


@dataclass(frozen=True, slots=True)
class Compare:
    field: Field
    operator: Operator
    value: Scalar


@dataclass(frozen=True, slots=True)
class OneOf:
    """There is at least one value, and all are of one kind."""

    field: Field
    values: tuple[Scalar, ...]
    negated: bool = False


@dataclass(frozen=True, slots=True)
class Contains:
    field: Field
    text: str
    negated: bool = False


@dataclass(frozen=True, slots=True)
class Exists:
    field: Field
    negated: bool = False


@dataclass(frozen=True, slots=True)
class AllOf:
    parts: tuple[Filter, ...]


@dataclass(frozen=True, slots=True)
class AnyOf:
    parts: tuple[Filter, ...]


@dataclass(frozen=True, slots=True)
class Not:
    part: Filter


Condition = Compare | OneOf | Contains | Exists
Filter = Condition | AllOf | AnyOf | Not


def push_down(wanted: Filter, *, negated: bool = False) -> Filter:
    """Returns the same filter, or its negation, without any `Not` in it."""
    match wanted:
        case Not(part):
            return push_down(part, negated=not negated)
        case AllOf(parts) | AnyOf(parts):
            kind = AllOf if isinstance(wanted, AllOf) is not negated else AnyOf
            return kind(tuple(push_down(part, negated=negated) for part in parts))
        case Compare(field, sign, value):
            return Compare(field, _OPPOSITE[sign] if negated else sign, value)
        case _:
            return replace(wanted, negated=wanted.negated is not negated)


def matches(wanted: Filter, fields: Fields) -> bool:
    """Returns whether a filter is true of an image.

    >>> matches(Not(Compare("year", "<", 2019)), {"year": 2019.5})
    True
    """
    match wanted:
        case AllOf(parts) | AnyOf(parts):
            combine = all if isinstance(wanted, AllOf) else any
            return combine(matches(part, fields) for part in parts)
        case Not():
            return matches(push_down(wanted), fields)
        case Exists(field, negated):
            return (field in fields) is not negated
        case Contains(field, text, negated):
            texts = fields.get(field)
            return isinstance(texts, list) and (text in texts) is not negated
        case OneOf(field, values, negated):
            value = _comparable(fields, field, values[0])
            return value is not None and (value in map(comparable, values)) is not negated
        case Compare(field, sign, literal):
            value = _comparable(fields, field, literal)
            return value is not None and _HOLDS[sign](value, comparable(literal))


def _comparable(fields: Fields, field: Field, literal: Scalar) -> tuple[Kind, Any] | None:
    """Returns a field's value; None if it is absent or not of the same kind as a literal."""
    value = fields.get(field)
    return None if value is None or kind_of(value) is not kind_of(literal) else comparable(value)


_HOLDS: dict[Operator, Callable[[Any, Any], bool]] = {
    "==": operator.eq,
    "!=": operator.ne,
    "<": operator.lt,
    "<=": operator.le,
    ">": operator.gt,
    ">=": operator.ge,
}
_OPPOSITE: dict[Operator, Operator] = {
    "==": "!=",
    "!=": "==",
    "<": ">=",
    ">=": "<",
    ">": "<=",
    "<=": ">",
}
