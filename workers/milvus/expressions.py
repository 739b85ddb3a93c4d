r"""An image's fields as Milvus stores them, and filters as expressions over what is stored.

Servers differ in how they read escapes in a string, in what `!=` says of an absent key and in which
numbers they round. So each value is stored under its kind as ASCII that needs no escape and whose
order is that of the values:

    {"city": "Rome", "year": 2019, "tags": ["red"]}
    {"Y2l0eQ": {"k": 1, "s": "526f6d65"},
     "eWVhcg": {"k": 1, "n": "150032019"},
     "dGFncw": {"k": 1, "l": 1, "e726564": 1}}

The name of a metadata field is in base64, a string is the hexadecimal digits of its UTF-8, and an
item of a list is a key made like that. What is the image's own has names that are no base64, and
its strings are in base 32, which is shorter and keeps their order:

    {"=width": {"k": 1, "n": "150031024"}, "=format": {"k": 1, "s": "D5MM2PR55TL70PB7"}}

A comparison with a value that is absent or of another kind names a path that does not exist. No
server takes that as true, except with `!=` and `not in`; these are written with what all servers
agree on.

16 KiB of metadata and the longest name become less than 64 KiB, the most that Milvus takes in a
JSON field.
"""

from __future__ import annotations

import base64
import heapq
from decimal import Decimal
from typing import TYPE_CHECKING

from twinlens.shared.filters.fields import OwnField
from twinlens.shared.filters.tree import (
    AllOf,
    AnyOf,
    Compare,
    Contains,
    Exists,
    Not,
    OneOf,
    push_down,
)
from twinlens.shared.values import Kind, exact, kind_of

if TYPE_CHECKING:
    from twinlens.shared.filters.fields import Field, Fields
    from twinlens.shared.filters.tree import Filter, Operator
    from twinlens.shared.values import Scalar, Value

METADATA_FIELD = "metadata"

_PRESENT = "k"
# Makes exponents four digits: floats go from -324 to 308, and JSON is read with ints of up to
# 4,300 digits.
_EXPONENT_OFFSET = 5000
_COMPLEMENT = str.maketrans("0123456789", "9876543210")

StoredFields = dict[str, dict[str, str | int]]

_Part = tuple[int, str]  # how deep an expression is, and its text


def to_stored(fields: Fields) -> StoredFields:
    """Returns what an image's JSON field holds, for filters."""
    return {_name_of(field): _stored(field, value) for field, value in fields.items()}


def own_fields(stored: StoredFields) -> dict[OwnField, str | Decimal]:
    """Returns what is an image's own of what its JSON field holds; of its metadata, nothing.

    >>> own_fields({"=width": {"k": 1, "n": "150031024"}, "=format": {"k": 1, "s": "D5MM2PR5"}})
    {<OwnField.WIDTH: 'width'>: Decimal('1024'), <OwnField.FORMAT: 'format'>: 'image'}
    """
    own: dict[OwnField, str | Decimal] = {}
    for field in OwnField:
        code = stored.get(_name_of(field), {}).get(field.kind.value)
        if isinstance(code, str):
            own[field] = _read_string(code) if field.kind is Kind.STRING else _read_count(code)
    return own


def _read_string(code: str) -> str:
    return base64.b32hexdecode(code + "=" * (-len(code) % 8)).decode()


def _read_count(code: str) -> Decimal:
    """Reads what `_number_code` wrote of a number that is not negative."""
    digits = code[5:]
    if not digits:
        return Decimal(0)
    exponent = int(code[1:5]) - _EXPONENT_OFFSET - len(digits) + 1
    return Decimal((0, tuple(map(int, digits)), exponent)) + 0


def to_milvus(wanted: Filter, *, has_exists: bool) -> str:
    """Returns a filter as a Milvus expression that is true of the same images.

    Nothing that a user wrote appears in it verbatim.

    Args:
        wanted: A filter.
        has_exists: Whether the server knows `exists`. Milvus Lite 2.5 does not: there, `!=` is
            true of an absent key. On the newest servers it no longer is (milvus#50723).
    """
    return _write(wanted, has_exists)[1]


def _write(wanted: Filter, has_exists: bool) -> _Part:
    match wanted:
        case AllOf(parts) | AnyOf(parts):
            word = "and" if isinstance(wanted, AllOf) else "or"
            return _join(word, *(_write(part, has_exists) for part in parts))
        case Not():
            return _write(push_down(wanted), has_exists)
        case Exists(field, negated):
            path = _path(field, _PRESENT)
            return _absent(path, has_exists) if negated else (0, f"{path} == 1")
        case Contains(field, text, negated):
            item = _path(field, _item(text))
            if not negated:
                return 0, f"{item} == 1"
            return _join("and", (0, f"{_path(field, Kind.LIST)} == 1"), _absent(item, has_exists))
        case _:
            return _compare(wanted)


def _compare(wanted: Compare | OneOf) -> _Part:
    match wanted:
        case Compare(field, "!=", value):
            return _join("or", _ordered(field, "<", value), _ordered(field, ">", value))
        case Compare(field, sign, value):
            return _ordered(field, sign, value)
        case OneOf(field, values, negated):
            path = _path(field, kind_of(values[0]))
            codes = ", ".join(f'"{_code(field, value)}"' for value in values)
            if not negated:
                return 0, f"{path} in [{codes}]"
            return _join("and", (0, f'{path} >= ""'), (0, f"{path} not in [{codes}]"))


def _ordered(field: Field, sign: Operator, value: Scalar) -> _Part:
    return 0, f'{_path(field, kind_of(value))} {sign} "{_code(field, value)}"'


def _absent(path: str, has_exists: bool) -> _Part:
    return (1, f"(not (exists {path}))") if has_exists else (0, f"{path} != 1")


def _join(word: str, *parts: _Part) -> _Part:
    """Joins expressions two by two, the shallowest first.

    Milvus Lite refuses more than about 50 levels, and counts `a and b and c` as two.
    """
    heap = sorted(parts)
    while len(heap) > 1:
        _, first = heapq.heappop(heap)
        depth, second = heapq.heappop(heap)
        heapq.heappush(heap, (depth + 1, f"({first} {word} {second})"))
    return heap[0]


def _path(field: Field, key: str) -> str:
    return f'{METADATA_FIELD}["{_name_of(field)}"]["{key}"]'


def _name_of(field: Field) -> str:
    if isinstance(field, OwnField):
        return f"={field.value}"
    return base64.urlsafe_b64encode(field.encode()).decode().rstrip("=") or "="


def _stored(field: Field, value: Value) -> dict[str, str | int]:
    stored: dict[str, str | int] = {_PRESENT: 1}
    if isinstance(value, list):
        return stored | {Kind.LIST.value: 1} | {_item(text): 1 for text in value}
    return stored | {kind_of(value).value: _code(field, value)}


def _item(text: str) -> str:
    return f"e{text.encode().hex()}"


def _code(field: Field, value: Scalar) -> str:
    """Returns ASCII letters, digits, `-` and `~` that sort like the values of their kind."""
    match value:
        case bool():
            return str(int(value))
        case str() if isinstance(field, OwnField):
            # In hexadecimal digits, the longest name would not fit beside the largest metadata.
            return base64.b32hexencode(value.encode()).decode().rstrip("=")
        case str():
            return value.encode().hex()
        case _:
            return _number_code(exact(value))


def _number_code(number: Decimal) -> str:
    """Returns sign, decimal exponent and digits: 2019 is `1`, `5003`, `2019`.

    In a negative number's magnitude, each digit is subtracted from 9, and a character that is
    greater than any digit comes last, so that a larger magnitude sorts earlier.
    """
    sign, digits, _ = number.as_tuple()
    if number.is_zero():
        return "0"
    magnitude = f"{number.adjusted() + _EXPONENT_OFFSET:04}" + "".join(map(str, digits)).rstrip("0")
    return f"-{magnitude.translate(_COMPLEMENT)}~" if sign else f"1{magnitude}"
