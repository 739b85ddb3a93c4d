"""The filter language: what is written, what it means, and what is said of mistakes."""

from __future__ import annotations

import re
from decimal import Decimal

import pytest

from twinlens.shared.errors import BadFilter
from twinlens.shared.filters.fields import Field, Fields, OwnField, fields_of, read_moment
from twinlens.shared.filters.language import MAX_CHARS, MAX_DEPTH, parse_field, parse_filter
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
from twinlens.workers.milvus.expressions import to_milvus, to_stored

WIDTH, ADDED_AT = OwnField.WIDTH, OwnField.ADDED_AT
NOON = Decimal(1795867200)  # of 28 November 2026, as `date -d 2026-11-28T12:00Z +%s` says
A1, B2, C3 = (Compare(field, "==", value) for field, value in [("a", 1), ("b", 2), ("c", 3)])
LATER = Compare("added_at", ">", 3)
ROME: Fields = {"city": "Rome", "year": 2019, "score": 0.5, "is_draft": False, "tags": ["red"]}


OR_METADATA = "; for metadata of this name, write `%s` in backquotes"
NO_LIST = f"name is no list, and `contains` looks for an item of one{OR_METADATA % 'name'}"
A_MOMENT = (
    'added_at is compared with a date or a time, like "2026-11-28" or "2026-11-28T12:00:00Z"'
    + OR_METADATA % "added_at"
)


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
        ("width >= 1000", Compare(WIDTH, ">=", 1000)),
        ("`width` == 'big'", Compare("width", "==", "big")),
        ("Width == 'big'", Compare("Width", "==", "big")),
        ("format not in ['image/png']", OneOf(OwnField.FORMAT, ("image/png",), negated=True)),
        ("exists name or exists `name`", AnyOf((Exists(OwnField.NAME), Exists("name")))),
        ("added_at < '2026-11-28T12:00:00Z'", Compare(ADDED_AT, "<", NOON)),
        ("added_at in ['2026-11-28T13:00:00+01:00']", OneOf(ADDED_AT, (NOON,))),
        ("`added_at` > 3 and `name` contains 'x'", AllOf((LATER, Contains("name", "x")))),
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
        (
            'width == "big"',
            f"At character 1: width is compared with a number{OR_METADATA % 'width'}.",
        ),
        (
            "a == 1 and format > 2",
            f"At character 12: format is compared with a string{OR_METADATA % 'format'}.",
        ),
        (
            "bytes in [true]",
            f"At character 1: bytes is compared with a number{OR_METADATA % 'bytes'}.",
        ),
        ("added_at > 3", f"At character 1: {A_MOMENT}."),
        ('added_at > "yesterday"', f"At character 1: {A_MOMENT}."),
        ('not added_at in ["2026-11-28", "28.11.2026"]', f"At character 5: {A_MOMENT}."),
        (
            'name contains "cat"',
            f"At character 1: {NO_LIST}.",
        ),
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


IMAGE = Image(
    id="0" * 64,
    name="2026/cat.jpg",
    library="default",
    width=1024,
    height=768,
    format="image/jpeg",
    bytes=70_000,
    metadata={"width": "wide", "year": 2019},
    models=[],
    added_at="2026-11-28T12:00:00.25Z",
)


@pytest.mark.parametrize(
    "text",
    [
        "width == 1024.0 and height < 1024 and bytes in [1, 7e4]",
        '`width` == "wide" and not exists `height`',
        'name == "2026/cat.jpg" and name > "2026/" and name < "2026/d" and exists name',
        'format == "image/jpeg" and format not in ["image/png"]',
        "exists width and exists added_at and year == 2019",
        'added_at > "2026-11-28" and added_at < "2026-11-29" and added_at != "2026-11-28"',
        'added_at == "2026-11-28T12:00:00.250Z"',
        'added_at == "2026-11-28t21:00:00.25+09:00"',
        'added_at < "2026-11-28T12:00:00.25000000000000000000000000000000001Z"',
        'added_at > "2026-11-28 12:00:00.2499999999999999999999999999999999999Z"',
    ],
)
def test_what_is_true_of_what_is_the_images_own(text: str) -> None:
    assert matches(parse_filter(text), fields_of(IMAGE))


def test_an_image_that_was_sent_without_a_name_has_none() -> None:
    nameless = fields_of(IMAGE.model_copy(update={"name": ""}))
    assert matches(parse_filter("not exists name"), nameless)
    assert not matches(parse_filter('name == "" or name != "a"'), nameless)


@pytest.mark.parametrize(
    "written",
    [
        *("", "2026", "2026-11", "2026-13-01", "2026-02-29", "20261128", "2026-11-28T12:00"),
        *("2026-11-28T12:00:00", "2026-11-28T24:00:00Z", "2026-11-28T23:59:60Z", "1795867200"),
        *("2026-11-28Z", "2026-11-28T12:00:00+0100", "2026-11-28T12:00:00+01:60", " 2026-11-28"),
        *("2026-11-28T12:00:00.Z", "2026-11-28T12:00:00,5Z", "0000-01-01", "\uff12026-11-28"),
    ],
)
def test_what_is_no_date_or_time_is_refused(written: str) -> None:
    with pytest.raises(BadFilter, match=re.escape(A_MOMENT)):
        parse_filter(f'added_at < "{written}"')


@pytest.mark.parametrize(
    ("earlier", "later"),
    [
        ("0001-01-01T00:00:00+23:59", "9999-12-31T23:59:59-23:59"),
        ("1969-12-31T23:59:59.9Z", "1970-01-01"),
        ("1969-12-31T23:59:58.9Z", "1969-12-31T23:59:59.1Z"),
        ("2026-11-28T12:00:00.10Z", "2026-11-28T12:00:00.9Z"),
        ("2026-11-28T00:30:00+01:00", "2026-11-28"),
    ],
)
def test_dates_and_times_are_in_the_order_of_time(earlier: str, later: str) -> None:
    first, second = map(read_moment, (earlier, later))
    assert first is not None
    assert second is not None
    assert first < second


@pytest.mark.parametrize(
    ("text", "field"),
    [("city", "city"), ("`shot at`", "shot at"), ("`name`", "name"), (" name ", OwnField.NAME)],
)
def test_a_field_is_read_as_in_a_filter(text: str, field: Field) -> None:
    assert parse_field(text) == field


@pytest.mark.parametrize(
    ("text", "detail"),
    [
        ("", "At the end: expected a field."),
        ("shot at", "At character 6: expected the end, found 'at'."),
        ("in", "At character 1: expected a field, found 'in'."),
        ("a == 1", "At character 3: expected the end, found '=='."),
    ],
)
def test_what_is_no_field_is_told(text: str, detail: str) -> None:
    with pytest.raises(BadFilter, match=f"^{re.escape(detail)}$"):
        parse_field(text)


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


def test_fields_are_stored_as_filters_need_them() -> None:
    assert to_stored({}) == {}
    assert to_stored({"city": "Rome", "year": 2019, "tags": ["red"], "": False}) == {
        "Y2l0eQ": {"k": 1, "s": "526f6d65"},
        "eWVhcg": {"k": 1, "n": "150032019"},
        "dGFncw": {"k": 1, "l": 1, "e726564": 1},
        "=": {"k": 1, "b": "0"},
    }


def test_what_is_the_images_own_is_stored_beside_metadata_of_the_same_name() -> None:
    assert to_stored({WIDTH: 1024, "width": "wide", OwnField.FORMAT: "image/jpeg"}) == {
        "=width": {"k": 1, "n": "150031024"},
        "d2lkdGg": {"k": 1, "s": "77696465"},
        "=format": {"k": 1, "s": "D5MM2PR55TL70PB7"},
    }
