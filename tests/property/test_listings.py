"""What holds for every listing, wherever its pieces end."""

from __future__ import annotations

import json
import tracemalloc
from itertools import pairwise
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

from hypothesis import given
from hypothesis import strategies as st

from twinlens.api.reading.listings import MAX_LINE_BYTES, listing_entries
from twinlens.shared.errors import TwinlensError
from twinlens.shared.names import MAX_NAME_CHARS, clean_text

if TYPE_CHECKING:
    from collections.abc import Iterator

texts = st.text(st.characters(codec="utf-8"), max_size=30)
plain_names = st.text(st.characters(codec="utf-8", categories=["L", "N"]), min_size=1, max_size=30)
metadata = st.dictionaries(
    texts,
    st.one_of(
        texts,
        st.booleans(),
        st.integers(),
        st.floats(allow_nan=False, allow_infinity=False),
        st.lists(texts, max_size=3),
    ),
    max_size=4,
)
uris = st.builds(
    lambda start, steps: start + "/".join(quote(step, safe="") for step in steps),
    st.sampled_from(["file:///", "https://example.com/", "https://example.com:8443/a/"]),
    st.lists(plain_names, min_size=1, max_size=3),
)
lines = st.fixed_dictionaries({"uri": uris, "name": plain_names, "metadata": metadata})
long_lines = st.builds(
    b'{"uri": "file:///cat.jpg"}'.ljust,
    st.integers(MAX_LINE_BYTES - 2, MAX_LINE_BYTES + 2),
)
any_lines = st.one_of(
    st.binary(max_size=40),
    long_lines,
    lines.map(lambda line: json.dumps(line).encode()),
    st.builds(
        lambda uri: json.dumps({"uri": uri}).encode(),
        st.one_of(texts, texts.map("https://".__add__), texts.map("file:///".__add__)),
    ),
)


def cut(data: bytes, ends: list[int]) -> Iterator[bytes]:
    places = sorted({0, len(data), *(end % (len(data) + 1) for end in ends)})
    return (data[a:b] for a, b in pairwise(places))


@given(st.lists(any_lines, max_size=6), st.lists(st.integers(0, 400_000), max_size=12))
def test_a_listing_is_the_same_wherever_its_pieces_end(raw: list[bytes], ends: list[int]) -> None:
    body = b"\n".join(raw)
    whole = list(listing_entries([body], 1000))
    assert list(listing_entries(cut(body, ends), 1000)) == whole
    if len(body) < 2000:
        assert list(listing_entries(cut(body, list(range(len(body)))), 1000)) == whole


@given(st.lists(any_lines, max_size=6), st.integers(0, 6))
def test_any_bytes_are_entries_or_refused(raw: list[bytes], max_items: int) -> None:
    try:
        entries = list(listing_entries([b"\n".join(raw)], max_items))
    except TwinlensError:
        return
    assert len(entries) <= max_items
    for entry in entries:
        assert (entry.uri is None) == (entry.error is not None)
        assert 0 < len(entry.name) <= MAX_NAME_CHARS
        entry.name.encode()


@given(st.lists(lines, max_size=6))
def test_what_is_listed_is_what_is_given(listed: list[dict[str, Any]]) -> None:
    body = "\n".join(json.dumps(line) for line in listed).encode()
    entries = list(listing_entries([body], 6))
    given_back = [{"uri": e.uri, "name": e.name, "metadata": e.metadata} for e in entries]
    assert given_back == [line | {"metadata": cleaned(line["metadata"])} for line in listed]


def cleaned(metadata: dict[str, Any]) -> dict[str, Any]:
    """Returns metadata as they are kept: each text printable."""

    def clean(value: Any) -> Any:
        if isinstance(value, list):
            return [clean_text(text) for text in value]
        return clean_text(value) if isinstance(value, str) else value

    return {clean_text(key): clean(value) for key, value in metadata.items()}


@given(uris)
def test_a_name_is_by_default_what_the_path_ends_with(uri: str) -> None:
    (entry,) = listing_entries([json.dumps({"uri": uri}).encode()], 1)
    assert quote(entry.name, safe="") == uri.rpartition("/")[2]


def test_a_line_without_end_takes_no_memory() -> None:
    body = (b"x" * 65_536 for _ in range(1000))
    tracemalloc.start()
    (entry,) = listing_entries(body, 10)
    peak_bytes = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert entry.error is not None
    assert peak_bytes < 8 * MAX_LINE_BYTES
