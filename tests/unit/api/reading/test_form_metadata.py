"""Metadata of the pictures of a bulk form: each part is of the file that follows it."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import httpx
import pytest
from hypothesis import given
from hypothesis import strategies as st

from twinlens.api.reading.uploads import MAX_METADATA_BYTES, Entry, form_entries
from twinlens.shared.errors import PayloadTooLarge, ValidationFailed

LIMIT = 100
Parts = list[tuple[str, Any]]

values = st.one_of(
    # Others are cleaned.
    st.text(st.characters(categories=["L", "N", "P", "S", "Zs"]), max_size=8),
    st.booleans(),
    st.integers(-(2**53), 2**53),
    st.lists(st.sampled_from(["cat", "dog"]), max_size=3),
)
pictures = st.tuples(
    st.binary(min_size=1, max_size=LIMIT),
    st.none() | st.dictionaries(st.sampled_from(["label", "year", "coco_id"]), values),
)


def file(name: str, content: bytes = b"x") -> tuple[str, Any]:
    return "files", (name, content)


def metadata(text: str) -> tuple[str, Any]:
    return "metadata", (None, text)


def read(parts: Parts, piece: int = 1000, max_items: int = 10) -> list[Entry]:
    request = httpx.Request("POST", "http://127.0.0.1", files=parts)
    body = request.read()
    pieces: Iterator[bytes] = (body[n : n + piece] for n in range(0, len(body), piece))
    return list(form_entries(request.headers["Content-Type"], pieces, max_items, LIMIT))


@given(st.lists(pictures, min_size=1, max_size=5), st.integers(1, 200))
def test_each_picture_has_its_own_metadata(
    given: list[tuple[bytes, dict[str, Any] | None]], piece: int
) -> None:
    parts: Parts = []
    for n, (content, said) in enumerate(given):
        parts += [metadata(json.dumps(said))] if said is not None else []
        parts.append(file(f"{n}.jpg", content))
    entries = [(entry.name, entry.content, entry.metadata) for entry in read(parts, piece)]
    wanted = [(f"{n}.jpg", content, said) for n, (content, said) in enumerate(given)]
    assert entries == wanted


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("{", "not valid"),
        ("", "not valid"),
        ("[]", "not valid"),
        ('{"a": {"b": 1}}', "not valid"),
        ('{"a": NaN}', "not valid"),
        (json.dumps({"a": "x" * MAX_METADATA_BYTES}), f"more than {MAX_METADATA_BYTES} bytes"),
    ],
)
def test_bad_metadata_refuse_their_picture_alone(text: str, words: str) -> None:
    bad, good = read([metadata(text), file("bad.jpg"), file("good.jpg")])
    assert bad.name == "bad.jpg"
    assert bad.error is not None
    assert (bad.error.status, bad.content, bad.metadata) == (422, b"", None)
    assert words in bad.error.detail
    assert (good.name, good.error, good.metadata) == ("good.jpg", None, None)


def test_a_byte_order_mark_before_metadata_is_skipped() -> None:
    [entry] = read([metadata('\ufeff{"a": 1}'), file("a.jpg")])
    assert (entry.error, entry.metadata) == (None, {"a": 1})


@pytest.mark.parametrize("text", ["{}", "{"])
@pytest.mark.parametrize("is_last", [False, True])
def test_metadata_of_no_picture_are_refused(text: str, is_last: bool) -> None:
    lone = [metadata(text)] if is_last else [metadata(text), metadata("{}"), file("b.jpg")]
    with pytest.raises(ValidationFailed, match="has no picture") as raised:
        read([file("a.jpg"), *lone])
    assert raised.value.errors[0].location == "form:metadata"


def test_an_empty_picture_keeps_its_own_reason() -> None:
    [entry] = read([metadata('{"a": 1}'), file("a.jpg", b"")])
    assert entry.error is not None
    assert entry.error.type.endswith("empty-picture")


def test_metadata_count_as_no_picture() -> None:
    pair = [metadata("{}"), file("a.jpg")]
    assert len(read(pair * 3, max_items=3)) == 3
    with pytest.raises(PayloadTooLarge, match="more than 3 pictures"):
        read(pair * 4, max_items=3)


def test_words_are_cleaned() -> None:
    said = {"\x1b[2Jna\nme": "by the\r\nsea \u202egpj", "tags": ["a\tb", "\x07"], "n": 1}
    [entry] = read([metadata(json.dumps(said)), file("a.jpg")])
    assert entry.metadata == {"[2Jna me": "by the sea gpj", "tags": ["a b", ""], "n": 1}


def test_a_key_that_is_refused_is_told_cleaned() -> None:
    [entry] = read([metadata('{"bad\\u001b[2J\\n": null}'), file("a.jpg")])
    assert entry.error is not None
    assert [error.location for error in entry.error.errors] == ["/metadata/bad[2J "]
