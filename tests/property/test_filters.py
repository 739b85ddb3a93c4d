"""What holds for every filter, however it is written and whatever the metadata."""

from __future__ import annotations

import itertools
import json
import re
from typing import TYPE_CHECKING, Any, TypeVar

from hypothesis import given
from hypothesis import strategies as st

from twinlens.shared.errors import BadFilter
from twinlens.shared.filters import (
    AllOf,
    AnyOf,
    Compare,
    Contains,
    Exists,
    Filter,
    Not,
    OneOf,
    exact,
    matches,
    parse_filter,
    push_down,
)
from twinlens.workers.milvus.expressions import to_stored

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from twinlens.shared.filters import Operator, Scalar
    from twinlens.shared.messages import Metadata

Ordered = TypeVar("Ordered", float, str)

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


def lists_of(values: st.SearchStrategy[Scalar]) -> st.SearchStrategy[tuple[Scalar, ...]]:
    return st.lists(values, min_size=1, max_size=3).map(tuple)


comparisons = st.one_of(
    st.builds(Compare, fields, SIGNS, words | texts | amounts | numbers),
    st.builds(Compare, fields, st.sampled_from(["==", "!="]), st.booleans()),
    st.builds(
        OneOf,
        fields,
        lists_of(words | texts) | lists_of(amounts | numbers) | lists_of(st.booleans()),
        st.booleans(),
    ),
    st.builds(Contains, fields, words | texts),
    st.builds(Exists, fields),
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

    def literal(value: Scalar) -> str:
        return quoted(value, quote) if isinstance(value, str) else json.dumps(value)

    def inner(part: Filter) -> str:
        return f"({gap}{written(part, quote, gap)}{gap})"

    def words(field: str, *others: str) -> str:
        return gap.join([quoted(field, "`"), *others])

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
            listed = f"[{','.join(map(literal, values))}]"
            return words(field, *["not"][: int(negated)], "in", listed)
        case Compare(field, sign, value):
            return words(field, sign, literal(value))


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


@given(filters, metadata)
def test_a_filter_without_not_is_true_of_the_same(wanted: Filter, values: Metadata) -> None:
    pushed = push_down(wanted)
    assert "Not(" not in repr(pushed)
    assert matches(pushed, values) is matches(wanted, values)
    assert push_down(Not(Not(wanted))) == pushed


@given(filters, metadata)
def test_nothing_is_true_together_with_its_negation(wanted: Filter, values: Metadata) -> None:
    assert not (matches(wanted, values) and matches(Not(wanted), values))


@given(st.lists(filters, min_size=2, max_size=3).map(tuple), metadata)
def test_not_goes_into_and_and_or(parts: tuple[Filter, ...], values: Metadata) -> None:
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


def assert_same_order(values: Sequence[Ordered], key: Callable[[Ordered], Any], kind: str) -> None:
    codes: dict[str, Any] = {repr(value): to_stored({"a": value})["YQ"][kind] for value in values}
    for one, other in itertools.product(values, repeat=2):
        assert (key(one) < key(other)) is (codes[repr(one)] < codes[repr(other)])
        assert (key(one) == key(other)) is (codes[repr(one)] == codes[repr(other)])
