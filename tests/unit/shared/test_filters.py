"""The filter language: what is written, what it means, and what is said of mistakes."""

from __future__ import annotations

import re

import pytest

from twinlens.shared.errors import BadFilter
from twinlens.shared.filters import (
    MAX_CHARS,
    MAX_DEPTH,
    AllOf,
    AnyOf,
    Compare,
    Contains,
    Exists,
    Filter,
    Not,
    OneOf,
    matches,
    parse_filter,
    push_down,
)
from twinlens.shared.messages import Metadata
from twinlens.workers.milvus.expressions import to_milvus, to_stored

A1, B2, C3 = (Compare(field, "==", value) for field, value in [("a", 1), ("b", 2), ("c", 3)])
ROME: Metadata = {"city": "Rome", "year": 2019, "score": 0.5, "is_draft": False, "tags": ["red"]}


@pytest.mark.parametrize(
    ("text", "tree"),
    [
        ('city == "Paris"', Compare("city", "==", "Paris")),
        ("city != 'Paris'", Compare("city", "!=", "Paris")),
        ("year>=-2.5e3", Compare("year", ">=", -2500.0)),
        ("is_draft == true", Compare("is_draft", "==", True)),
        ("n == 9007199254740993", Compare("n", "==", 2**53 + 1)),
        ("year in [1, 2.5]", OneOf("year", (1, 2.5))),
        ('city not in ["a"]', OneOf("city", ("a",), negated=True)),
        ('tags contains "red"', Contains("tags", "red")),
        ("exists city", Exists("city")),
        ("a==1 and b==2 and c==3", AllOf((A1, B2, C3))),
        ("a==1 or b==2 and c==3", AnyOf((A1, AllOf((B2, C3))))),
        ("(a==1 or b==2) and c==3", AllOf((AnyOf((A1, B2)), C3))),
        ("not a==1 and b==2", AllOf((Not(A1), B2))),
        ("not (a==1 and b==2)", Not(AllOf((A1, B2)))),
        ("not not exists a", Not(Not(Exists("a")))),
        ("((a\n==\t1))", A1),
        ("城市 == 1", Compare("城市", "==", 1)),
        ("andy == 1", Compare("andy", "==", 1)),
        ("`and` == 1", Compare("and", "==", 1)),
        ("`` == 1", Compare("", "==", 1)),
        (r"`shot at.\`x\`` == 1", Compare("shot at.`x`", "==", 1)),
        (r'a == "\"\\\/\b\f\n\r\t\u00e9\ud83d\ude00"', Compare("a", "==", '"\\/\b\f\n\r\té😀')),
        (r"""a == 'it\'s "so"'""", Compare("a", "==", 'it\'s "so"')),
        ('a == "two\nlines"', Compare("a", "==", "two\nlines")),
    ],
)
def test_what_is_written_is_read(text: str, tree: Filter) -> None:
    assert repr(parse_filter(text)) == repr(tree)


@pytest.mark.parametrize(
    ("text", "detail"),
    [
        ("", "At the end: expected a field, `exists`, `not` or `(`."),
        ("city == ", "At the end: expected a string, a number or true or false."),
        (
            "city = 1",
            "At character 6: expected a comparison, `in`, `contains` or `not`, found '='.",
        ),
        ("and == 1", "At character 1: expected a field, `exists`, `not` or `(`, found 'and'."),
        ("a == 1 b", "At character 8: expected `and`, `or` or the end, found 'b'."),
        ("(a == 1", "At the end: expected `and`, `or` or `)`."),
        ("a == 1)", "At character 7: expected `and`, `or` or the end, found ')'."),
        ("a < true", "At character 5: expected a string or a number, found 'true'."),
        ('a in [1, "x"]', "At character 10: expected a number, found '\"x\"'."),
        ("a in []", "At character 7: expected a string, a number or true or false, found ']'."),
        ("a contains 1", "At character 12: expected a string, found '1'."),
        ("a not 1", "At character 7: expected `in`, found '1'."),
        ("a == NaN", "At character 6: expected a string, a number or true or false, found 'NaN'."),
        ("a == 1e999", "At character 6: the number is too large."),
        ('a == "x', "At character 6: the quote is never closed."),
        ("`a == 1", "At character 1: the quote is never closed."),
        (r'a == "x\q"', r"At character 8: there is no escape '\\q'."),
        (r'a == "\u12"', r"At character 7: there is no escape '\\u'."),
        (r'a == "\ud800"', "At character 6: half a surrogate pair is not a character."),
    ],
)
def test_a_mistake_is_told_with_its_place(text: str, detail: str) -> None:
    with pytest.raises(BadFilter, match=f"^{re.escape(detail)}$") as error:
        parse_filter(text)
    assert error.value.to_problem().status == 422


def test_a_filter_has_a_largest_length() -> None:
    longest = "a == 1".ljust(MAX_CHARS)
    assert parse_filter(longest) == A1
    with pytest.raises(BadFilter, match="at most 4,096 characters; this has 4,097"):
        parse_filter(longest + " ")


@pytest.mark.parametrize("bomb", ["not " * 1000, "(" * 4000, "not (" * 700, "(exists a and " * 250])
def test_a_bomb_is_refused(bomb: str) -> None:
    n_open = bomb.count("(")
    for text in (bomb, f"{bomb}a==1"[:MAX_CHARS], f"{bomb[:2000]}a==1{')' * n_open}"[:MAX_CHARS]):
        with pytest.raises(BadFilter):
            parse_filter(text)


def test_a_filter_has_a_largest_depth() -> None:
    assert parse_filter("not " * MAX_DEPTH + "a == 1")
    with pytest.raises(BadFilter, match="more than 16 levels"):
        parse_filter("not " * (MAX_DEPTH + 1) + "a == 1")
    assert parse_filter("(" * 2000 + "a == 1" + ")" * 2000) == A1


@pytest.mark.parametrize(
    "text",
    [
        'city == "Rome"',
        'city != "Paris"',
        'city > "Roma" and city < "Romf"',
        'city in ["Paris", "Rome"]',
        'city not in ["Paris"]',
        "year == 2019.0 and year > 2018.9",
        "score == 0.5 and score in [1, 5e-1]",
        "is_draft == false and is_draft != true",
        'tags contains "red"',
        'not tags contains "blue"',
        "exists city and exists tags",
        "not exists country",
        'not city == "Paris"',
        "not year < 2019",
        "not (exists country or year < 2000)",
        "not not exists city",
    ],
)
def test_what_is_true_of_an_image(text: str) -> None:
    assert matches(parse_filter(text), ROME)


@pytest.mark.parametrize(
    "text",
    [
        'country == "Italy"',
        'country != "Italy"',
        'country not in ["Italy"]',
        'not country == "Italy"',
        'not country contains "Italy"',
        "city == 1",
        "city != 1",
        'year != "2019"',
        'year >= ""',
        "year not in [true]",
        "is_draft == 0",
        "is_draft != 1",
        'tags == "red"',
        'tags != "blue"',
        'tags in ["red"]',
        'city contains "Rome"',
        'not city contains "x"',
        'not tags contains "red"',
        "not exists city",
        'city == "rome"',
    ],
)
def test_what_is_not_true_of_an_image(text: str) -> None:
    assert not matches(parse_filter(text), ROME)


@pytest.mark.parametrize(
    ("number", "other"),
    [(2**53 + 1, 2**53), (2**53 + 1, 2.0**53), (10**400, 10**400 + 1), (0.1, 0)],
)
def test_no_number_is_rounded(number: float, other: float) -> None:
    for a, b in ((number, other), (other, number)):
        assert matches(Compare("n", "!=", a), {"n": b})
        assert matches(Compare("n", "<", a), {"n": b}) is (a > b)
    assert matches(Compare("n", "==", number), {"n": number})


def test_strings_are_in_the_order_of_their_code_points() -> None:
    assert matches(Compare("a", ">", "\uffff"), {"a": "😀"})
    assert matches(Compare("a", "!=", "é"), {"a": "e\u0301"})


def test_not_is_pushed_down_to_the_comparisons() -> None:
    tree = parse_filter('not (a < 1 or not b in [2] and tags contains "x" or exists c)')
    assert push_down(tree) == AllOf(
        (
            Compare("a", ">=", 1),
            AnyOf((OneOf("b", (2,)), Contains("tags", "x", negated=True))),
            Exists("c", negated=True),
        )
    )


@pytest.mark.parametrize("evil", ['" or 1 == 1 or "', "\\", "\x00", "`", "'] or id > 0", "😀%_"])
@pytest.mark.parametrize("has_exists", [False, True])
def test_nothing_that_is_written_gets_into_an_expression(evil: str, has_exists: bool) -> None:
    tree = AllOf(
        (
            *(Compare(evil, sign, evil) for sign in ("==", "!=", ">=")),
            OneOf(evil, (evil,), negated=True),
            Contains(evil, evil, negated=True),
            Not(Exists(evil)),
        )
    )
    expression = to_milvus(tree, has_exists=has_exists)
    assert evil not in re.sub(r'"[\w=-]*"', "", expression)
    assert re.fullmatch(r'(?:[a-z()\[\] ]|[=<>!]{1,2}|1|"[\w=-]*")+', expression, re.ASCII)


def test_only_a_server_that_has_exists_is_asked_for_it() -> None:
    wanted = parse_filter("not exists city and not tags contains 'red'")
    assert "exists" not in to_milvus(wanted, has_exists=False)
    assert to_milvus(wanted, has_exists=True).count("(not (exists ") == 2


def test_metadata_are_stored_as_filters_need_them() -> None:
    assert to_stored({}) == {}
    assert to_stored({"city": "Rome", "year": 2019, "tags": ["red"], "": False}) == {
        "Y2l0eQ": {"k": 1, "s": "526f6d65"},
        "eWVhcg": {"k": 1, "n": "150032019"},
        "dGFncw": {"k": 1, "l": 1, "e726564": 1},
        "=": {"k": 1, "b": "0"},
    }
