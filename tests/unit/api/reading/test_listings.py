"""Listings: what a line may say, and what becomes of one that says something else."""

from __future__ import annotations

import codecs
import json
from typing import Any

import pytest

from twinlens.api.reading.listings import MAX_ERRORS, MAX_LINE_BYTES, listing_entries
from twinlens.api.reading.uploads import MAX_METADATA_BYTES, Entry
from twinlens.shared.errors import PayloadTooLarge

GOOD = b'{"uri": "file:///photos/cat.jpg"}'


def read(*lines: bytes, max_items: int = 100) -> list[Entry]:
    return list(listing_entries([b"\n".join(lines)], max_items))


def refusal_of(line: bytes) -> str:
    """Returns why a line is refused, after seeing that the one behind it is not."""
    entry, after = read(line, GOOD)
    assert after == Entry("cat.jpg", uri="file:///photos/cat.jpg")
    assert entry.error is not None
    assert (entry.name, entry.uri, entry.content) == ("line 1", None, b"")
    assert entry.error.type == "urn:twinlens:problem:validation-failed"
    assert entry.error.detail.startswith("Line 1: ")
    return entry.error.detail.removeprefix("Line 1: ")


def line_of(**fields: Any) -> bytes:
    return json.dumps({"uri": "file:///photos/cat.jpg"} | fields).encode()


def test_a_line_says_where_its_picture_is() -> None:
    line = line_of(
        uri="https://example.com/a/b.jpg?size=2", name="Cat", metadata={"year": 2020, "of": ["x"]}
    )
    assert read(line) == [
        Entry(
            "Cat",
            metadata={"year": 2020, "of": ["x"]},
            uri="https://example.com/a/b.jpg?size=2",
        )
    ]


def test_a_byte_order_mark_is_skipped_also_of_listings_that_were_joined() -> None:
    marked = codecs.BOM_UTF8 + line_of(name="a.jpg")
    entries = read(marked, codecs.BOM_UTF8, line_of(name="b.jpg"), marked)
    assert [one.error for one in entries] == [None] * 3
    assert [one.name for one in entries] == ["a.jpg", "b.jpg", "a.jpg"]


@pytest.mark.parametrize(
    ("fields", "name"),
    [
        ({"uri": "file:///photos/my%20cat.jpg"}, "my cat.jpg"),
        ({"uri": "file://localhost/photos/c%C3%A4t.jpg"}, "cät.jpg"),
        ({"uri": "https://example.com/cat.jpg?v=a/b"}, "cat.jpg"),
        ({"uri": "https://example.com/?v=2"}, "line 1"),
        ({"uri": "https://example.com/%2e%2e%2f%0apasswd"}, "passwd"),
        ({"name": "../../etc/pass\nwd"}, "etc/passwd"),
        ({"name": "/"}, "cat.jpg"),
    ],
)
def test_a_name_is_given_or_the_last_part_of_the_path(fields: dict[str, str], name: str) -> None:
    (entry,) = read(line_of(**fields))
    assert (entry.name, entry.error) == (name, None)


@pytest.mark.parametrize(
    ("uri", "reason"),
    [
        ("s3://bucket/cat.jpg", "s3: is not supported yet"),
        ("http://example.com/cat.jpg", "Only file: and https: are supported"),
        ("/photos/cat.jpg", "Only file: and https: are supported"),
        ("C:\\photos\\cat.jpg", "Only file: and https: are supported"),
        ("", "Only file: and https: are supported"),
        ("file:photos/cat.jpg", "has an absolute path and no host"),
        ("file://server/photos/cat.jpg", "has an absolute path and no host"),
        ("file://", "has an absolute path and no host"),
        ("file:///photos/", "names a folder"),
        ("file:///photos/cat.jpg?", "has no query"),
        ("file:///photos/cat.jpg#", "neither credentials nor a fragment"),
        ("https://example.com/cat.jpg#top", "neither credentials nor a fragment"),
        ("https://me@example.com/cat.jpg", "neither credentials nor a fragment"),
        ("https://me:secret@example.com/cat.jpg", "neither credentials nor a fragment"),
        ("https://example.com\\@evil.example/cat.jpg", "neither credentials nor a fragment"),
        ("https://example.com", "has a host and a path"),
        ("https:///cat.jpg", "has a host and a path"),
        ("https://:443/cat.jpg", "has a host and a path"),
        ("https://[example.com/cat.jpg", "cannot be read"),
        ("https://example.com:x/cat.jpg", "cannot be read"),
        ("https://example.com:99999/cat.jpg", "cannot be read"),
        ("file:///photos/my cat.jpg", "write a space as %20"),
        ("file:///photos/ca\tt.jpg", "control characters"),
        (" https://example.com/cat.jpg", "spaces or control characters"),
        ("https://example.com/\x9b2Jcat.jpg", "spaces or control characters"),
        ("https://example.com/\u202egpj.cat", "spaces or control characters"),
    ],
)
def test_a_uri_that_is_not_taken_says_why(uri: str, reason: str) -> None:
    assert reason in refusal_of(line_of(uri=uri))


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        (b"cat.jpg", "not JSON"),
        (b"{", "not JSON"),
        (b'{"uri": "file:///photos/c\xe4t.jpg"}', "not JSON in UTF-8"),
        (b'"file:///photos/cat.jpg"', "line: "),
        (b"{}", "/uri: Field required."),
        (b'{"uri": 5}', "/uri: "),
        (line_of(name=None), "/name: "),
        (line_of(colour="red"), "/colour: Extra inputs are not permitted."),
        (line_of(**{"co\x1b[2J\nlour": "red"}), "/co[2J lour: Extra inputs"),
        (line_of(metadata=[]), "/metadata: "),
        (line_of(metadata={"of": {"a": 1}}), "metadata is not valid"),
        (line_of(metadata={"n": float("nan")}), "metadata is not valid"),
        (line_of(metadata={"n": None}), "metadata is not valid"),
        (line_of(metadata={"n": "x" * MAX_METADATA_BYTES}), f"more than {MAX_METADATA_BYTES}"),
        (line_of() + b" " * MAX_LINE_BYTES, f"more than {MAX_LINE_BYTES} bytes"),
        (b" " * (MAX_LINE_BYTES + 1), f"more than {MAX_LINE_BYTES} bytes"),
    ],
)
def test_a_line_that_is_not_taken_says_why(line: bytes, reason: str) -> None:
    assert reason in refusal_of(line)


def test_the_longest_line_and_metadata_are_taken() -> None:
    longest = MAX_METADATA_BYTES - len('{"n":""}')
    line = line_of(metadata={"n": "x" * longest})
    (entry,) = read(line + b" " * (MAX_LINE_BYTES - len(line)))
    assert entry.metadata == {"n": "x" * longest}
    assert entry.error is None


def test_metadata_is_measured_in_bytes() -> None:
    assert "metadata has more" in refusal_of(line_of(metadata={"n": "ä" * 9000}))


def test_blank_lines_are_passed_over_and_still_counted() -> None:
    entries = read(b"", b" \t\r", GOOD + b"\r", b"", b"x", b"")
    assert [entry.name for entry in entries] == ["cat.jpg", "line 5"]


def test_a_line_of_many_bad_fields_does_not_keep_them_all() -> None:
    (entry,) = read(line_of(**{f"field{n}": 1 for n in range(1000)}))
    assert entry.error is not None
    assert len(entry.error.errors) == MAX_ERRORS


@pytest.mark.parametrize("line", [GOOD, b"x"])
def test_more_lines_than_allowed_are_refused(line: bytes) -> None:
    assert len(read(line, line, b"", max_items=2)) == 2
    with pytest.raises(PayloadTooLarge):
        read(line, line, line, max_items=2)


def test_lines_are_given_as_they_arrive() -> None:
    def body() -> Any:
        yield GOOD + b"\n" + GOOD[:5]
        pytest.fail("The second piece was read before the first line was given.")

    assert next(listing_entries(body(), 10)).name == "cat.jpg"
