r"""How a search can be narrowed: a small language over an image's metadata, and what is its own.

    city == "Paris" and year >= 2019 and width > 1000
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

`name`, `width`, `height`, `format`, `bytes` and `added_at` are the image's own; a field in
backquotes is always metadata, of these names too. `name` and `format` (`"image/jpeg"`) are strings;
an image that was sent without a name has none. `added_at` is compared with a date or a time of
RFC 3339 in quotes (`added_at >= "2026-11-28T12:00:00.5+01:00"`); a date is its first moment in UTC.
The others are numbers.

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
import re
from dataclasses import replace
from math import isinf
from typing import Any, cast

from lark import (
    Lark,
    Token,
    Transformer,
    UnexpectedCharacters,
    UnexpectedToken,
    v_args,
)

from twinlens.shared.errors import BadFilter
from twinlens.shared.filters.fields import Field, OwnField, read_moment
from twinlens.shared.filters.tree import (
    AllOf,
    AnyOf,
    Compare,
    Contains,
    Exists,
    Filter,
    Not,
    OneOf,
    Operator,
)
from twinlens.shared.values import Kind, Scalar, kind_of

MAX_CHARS = 4096
MAX_DEPTH = 16  # of `and`, `or` and `not` within each other; brackets alone do not count


def parse_filter(text: str) -> Filter:
    """Reads a filter.

    Raises:
        BadFilter: It is not a filter, or is too long or too deep. The detail says where and why.
    """
    parsed = cast("Filter", _parse(text, "filter"))
    _check_depth(parsed)
    return parsed


def parse_field(text: str) -> Field:
    """Reads a field, written as in a filter.

    Raises:
        BadFilter: It is not a field, or is too long. The detail says where and why.
    """
    return _field_of(cast("Token", _parse(text, "field")))


_GRAMMAR = r"""
?filter: any
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
?field: NAME | QUOTED
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

_OWN = {own.value for own in OwnField}
# How a value of what is the image's own is written.
_WRITTEN = {
    Kind.STRING: "a string",
    Kind.NUMBER: "a number",
    Kind.MOMENT: 'a date or a time, like "2026-11-28" or "2026-11-28T12:00:00Z"',
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

    def compare(self, field: Token, sign: Token, value: Scalar) -> Filter:
        return Compare(_field_of(field), cast("Operator", str(sign)), _literal(field, value))

    def is_in(self, field: Token, values: tuple[Scalar, ...]) -> OneOf:
        return OneOf(_field_of(field), tuple(_literal(field, value) for value in values))

    def is_not_in(self, field: Token, values: tuple[Scalar, ...]) -> Filter:
        return replace(self.is_in(field, values), negated=True)

    def contains(self, field: Token, text: str) -> Filter:
        if isinstance(_field_of(field), OwnField):
            raise _misused(field, "is no list, and `contains` looks for an item of one")
        return Contains(_field_of(field), text)

    def exists(self, field: Token) -> Filter:
        return Exists(_field_of(field))

    def texts(self, *values: Scalar) -> tuple[Scalar, ...]:
        return values

    numbers = booleans = texts

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
    return Lark(_GRAMMAR, start=["filter", "field"], parser="lalr", transformer=_Builder())


def _parse(text: str, start: str) -> object:
    if len(text) > MAX_CHARS:
        raise BadFilter(f"It has at most {MAX_CHARS:,} characters; this has {len(text):,}.")
    try:
        return _parser().parse(text, start)
    except (UnexpectedCharacters, UnexpectedToken) as error:
        raise _explained(error, text, start) from error


def _field_of(token: Token) -> Field:
    if token.type == "QUOTED":
        return _unquote(token)
    return OwnField(str(token)) if token in _OWN else str(token)


def _literal(field: Token, written: Scalar) -> Scalar:
    """Returns what a field is compared with where this is written."""
    own = _field_of(field)
    if isinstance(own, str):
        return written
    is_moment = own.kind is Kind.MOMENT and isinstance(written, str)
    value = read_moment(str(written)) if is_moment else written
    if value is None or kind_of(value) is not own.kind:
        raise _misused(field, f"is compared with {_WRITTEN[own.kind]}")
    return value


def _misused(own: Token, why: str) -> BadFilter:
    return _refused(own, 0, f"{own} {why}; for metadata of this name, write `{own}` in backquotes")


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


def _explained(error: UnexpectedCharacters | UnexpectedToken, text: str, start: str) -> BadFilter:
    """Returns what the parser says, in terms of the language."""
    position = error.pos_in_stream or 0
    if isinstance(error, UnexpectedCharacters):
        unexpected = text[position]
        if unexpected in "\"'`":
            return BadFilter(f"At character {position + 1}: the quote is never closed.")
    else:
        unexpected = str(error.token)
    if not unexpected:
        return BadFilter(f"At the end: expected {_expected_after(text, start)}.")
    wanted = _expected_after(text[:position], start)
    return BadFilter(f"At character {position + 1}: expected {wanted}, found {unexpected[:30]!r}.")


def _expected_after(beginning: str, start: str) -> str:
    # Parsed again: the last token has already changed what the parser would have accepted.
    parser: Any = _parser().parse_interactive(beginning, start)
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
