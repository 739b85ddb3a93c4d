r"""How a search can be narrowed: a small language over an image's metadata.

    city == "Paris" and year >= 2019
    not (tags contains "draft" or `shot at` in ["night", "dusk"])

| written | true of an image |
|---|---|
| `city == "Paris"`, `!=` | whose `city` is, or is not, that string, number or boolean |
| `year < 2020`, `<=`, `>`, `>=` | whose `year` is a number in that order; strings likewise |
| `city in ["Paris", "Rome"]`, `not in` | whose `city` is, or is not, one of these, of one kind |
| `tags contains "red"` | whose `tags` is a list with this string in it |
| `exists city` | that has a `city`, of any kind |
| `not …`, `… and …`, `… or …` | as they say; `not` binds tightest, `or` loosest; `(…)` groups |

A field is a name of letters, digits and `_`, or any text in backquotes. Strings are in single or
double quotes. In all of them, the escapes are those of JSON, and `\'` and `` \` ``. Keywords are in
lower case; a field with a keyword's name goes in backquotes.

- A comparison is never true of a field that is absent or of another kind, and neither are `!=` and
  `not in`. A boolean is not a number, and a list is compared only by `contains`.
- `not` reverses each comparison after it: `not city == "Paris"` is `city != "Paris"`, true of
  those that have another city; `not tags contains "red"` of those whose tags are a list without it;
  `not exists city` of those that have none.
- Numbers compare by what is written, whole or not, however large: 2 is 2.0, and 9007199254740993
  is not 9007199254740992. NaN and infinity cannot be written.
- Strings compare by code points; language, case folding and normal forms play no part.
"""

from __future__ import annotations

import functools
import operator
import re
from collections.abc import Callable
from dataclasses import dataclass, replace
from decimal import Decimal
from enum import StrEnum
from math import isinf
from typing import Any, Literal, cast

from lark import (
    Lark,
    Token,
    Transformer,
    UnexpectedCharacters,
    UnexpectedToken,
    v_args,
)

from twinlens.shared.errors import BadFilter
from twinlens.shared.messages import Metadata, MetadataValue

MAX_CHARS = 4096
MAX_DEPTH = 16  # of `and`, `or` and `not` within each other; brackets alone do not count

Scalar = str | bool | int | float
Operator = Literal["==", "!=", "<", "<=", ">", ">="]


@dataclass(frozen=True, slots=True)
class Compare:
    field: str
    operator: Operator
    value: Scalar


@dataclass(frozen=True, slots=True)
class OneOf:
    """There is at least one value, and all are of one kind."""

    field: str
    values: tuple[Scalar, ...]
    negated: bool = False


@dataclass(frozen=True, slots=True)
class Contains:
    field: str
    text: str
    negated: bool = False


@dataclass(frozen=True, slots=True)
class Exists:
    field: str
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


class Kind(StrEnum):
    """What is compared with what."""

    STRING = "s"
    NUMBER = "n"
    BOOLEAN = "b"
    LIST = "l"


def kind_of(value: MetadataValue) -> Kind:
    match value:
        case str():
            return Kind.STRING
        case bool():
            return Kind.BOOLEAN
        case int() | float():
            return Kind.NUMBER
        case _:
            return Kind.LIST


def exact(number: float) -> Decimal:
    """Returns a number as it is written: 0.1 is a tenth, and no whole number is rounded."""
    return Decimal(number) if isinstance(number, int) else Decimal(repr(number))


def parse_filter(text: str) -> Filter:
    """Reads a filter.

    Raises:
        BadFilter: It is not a filter, or is too long or too deep. The detail says where and why.
    """
    if len(text) > MAX_CHARS:
        raise BadFilter(f"A filter has at most {MAX_CHARS:,} characters; this has {len(text):,}.")
    try:
        parsed = cast("Filter", _parser().parse(text))
    except (UnexpectedCharacters, UnexpectedToken) as error:
        raise _explained(error, text) from error
    _check_depth(parsed)
    return parsed


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


def matches(wanted: Filter, metadata: Metadata) -> bool:
    """Returns whether a filter is true of an image's metadata.

    >>> matches(parse_filter("not year < 2019"), {"year": 2019.5})
    True
    """
    match wanted:
        case AllOf(parts) | AnyOf(parts):
            combine = all if isinstance(wanted, AllOf) else any
            return combine(matches(part, metadata) for part in parts)
        case Not():
            return matches(push_down(wanted), metadata)
        case Exists(field, negated):
            return (field in metadata) is not negated
        case Contains(field, text, negated):
            texts = metadata.get(field)
            return isinstance(texts, list) and (text in texts) is not negated
        case OneOf(field, values, negated):
            value = _comparable(metadata, field, values[0])
            return value is not None and (value in map(_ordered, values)) is not negated
        case Compare(field, sign, literal):
            value = _comparable(metadata, field, literal)
            return value is not None and _HOLDS[sign](value, _ordered(literal))


def _comparable(metadata: Metadata, field: str, literal: Scalar) -> Any:
    """Returns a field's value; None if it is absent or not of the same kind as a literal."""
    value = metadata.get(field)
    if value is None or isinstance(value, list) or kind_of(value) is not kind_of(literal):
        return None
    return _ordered(value)


def _ordered(value: Scalar) -> Any:
    return value if isinstance(value, str | bool) else exact(value)


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

_GRAMMAR = r"""
?start: any
?any: every | every (_OR every)+ -> any_of
?every: term | term (_AND term)+ -> all_of
?term: comparison | "(" any ")" | _NOT term -> negation
?comparison: field EQUALITY (text | number | boolean) -> compare
    | field ORDER (text | number) -> compare
    | field _IN values -> is_in
    | field _NOT _IN values -> is_not_in
    | field _CONTAINS text -> contains
    | _EXISTS field -> exists
?values: "[" (texts | numbers | booleans) "]"
texts: text ("," text)*
numbers: number ("," number)*
booleans: boolean ("," boolean)*
field: NAME | QUOTED
text: STRING
number: NUMBER
boolean: BOOLEAN

_OR.1: /or\b/
_AND.1: /and\b/
_NOT.1: /not\b/
_IN.1: /in\b/
_CONTAINS.1: /contains\b/
_EXISTS.1: /exists\b/
BOOLEAN.1: /(true|false)\b/
EQUALITY: "==" | "!="
ORDER: "<=" | "<" | ">=" | ">"
NAME: /(?!(and|or|not|in|contains|exists|true|false)\b)[^\W\d]\w*/
QUOTED: /`(\\.|[^`\\])*`/s
STRING: /"(\\.|[^"\\])*"|'(\\.|[^'\\])*'/s
NUMBER: /-?[0-9]+(\.[0-9]+)?([eE][-+]?[0-9]+)?/
%ignore /[ \t\r\n]+/
"""

# What terminals of the grammar are called where one of them was expected.
_WORDS = {
    "NAME": "a field",
    "QUOTED": "a field",
    "STRING": "a string",
    "NUMBER": "a number",
    "BOOLEAN": "true or false",
    "EQUALITY": "a comparison",
    "ORDER": "a comparison",
    "_IN": "`in`",
    "_CONTAINS": "`contains`",
    "_EXISTS": "`exists`",
    "_NOT": "`not`",
    "_AND": "`and`",
    "_OR": "`or`",
    "LPAR": "`(`",
    "RPAR": "`)`",
    "LSQB": "`[`",
    "RSQB": "`]`",
    "COMMA": "`,`",
    "$END": "the end",
}

_ESCAPE = re.compile(r"\\(u[0-9a-fA-F]{4}|.)", re.DOTALL)
_ESCAPED = {"b": "\b", "f": "\f", "n": "\n", "r": "\r", "t": "\t"} | {c: c for c in "\"'`\\/"}


@v_args(inline=True)
class _Builder(Transformer[Token, Filter]):
    """Turns each rule of the grammar into a part of the tree, while it is parsed."""

    def any_of(self, *parts: Filter) -> Filter:
        return AnyOf(parts)

    def all_of(self, *parts: Filter) -> Filter:
        return AllOf(parts)

    def negation(self, part: Filter) -> Filter:
        return Not(part)

    def compare(self, field: str, sign: Token, value: Scalar) -> Filter:
        return Compare(field, cast("Operator", str(sign)), value)

    def is_in(self, field: str, values: tuple[Scalar, ...]) -> Filter:
        return OneOf(field, values)

    def is_not_in(self, field: str, values: tuple[Scalar, ...]) -> Filter:
        return OneOf(field, values, negated=True)

    def contains(self, field: str, text: str) -> Filter:
        return Contains(field, text)

    def exists(self, field: str) -> Filter:
        return Exists(field)

    def texts(self, *values: Scalar) -> tuple[Scalar, ...]:
        return values

    numbers = booleans = texts

    def field(self, token: Token) -> str:
        return _unquote(token) if token.type == "QUOTED" else str(token)

    def text(self, token: Token) -> str:
        return _unquote(token)

    def number(self, token: Token) -> float:
        if token.removeprefix("-").isdigit():
            return int(token)
        value = float(token)
        if isinf(value):
            raise _refused(token, 0, "the number is too large")
        return value

    def boolean(self, word: Token) -> bool:
        return str(word) == "true"


@functools.cache
def _parser() -> Lark:
    return Lark(_GRAMMAR, parser="lalr", transformer=_Builder())


def _unquote(token: Token) -> str:
    def character_of(match: re.Match[str]) -> str:
        code = match[1]
        if len(code) == 5:
            return chr(int(code[1:], 16))
        if code not in _ESCAPED:
            raise _refused(token, 1 + match.start(), f"there is no escape {match[0]!r}")
        return _ESCAPED[code]

    text = _ESCAPE.sub(character_of, token[1:-1])
    try:
        # Two escapes may be the halves of one character.
        return text.encode("utf-16", "surrogatepass").decode("utf-16")
    except UnicodeDecodeError:
        raise _refused(token, 0, "half a surrogate pair is not a character") from None


def _refused(token: Token, offset: int, why: str) -> BadFilter:
    return BadFilter(f"At character {(token.start_pos or 0) + offset + 1}: {why}.")


def _explained(error: UnexpectedCharacters | UnexpectedToken, text: str) -> BadFilter:
    """Returns what the parser says, in terms of the language."""
    position = error.pos_in_stream or 0
    if isinstance(error, UnexpectedCharacters):
        unexpected = text[position]
        if unexpected in "\"'`":
            return BadFilter(f"At character {position + 1}: the quote is never closed.")
    else:
        unexpected = str(error.token)
    if not unexpected:
        return BadFilter(f"At the end: expected {_expected_after(text)}.")
    wanted = _expected_after(text[:position])
    return BadFilter(f"At character {position + 1}: expected {wanted}, found {unexpected[:30]!r}.")


def _expected_after(beginning: str) -> str:
    # Parsed again: the last token has already changed what the parser would have accepted.
    parser: Any = _parser().parse_interactive(beginning)
    parser.exhaust_lexer()
    terminals = parser.accepts()
    *others, last = dict.fromkeys(word for name, word in _WORDS.items() if name in terminals)
    return f"{', '.join(others)} or {last}" if others else last


def _check_depth(wanted: Filter) -> None:
    level = [wanted]
    for _ in range(MAX_DEPTH + 1):
        level = [child for part in level for child in _children(part)]
        if not level:
            return
    raise BadFilter(f"The filter has more than {MAX_DEPTH} levels of `and`, `or` and `not`.")


def _children(wanted: Filter) -> tuple[Filter, ...]:
    match wanted:
        case AllOf(parts) | AnyOf(parts):
            return parts
        case Not(part):
            return (part,)
        case _:
            return ()
