from __future__ import annotations

import doctest

import pytest

from twinlens.api import answers, probe
from twinlens.api.answers import page_by_name, wait_of
from twinlens.api.probe import address_of
from twinlens.api.reading import uploads
from twinlens.shared.errors import ValidationFailed


@pytest.mark.parametrize("module", [answers, probe])
def test_examples(module: object) -> None:
    result = doctest.testmod(module)  # type: ignore[arg-type]
    assert result.attempted > 0
    assert result.failed == 0


@pytest.mark.parametrize(
    ("prefer", "seconds"),
    [
        (None, None),
        ("", None),
        ("wait=10", 10),
        ("Wait = 5", 5),
        ('wait="7"', 7),
        ("respond-async, wait=3", 3),
        ("wait=3; foo=bar, wait=9", 3),
        ("wait=0", 0),
        ("wait=600", 60),
        ("wait=99999999999999999999", None),
        ("wait=-1", None),
        ("wait=1.5", None),
        ("wait=", None),
        ("wait", None),
        ("await=3", None),
        ("wait=٣", None),
    ],
)
def test_prefer_is_read_leniently(prefer: str | None, seconds: int | None) -> None:
    assert wait_of(prefer) == seconds


@pytest.mark.parametrize(
    ("uri", "address"),
    [
        ("http://127.0.0.1:1", ("127.0.0.1", 1)),
        ("http://user:pass@milvus/db", ("milvus", 19530)),
        ("https://cloud.example", ("cloud.example", 443)),
        ("milvus:5", ("milvus", 5)),
        ("http://[::1]:7", ("::1", 7)),
    ],
)
def test_milvus_addresses(uri: str, address: tuple[str, int]) -> None:
    assert address_of(uri) == address


def test_what_is_asked_of_a_body_is_read_in_large_pieces() -> None:
    # Gunicorn copies all that it holds with each smaller read.
    assert 2**19 <= uploads.BODY_BYTES <= 2**24
    assert 2**12 <= uploads.READ_BYTES <= 2**20


def test_pages_by_name_cover_all_once() -> None:
    named = [(name, name.upper()) for name in "abcde"]
    for limit in range(1, 7):
        seen: list[str] = []
        cursor: str | None = None
        while True:
            page, cursor = page_by_name(named, limit, cursor)
            seen += page
            if cursor is None:
                break
        assert seen == list("ABCDE")


@pytest.mark.parametrize("cursor", ["", "!", "é", "aW5mOng=", "AAAA"])
def test_a_foreign_cursor_is_refused(cursor: str) -> None:
    with pytest.raises(ValidationFailed) as caught:
        page_by_name([("a", 1)], 1, cursor)
    assert caught.value.errors[0].location == "query:cursor"
