"""What holds for every filter, however it is written and whatever the metadata."""

from __future__ import annotations

import itertools
import json
import re
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import TYPE_CHECKING, Any, TypeVar

from hypothesis import given
from hypothesis import strategies as st

from twinlens.shared.errors import BadFilter
from twinlens.shared.filters.fields import OwnField, fields_of
from twinlens.shared.filters.language import parse_filter
from twinlens.shared.filters.tree import (
    AllOf,
    AnyOf,
    Compare,
    Contains,
    Exists,
    Filter,
    Not,
    OneOf,
    matches,
    push_down,
)
from twinlens.shared.messages import Image
from twinlens.shared.values import exact
from twinlens.workers.milvus.expressions import to_stored

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from twinlens.shared.filters.fields import Field, Fields
    from twinlens.shared.filters.tree import Operator
    from twinlens.shared.values import Scalar

Ordered = TypeVar("Ordered", float, str, Decimal)

SIGNS = st.sampled_from(["==", "!=", "<", "<=", ">", ">="])
texts = st.text(st.characters(codec="utf-8"), max_size=8)
floats = st.floats(allow_nan=False, allow_infinity=False)
numbers = st.integers() | floats
# Few of them, so that fields and values meet.
fields = st.sampled_from(["a", "b_2", "北京", "", "a.b", "not", "`\\\n"])
words = st.sampled_from(["", "red", 'say "no"', "it's", "\\", "😀"])
amounts = st.sampled_from([0, 1, 1.0, -1, -1.5, -1.55, 2**53, 2**53 + 1, 1e23])
metadata = st.dictionaries(
    fields, words | amounts | st.booleans() | st.lists(words, max_size=3), max_size=6
)
sizes = st.integers(1, 3)
EPOCH = datetime.fromtimestamp(0, UTC)
unix_ms = st.integers(-(10**13), 10**13)
images = st.builds(
    Image,
    id=st.just("0" * 64),
    name=words | texts,
    library=st.just("default"),
    width=sizes,
    height=sizes,
    format=words,
    bytes=sizes,
    metadata=metadata,
    models=st.just([]),
    added_at=unix_ms.map(lambda ms: EPOCH + timedelta(milliseconds=ms)),
)
everything = images.map(fields_of)
moments = st.builds(
    lambda whole_s, fraction: Decimal(f"{whole_s}{fraction}"),
    st.integers(0, 10**10),
    st.from_regex(r"(\.[0-9]{1,12})?", fullmatch=True),
)


def lists_of(values: st.SearchStrategy[Scalar]) -> st.SearchStrategy[tuple[Scalar, ...]]:
    return st.lists(values, min_size=1, max_size=3).map(tuple)


def comparisons_of(
    named: st.SearchStrategy[Field], values: st.SearchStrategy[Scalar]
) -> st.SearchStrategy[Filter]:
    return st.one_of(
        st.builds(Compare, named, SIGNS, values),
        st.builds(OneOf, named, lists_of(values), st.booleans()),
    )


comparisons = st.one_of(
    comparisons_of(fields, words | texts),
    comparisons_of(fields, amounts | numbers),
    st.builds(Compare, fields, st.sampled_from(["==", "!="]), st.booleans()),
    st.builds(OneOf, fields, lists_of(st.booleans()), st.booleans()),
    st.builds(Contains, fields, words | texts),
    st.builds(Exists, fields | st.sampled_from(OwnField)),
    comparisons_of(st.sampled_from([OwnField.NAME, OwnField.FORMAT]), words | texts),
    comparisons_of(
        st.sampled_from([OwnField.WIDTH, OwnField.HEIGHT, OwnField.BYTES]), sizes | numbers
    ),
    comparisons_of(st.just(OwnField.ADDED_AT), moments),
)
filters: st.SearchStrategy[Filter] = st.recursive(
    comparisons,
    lambda parts: st.one_of(
        st.builds(AllOf, st.lists(parts, min_size=2, max_size=3).map(tuple)),
        st.builds(AnyOf, st.lists(parts, min_size=2, max_size=3).map(tuple)),
        st.builds(Not, parts),
    ),
    max_leaves=8,
)
PIECES = "and or not in contains exists true ( ) [ ] , == < a `b` ' \" ` \\ 1 -2.5e3 1e999 \ud800 é"
pieces = st.sampled_from([" ", *PIECES.split()])


def written(wanted: Filter, quote: str, gap: str) -> str:
    """Returns a filter's text, with this quote and this white space."""

    def inner(part: Filter) -> str:
        return f"({gap}{written(part, quote, gap)}{gap})"

    def words(field: Field, *others: str) -> str:
        name = field.value if isinstance(field, OwnField) else quoted(field, "`")
        return gap.join([name, *others])

    match wanted:
        case AllOf(parts) | AnyOf(parts):
            word = "and" if isinstance(wanted, AllOf) else "or"
            return f"{gap}{word}{gap}".join(map(inner, parts))
        case Not(part):
            return f"not{gap}{inner(part)}"
        case Exists(field):
            return f"exists{gap}{words(field)}"
        case Contains(field, text):
            return words(field, "contains", quoted(text, quote))
        case OneOf(field, values, negated):
            listed = f"[{','.join(literal(value, quote) for value in values)}]"
            return words(field, *["not"][: int(negated)], "in", listed)
        case Compare(field, sign, value):
            return words(field, sign, literal(value, quote))


def literal(value: Scalar, quote: str) -> str:
    if isinstance(value, Decimal):
        return quoted(rfc_3339(value), quote)
    return quoted(value, quote) if isinstance(value, str) else json.dumps(value)


def rfc_3339(moment: Decimal) -> str:
    whole, _, fraction = f"{moment:f}".partition(".")
    day = EPOCH + timedelta(seconds=int(whole))
    return f"{day:%Y-%m-%dT%H:%M:%S}{fraction and '.'}{fraction}Z"


def quoted(text: str, quote: str) -> str:
    return quote + text.replace("\\", "\\\\").replace(quote, f"\\{quote}") + quote


@given(filters, st.sampled_from("\"'"), st.sampled_from([" ", "\n", " \t\r\n"]))
def test_a_written_filter_is_read_as_the_same(wanted: Filter, quote: str, gap: str) -> None:
    assert repr(parse_filter(written(wanted, quote, gap))) == repr(wanted)


@given(st.text(max_size=60) | st.lists(pieces, max_size=40).map("".join))
def test_any_text_is_a_filter_or_refused(text: str) -> None:
    try:
        wanted = parse_filter(text)
    except BadFilter as error:
        detail = error.detail
    else:
        assert matches(wanted, {}) is matches(push_down(wanted), {})
        return
    assert re.match(r"At (the end|character \d+): ", detail)
    assert len(detail) < 300
    detail.encode()


@given(filters, everything)
def test_a_filter_without_not_is_true_of_the_same(wanted: Filter, values: Fields) -> None:
    pushed = push_down(wanted)
    assert "Not(" not in repr(pushed)
    assert matches(pushed, values) is matches(wanted, values)
    assert push_down(Not(Not(wanted))) == pushed


@given(filters, everything)
def test_nothing_is_true_together_with_its_negation(wanted: Filter, values: Fields) -> None:
    assert not (matches(wanted, values) and matches(Not(wanted), values))


@given(st.lists(filters, min_size=2, max_size=3).map(tuple), everything)
def test_not_goes_into_and_and_or(parts: tuple[Filter, ...], values: Fields) -> None:
    each = [matches(Not(part), values) for part in parts]
    assert matches(Not(AllOf(parts)), values) is any(each)
    assert matches(Not(AnyOf(parts)), values) is all(each)


@given(SIGNS, words, words)
def test_a_comparison_with_what_is_there_is_true_or_its_negation_is(
    sign: Operator, here: str, there: str
) -> None:
    wanted = Compare("a", sign, here)
    assert matches(wanted, {"a": there}) is not matches(Not(wanted), {"a": there})


@given(st.lists(numbers | amounts, min_size=2, max_size=6))
def test_stored_numbers_are_in_the_order_of_the_numbers(values: list[float]) -> None:
    assert_same_order(values, exact, "n")


@given(st.lists(texts | words, min_size=2, max_size=6))
def test_stored_strings_are_in_the_order_of_the_strings(values: list[str]) -> None:
    assert_same_order(values, str, "s")
    assert_same_order(values, str, "s", OwnField.NAME)


@given(st.lists(moments, min_size=2, max_size=6))
def test_stored_moments_are_in_the_order_of_the_moments(values: list[Decimal]) -> None:
    assert_same_order(values, exact, "t", OwnField.ADDED_AT)


def assert_same_order(
    values: Sequence[Ordered], key: Callable[[Ordered], Any], kind: str, field: Field = "a"
) -> None:
    def code(value: Ordered) -> Any:
        [stored] = to_stored({field: value}).values()
        return stored[kind]

    codes = {repr(value): code(value) for value in values}
    for one, other in itertools.product(values, repeat=2):
        assert (key(one) < key(other)) is (codes[repr(one)] < codes[repr(other)])
        assert (key(one) == key(other)) is (codes[repr(one)] == codes[repr(other)])
