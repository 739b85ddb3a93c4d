"""What Milvus finds by an expression is what the filter is true of, whatever the image."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from decimal import Decimal
from itertools import product
from random import Random
from typing import TYPE_CHECKING, Any, NamedTuple, get_args

import pytest
from pymilvus import DataType, MilvusClient
from support.every_milvus import EVERY_MILVUS

from twinlens.shared.filters.fields import OwnField, fields_of
from twinlens.shared.filters.language import MAX_DEPTH, parse_filter
from twinlens.shared.filters.tree import (
    AllOf,
    AnyOf,
    Compare,
    Contains,
    Exists,
    Not,
    OneOf,
    Operator,
    matches,
)
from twinlens.shared.messages import Image
from twinlens.shared.names import MAX_NAME_CHARS
from twinlens.shared.values import Kind
from twinlens.workers.milvus.expressions import METADATA_FIELD, to_milvus, to_stored

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from twinlens.shared.filters.fields import Field, Fields
    from twinlens.shared.filters.tree import Filter
    from twinlens.shared.messages import Metadata
    from twinlens.shared.values import Scalar, Value

    Find = Callable[[Filter], set[int]]

NAME = "filters"
FIELDS: list[Field] = [
    *("city", "year", "", "a b", "a.b", 'a"b', "a\\b", "a/b", "a~1b", "北京", "k", "0", "\n`"),
    *("name", "width", "=", "=width"),
    *OwnField,
]
STRINGS = [
    *(
        "",
        "Paris",
        "paris",
        "Par",
        "Zürich",
        "北京",
        "😀",
        "\uffff",
        "e\u0301",
        "é",
        "\x00",
        "2020",
    ),
    *(
        'say "no"',
        "it's",
        "back\\slash",
        "\\n",
        "line\nbreak",
        "100%",
        "a_b",
        "true",
        '" or 1==1 #',
    ),
]
NUMBERS = [
    *(0, -0.0, 1, 1.0, -1, -1.5, -1.55, 2.5, 0.1, 0.1 + 0.2, 2020, 2020.5, 1e23, 10**23),
    *(2**53, 2**53 + 1, 2.0**53, 2**63 - 1, 2**63, -(2**64), 10**400, 1e308, 5e-324, -5e-324),
]
LISTS: list[list[str]] = [
    [],
    [""],
    ["Paris"],
    ["Paris", "paris"],
    ["100%", "北京"],
    ["a", "b", "a"],
    STRINGS,
]
SIZES = [1, 2, 640, 1024, 70_000]
MOMENTS = [
    *(Decimal(one) for one in ("0", "-1", "-1.5", "1795867200", "1795867200.25", "1795867200.3")),
    Decimal("1795867200.2500000000000000000000000000001"),
]
KINDS: list[list[Any]] = [STRINGS, NUMBERS, [True, False]]


def kinds_of(field: Field) -> list[list[Any]]:
    """Returns what a field may be compared with."""
    if not isinstance(field, OwnField):
        return KINDS
    by_kind: dict[Kind, list[Any]] = {
        Kind.STRING: STRINGS,
        Kind.NUMBER: SIZES,
        Kind.MOMENT: MOMENTS,
    }
    return [by_kind[field.kind]]


def rows() -> list[Fields]:
    random = Random(1)

    def value(field: Field) -> Value:
        lists = [] if isinstance(field, OwnField) else [LISTS]
        chosen: Value = random.choice(random.choice([*kinds_of(field), *lists]))
        return chosen

    # Images that were written before they had fields of their own lack some of them.
    return [{}] + [{f: value(f) for f in FIELDS if random.random() < 0.6} for _ in range(40)]


ROWS = rows()
MAX_METADATA_BYTES = 16 * 1024
# What becomes longest: the shortest fields that there are, each with the shortest value.
KEYS = [*map(chr, range(32, 127)), *map("".join, product(map(chr, range(32, 127)), repeat=2))]
MOST = ["", *(key for key in KEYS if not {'"', "\\"} & set(key))]


def largest(**own: Any) -> Fields:
    """Returns what is stored of an image that has the most of everything, whatever its metadata."""
    return fields_of(
        Image(
            id="0" * 64,
            name="\U0010ffff" * MAX_NAME_CHARS,
            library="default",
            width=99_999_999,
            height=99_999_999,
            format="image/jpeg",
            bytes=10**15 - 1,
            models=[],
            added_at=datetime(9999, 12, 31, 23, 59, 59, 999_000, UTC),
            **own,
        )
    )


BIG_METADATA: list[Metadata] = [
    dict.fromkeys(MOST[:2_354], 1),
    {"city": "x" * 16_373},
    {"city": "北" * 5_457},
    {"x" * 16_378: 1},
    {"city": int("9" * 4_300)},
    {"city": [f"{n:x}" for n in range(2_774)]},
]
BIG = [largest(metadata=metadata) for metadata in BIG_METADATA]


class Server(NamedTuple):
    uri: str
    has_exists: bool


@pytest.fixture(scope="module", params=EVERY_MILVUS)
def server(request: pytest.FixtureRequest) -> Server:
    has_exists = request.param == "standalone_uri"
    return Server(request.getfixturevalue(request.param), has_exists)


@pytest.fixture(scope="module")
def find(server: Server) -> Iterator[Find]:
    """What finds the places in ROWS and BIG of the images that a filter is true of."""
    client = MilvusClient(uri=server.uri, timeout=30)
    schema = client.create_schema(auto_id=False, enable_dynamic_field=False)
    schema.add_field("id", DataType.INT64, is_primary=True)
    schema.add_field("embedding", DataType.FLOAT_VECTOR, dim=2)
    schema.add_field(METADATA_FIELD, DataType.JSON)
    index = client.prepare_index_params()
    index.add_index("embedding", index_type="FLAT", metric_type="L2")
    client.create_collection(
        NAME, schema=schema, index_params=index, consistency_level="Eventually", timeout=30
    )
    client.upsert(
        NAME,
        [
            {"id": i, "embedding": [0.0, 1.0], METADATA_FIELD: to_stored(fields)}
            for i, fields in enumerate(ROWS + BIG)
        ],
        timeout=30,
    )
    # From then on all rows are there, and reads need not wait 200 ms each, as on the real server.
    client.query(NAME, output_fields=["count(*)"], consistency_level="Strong", timeout=30)

    def places_of(wanted: Filter) -> set[int]:
        expression = to_milvus(wanted, has_exists=server.has_exists)
        return {
            row["id"]
            for row in client.query(NAME, filter=expression, output_fields=["id"], timeout=30)
        }

    yield places_of
    client.drop_collection(NAME, timeout=30)
    client.close()


def expected(wanted: Filter) -> set[int]:
    return {i for i, fields in enumerate(ROWS + BIG) if matches(wanted, fields)}


def literals_of(random: Random, field: Field) -> list[Scalar]:
    """Returns values of one kind, which the field of some images has."""
    kind = random.choice(kinds_of(field))
    there: list[Any] = [v for row in ROWS if type(v := row.get(field)) in {type(k) for k in kind}]
    return [v for v in there if not isinstance(v, list)] + [random.choice(kind)]


def comparison(random: Random) -> Filter:
    field: Field = random.choice([*FIELDS, *OwnField, "nowhere"])
    literals = literals_of(random, field)
    negated = random.random() < 0.5
    match random.randrange(6):
        case 0:
            return Exists(field, negated)
        case 1:
            return Contains(field, random.choice(STRINGS), negated)
        case 2:
            return OneOf(field, tuple(random.choices(literals, k=random.randint(1, 4))), negated)
        case _:
            return Compare(field, random.choice(get_args(Operator)), random.choice(literals))


def generated(random: Random, depth: int) -> Filter:
    if depth == 0 or random.random() < 0.2:
        return comparison(random)
    parts = tuple(generated(random, depth - 1) for _ in range(random.randint(2, 3)))
    wider: list[Filter] = [AllOf(parts), AnyOf(parts), Not(AllOf(parts)), Not(parts[0])]
    return random.choice(wider)


@pytest.mark.parametrize("field", FIELDS)
@pytest.mark.parametrize("kind", range(len(KINDS)))
def test_every_value_is_found_in_its_order(find: Find, field: Field, kind: int) -> None:
    there = [v for row in ROWS if (v := row.get(field)) is not None and not isinstance(v, list)]
    for values in kinds_of(field)[kind : kind + 1]:
        for value in [v for v in values if v in there][:3]:
            for sign in ("==", "<", ">", "!="):
                wanted = Compare(field, sign, value)
                assert find(wanted) == expected(wanted), wanted


@pytest.mark.parametrize("field", [*FIELDS, "nowhere"])
def test_what_is_absent_is_not_there_and_nothing_else(find: Find, field: Field) -> None:
    for wanted in (Exists(field), Exists(field, negated=True)):
        assert find(wanted) == expected(wanted)


def test_every_item_of_a_list_is_found(find: Find) -> None:
    for text in STRINGS:
        for negated in (False, True):
            wanted = Contains("city", text, negated)
            assert find(wanted) == expected(wanted), wanted


@pytest.mark.parametrize("seed", range(6))
def test_any_filter_finds_what_it_is_true_of(find: Find, seed: int) -> None:
    random = Random(seed)
    n_telling = 0
    for _ in range(60):
        wanted = generated(random, 3)
        truth = expected(wanted)
        assert find(wanted) == truth, wanted
        n_telling += 0 < len(truth) < len(ROWS)
    assert n_telling > 30


def test_images_with_the_longest_name_and_the_largest_metadata_are_found(find: Find) -> None:
    for i, metadata in enumerate(BIG_METADATA, start=len(ROWS)):
        written = json.dumps(metadata, ensure_ascii=False, separators=(",", ":"))
        assert len(written.encode()) > MAX_METADATA_BYTES - 8 or i == len(ROWS) + 4
        field, value = next(iter(metadata.items()))
        wanted = (
            Contains(field, value[-1]) if isinstance(value, list) else Compare(field, "==", value)
        )
        assert find(wanted) == {i}
    assert find(Not(Exists("nowhere"))) == set(range(len(ROWS + BIG)))
    name = BIG[0][OwnField.NAME]
    assert isinstance(name, str)
    assert find(Compare(OwnField.NAME, "==", name)) == set(range(len(ROWS), len(ROWS + BIG)))


def test_the_longest_and_deepest_filters_are_taken(find: Find) -> None:
    broad = parse_filter(" or ".join(f"k=={n}" for n in range(2018, 2380)))
    assert find(broad) == expected(broad)
    text = "k!=1"
    for level in range(MAX_DEPTH - 1):
        word = ("and", "or")[level % 2]
        text = f"({f' {word} '.join([text] + ['k!=2'] * 22)})"
    deep = parse_filter(f"not {text}")
    assert find(deep) == expected(deep)
    fine = parse_filter(f'added_at > "2026-11-28T12:00:00.24{"9" * 4000}Z"')
    assert find(fine) == expected(fine)
